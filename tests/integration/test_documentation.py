"""What the documentation tells a stranger to type, write and open is there and works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from edge_agent.cli import app as agent_app
from edge_agent.config import load_config
from edge_agent.demo.figures import Figures
from edge_agent.virtual.card_os import VirtualCard
from edge_agent.virtual.people import Doorway
from server.cli.root import app as server_app
from server.cli.site_yaml import read_yaml
from server.model.document import SiteDocument, apply
from tests.sample_site import open_site

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_a_document_names_is_there(document: Path) -> None:
    text = document.read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    paths = re.findall(r"`((?:docs|edge_agent|schemas|server|tests|requirements)/[\w./-]*)`", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_heading_a_document_points_to_is_there(document: Path) -> None:
    missing = []
    for file, heading in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", document.read_text()):
        target = document.parent / file if file else document
        titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
        if heading not in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}:
            missing.append(f"{file}#{heading}")
    assert missing == []


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert set(re.findall(r"^\| \[([\w-]+\.md)\]", index, re.MULTILINE)) == pages


def test_every_attacker_has_a_test_that_plays_them() -> None:
    table = (ROOT / "docs" / "security.md").read_text().split("| Shown by |")[1].split("\n\n")[0]
    rows = [
        row.strip("|").split(" | ") for row in table.splitlines() if row.startswith(("| W", "| A"))
    ]
    assert len(rows) > 10
    assert [row[0] for row in rows if not re.search(r"`tests/[\w/]+\.py`", row[3])] == []


def test_the_configuration_in_the_readme_is_good(tmp_path: Path) -> None:
    [text] = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "agent.toml").write_text(text)
    enrolling = {"site": "hq", "agent": "front-agent"}
    config = load_config(tmp_path / "agent.toml", {}, enrolling=enrolling)
    assert config.doors[0].door == "front"


async def test_the_site_in_the_readme_can_be_applied(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    document = SiteDocument.model_validate(read_yaml(text.encode()))
    async with open_site(tmp_path / "ostiary.db") as site:
        outcome = await apply(site.state, "test", document, prune=False, dry_run=False)
    assert {step.kind for step in outcome.steps} >= {"door", "person", "card", "rule"}


def test_the_figures_in_the_readme_are_those_of_the_demo() -> None:
    [text] = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    assert json.loads(text).keys() == set(Figures.__dataclass_fields__)


COMMANDS: dict[str, Any] = {
    "ostiary": get_command(server_app),
    "ostiary-agent": get_command(agent_app),
}


def _typed(document: Path) -> list[list[str]]:
    """The command lines of ours that a document tells to type."""
    lines = document.read_text().replace("\\\n", " ").splitlines()
    typed = []
    for line in lines:
        found = re.match(r"(?:    |\s*[$#] )((?:ostiary|ostiary-agent) [a-z].*)", line)
        if found:
            typed.append(shlex.split(found[1], comments=True))
    return typed


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_a_document_tells_to_type_is_there(document: Path) -> None:
    for words in _typed(document):
        command, rest = COMMANDS[words[0]], words[1:]
        while isinstance(command, TyperGroup):
            assert rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
        known = {text for parameter in command.params for text in parameter.opts}
        options = {word.partition("=")[0] for word in rest if re.match("--?[a-z]", word)}
        assert options <= known | {"--help"}, words


def test_there_are_commands_in_the_documents() -> None:
    assert sum(len(_typed(document)) for document in DOCUMENTS) > 40


def test_the_virtual_card_of_the_documentation_stays_long_enough_for_new_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (sample,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/agent.md").read_text(), re.DOTALL)
    stays = []

    async def tap(_self: Doorway, _card: VirtualCard, *, stays_s: float = 0.0) -> str:
        stays.append(stays_s)
        return "granted"

    async def here(self: Doorway) -> Doorway:
        return self

    monkeypatch.setattr(Doorway, "tap", tap)
    monkeypatch.setattr(Doorway, "__aenter__", here)
    monkeypatch.setattr(Doorway, "__aexit__", AsyncMock(return_value=None))
    monkeypatch.chdir(tmp_path)
    exec(compile(sample, "docs/agent.md", "exec"), {})
    assert stays == [0.5]
