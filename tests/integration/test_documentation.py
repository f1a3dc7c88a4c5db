"""What the documentation tells a stranger to type, write and open is there and works."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.config import load_config
from edge_agent.demo.figures import Figures
from schemas.policy import Policy

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
    assert tomllib.loads(text)
    (tmp_path / "agent.toml").write_text(text)
    assert load_config(tmp_path / "agent.toml", {}).doors[0].door == "front"


def test_the_policy_in_the_readme_is_one() -> None:
    figures, policy = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    filled = {
        "site": "hq",
        "audience": "front-agent",
        "counter": 1,
        "issued": datetime.now(UTC).isoformat(),
    }
    assert Policy.model_validate_json(json.dumps(json.loads(policy) | filled)).cards
    assert json.loads(figures).keys() == set(Figures.__dataclass_fields__)
