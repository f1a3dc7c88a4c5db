"""What may import what, held to by reading the imports: the rules of docs/architecture.md.

One direction between the packages, no input or output in the pure parts, no long file.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
MAX_LINES = 400

PACKAGES = {
    "schemas": {"schemas"},
    "edge_agent": {"schemas", "edge_agent"},
    "server": {"schemas", "server"},
}
"""Which of our packages a package may import. Agent and server share the language alone."""

PURE = {
    "schemas": {"schemas"},
    "edge_agent/core": {"schemas", "edge_agent.core"},
    "edge_agent/card": {"schemas", "edge_agent.core", "edge_agent.card"},
    "server/core": {
        "schemas",
        "server.core",
        "server.ingest.receipts",
        "server.ingest.verify",
    },
    "server/broker/grants.py": {"schemas"},
    "server/ingest/alarms.py": {"schemas", "server.ingest.verify"},
    "server/ingest/doors.py": {
        "schemas",
        "server.clock",
        "server.ingest.heads",
        "server.ingest.verify",
    },
    "server/ingest/heads.py": {"schemas", "server.ingest.verify"},
    "server/ingest/journal.py": {"schemas", "server.ingest.heads", "server.ingest.verify"},
    "server/ingest/receipts.py": {"schemas", "server.clock"},
    "server/ingest/verify.py": {"schemas"},
    "server/keys/home.py": {"schemas"},
    "server/keys/packages.py": {"schemas"},
    "server/feed/cursor.py": set(),
    "server/feed/cloudevents.py": {"server.clock", "server.feed.cursor", "server.store.events"},
}
"""What decides, verifies and speaks, and which of our own modules it may use for that."""

OUTSIDE = {
    "aiomqtt",
    "aiosqlite",
    "asyncio",
    "ctypes",
    "fcntl",
    "httpx",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "paho",
    "pathlib",
    "random",
    "secrets",
    "shutil",
    "signal",
    "socket",
    "sqlalchemy",
    "sqlite3",
    "sqlite_utils",
    "structlog",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
}
"""Modules that reach out of the process, or give what a test can't choose."""

BUILT_IN = {"open", "print", "input", "exec", "eval", "__import__"}
CLOCK = {"now", "utcnow", "today"}

ARGUED = {
    ("schemas/suites/sm2_openssl.py", "ctypes"): "calls libcrypto: arithmetic, and its own nonces",
    ("schemas/suites/sm2_gmssl.py", "secrets"): "a nonce must never come from a caller",
    ("schemas/wary_mqtt.py", "aiomqtt"): "limits a client that both sides have; opens none",
    ("schemas/wary_mqtt.py", "paho.mqtt.enums"): "the client's own errors",
    ("schemas/wary_mqtt.py", "logging"): "a logger that writes nothing",
    ("edge_agent/card/layout.py", "edge_agent.secure_element.port"): "the names of a slot's keys",
    ("edge_agent/card/script.py", "edge_agent.secure_element.port"): "the names of a slot's keys",
    ("edge_agent/card/application.py", "edge_agent.secure_element.port"): "names and a refusal",
    ("edge_agent/card/binding.py", "edge_agent.secure_element.port"): "the names of a slot's keys",
    ("edge_agent/card/session.py", "edge_agent.secure_element.port"): "carries requests to a port",
    ("edge_agent/card/session.py", "edge_agent.readers.port"): "carries commands to a port",
    ("edge_agent/card/session.py", "edge_agent.clock"): "is given a clock, to time the card",
}
"""(file, module) that a rule would forbid, and why it stands."""


def sources(place: str) -> list[Path]:
    path = HOUSE / place
    found = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert found, f"{place} is not there: correct the list"
    return found


def imports(file: Path) -> Iterator[str]:
    """Every module that is imported, wherever in the file; `from a import b` may give `a.b`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            module = node.module or ""
            for alias in node.names:
                below = f"{module}.{alias.name}"
                is_module = (HOUSE / below.replace(".", "/")).with_suffix(".py").exists()
                yield below if is_module else module


def within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def name_of(file: Path) -> str:
    return file.relative_to(HOUSE).as_posix()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_in_one_direction(package):
    others = {"schemas", "edge_agent", "server", "tests", "benchmarks"} - PACKAGES[package]
    wrong = [
        f"{name_of(file)} imports {module}"
        for file in sources(package)
        for module in imports(file)
        if within(module, others)
    ]
    assert not wrong


@pytest.mark.parametrize("place", PURE)
def test_pure_parts_reach_nothing_outside(place):
    ours = {"schemas", "edge_agent", "server"}
    wrong = [
        f"{name_of(file)} imports {module}"
        for file in sources(place)
        for module in imports(file)
        if (within(module, OUTSIDE) or (within(module, ours) and not within(module, PURE[place])))
        and (name_of(file), module) not in ARGUED
    ]
    assert not wrong


def test_every_exception_is_still_needed():
    needed = {
        (name_of(file), module)
        for place in PURE
        for file in sources(place)
        for module in imports(file)
    }
    assert not set(ARGUED) - needed


def calls() -> Iterator[tuple[str, str]]:
    """Where in the pure parts something is called, and by what name."""
    for place in PURE:
        for file in sources(place):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call):
                    yield f"{name_of(file)}:{node.lineno}", ast.unparse(node.func)


def test_pure_parts_open_nothing_print_nothing_and_ask_no_clock():
    wrong = [
        f"{where} calls {call}"
        for where, call in calls()
        if call in BUILT_IN or call.rpartition(".")[2] in CLOCK
    ]
    assert not wrong


def lines_of(file: Path) -> int:
    return len(file.read_text().splitlines())


@pytest.mark.parametrize("place", [*PACKAGES, "tests", "benchmarks", "docs"])
def test_no_file_is_longer_than_one_idea(place):
    wrong = [
        f"{name_of(file)} has {lines_of(file)} lines"
        for file in sources(place)
        if lines_of(file) > MAX_LINES
    ]
    assert not wrong


def test_what_the_project_needs_is_locked():
    """Else an installation by the README lacks it: `make lock`."""
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    for file, needed in (
        ("runtime.txt", project["dependencies"]),
        ("dev.txt", project["optional-dependencies"]["dev"]),
    ):
        locked = set(
            re.findall(
                r"^([a-z0-9-]+)==", (HOUSE / "requirements" / file).read_text(), re.MULTILINE
            )
        )
        assert {re.split(r"[\[><=; ]", each)[0] for each in needed} <= locked
