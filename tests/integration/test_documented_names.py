"""The reference pages name everything of a kind that there is, and nothing that is not there."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from typer.core import TyperGroup
from typer.main import get_command

import schemas
import server.store
from edge_agent.inbox import CHANNELS, TO_EVERYONE
from schemas import topics
from schemas.statement import Statement
from server.api.permission import SCOPES
from server.broker.grants import UP_CHANNELS
from server.cli.root import app
from server.ingest.verify import AlarmKind
from server.store.tables import metadata

ROOT = Path(__file__).parents[2]
SOURCE = "\n".join(path.read_text() for path in (ROOT / "server").rglob("*.py"))


def rows(page: str, heading: str) -> list[str]:
    """The rows of the one table whose first column has this heading."""
    text = (ROOT / "docs" / page).read_text()
    [table] = re.findall(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.M)
    return table.splitlines()


def first_cell(row: str) -> str:
    return re.split(r"(?<!\\)\|", row)[1]


def names(row: str) -> list[str]:
    """What the first cell calls by name."""
    return re.findall(r"`([^`]+)`", first_cell(row))


def column(page: str, heading: str) -> set[str]:
    found = [name for row in rows(page, heading) for name in names(row)]
    assert len(found) == len(set(found))
    return set(found)


def import_all(package: ModuleType) -> None:
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        import_module(module.name)


def test_every_table_of_the_store() -> None:
    import_all(server.store)
    assert column("server.md", "Table") == set(metadata.tables)


def test_every_kind_of_alarm() -> None:
    kinds = set(AlarmKind) | set(re.findall(r'AlarmRaised\(\s*kind="(\w+)"', SOURCE))
    assert column("server.md", "`kind`") == kinds


def test_every_metric() -> None:
    made = re.findall(r'(?:Counter|Gauge|Histogram|Summary)\(\s*"(\w+)"', SOURCE)
    told = re.findall(r"`(\w+)(?:\{\w+\})?`", "\n".join(rows("server.md", "Of")))
    assert sorted(told) == sorted(made)


def test_every_scope_of_a_token() -> None:
    assert column("api.md", "Scope") == set(SCOPES)


def test_every_channel() -> None:
    told: dict[str, set[str]] = {"up": set(), "down": set(), "all": set()}
    for row in rows("protocol.md", "Topic"):
        first, *others = names(row)
        way, channel = re.fullmatch(r"ostiary/<site>/(\w+)(?:/<agent>)?/(\w+)", first).groups()
        told[way] |= {channel, *others}
    assert told == {"up": set(UP_CHANNELS), "down": set(CHANNELS), "all": set(TO_EVERYONE)}
    assert set().union(*told.values()) == {
        value for name, value in vars(topics).items() if name.isupper() and isinstance(value, str)
    }


def test_every_channel_that_an_agent_may_publish_on() -> None:
    [row] = [row for row in rows("broker.md", "Client") if row.startswith("| an agent ")]
    _, *told = re.findall(r"`([^`]+)`", row.split("|")[2])
    assert told == list(UP_CHANNELS)


def test_every_purpose_of_a_statement() -> None:
    import_all(schemas)
    kinds = {kind.model_fields["purpose"].default for kind in _below(Statement)}
    assert column("protocol.md", "Purpose") == kinds


def _below(kind: type[Statement]) -> Iterator[type[Statement]]:
    for each in kind.__subclasses__():
        if each.__module__.startswith("schemas."):
            yield each
        yield from _below(each)


def test_every_command() -> None:
    cells = map(first_cell, rows("server.md", "Command"))
    told = [re.findall(r"[a-z]+(?:-[a-z]+)*", cell) for cell in cells]
    for path in _commands(get_command(app)):
        assert any(words[:2] == ["ostiary", path[0]] and {*path} <= {*words} for words in told)


def _commands(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not isinstance(command, TyperGroup):
        yield path
        return
    for name, each in command.commands.items():
        yield from _commands(each, (*path, name))
