"""A store that was touched is found out, and the place is named."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli.root import app
from tests.agent_pen import Pen
from tests.server_rig import agent, make_site, running

CHAIN = Pen().head.chain


@pytest.fixture
async def site_dir(tmp_path: Path) -> Path:
    """A site with signatures over 1, 2-4, 5-8 and one alarm of the server."""
    pen = Pen()
    pen.write_many(8)
    site = await make_site(tmp_path / "site", pen)
    async with running(site) as serving, agent(serving, pen, site) as front:
        await front.send(b"rubbish", pen.message(1), pen.message(2, 4), pen.message(5, 8))
        await front.acknowledged(8)
    return site.path


def verify(site_dir: Path) -> dict:
    result = CliRunner().invoke(app, ["events", "verify", "--json", "--site-dir", str(site_dir)])
    report = json.loads(result.stdout)
    assert result.exit_code == (0 if report["ok"] else 1)
    return report


def edit(site_dir: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(site_dir / "ostiary.db") as db:
        assert db.execute(statement, values).rowcount == 1
    db.close()


def flip(site_dir: Path, column: str, sequence: int, at: int = 10) -> None:
    with sqlite3.connect(site_dir / "ostiary.db") as db:
        (value,) = db.execute(
            f"select {column} from events where chain = ? and sequence = ?", (CHAIN, sequence)
        ).fetchone()
    db.close()
    changed = bytearray(value if isinstance(value, bytes) else value.encode())
    changed[at] ^= 1
    new = bytes(changed) if isinstance(value, bytes) else changed.decode()
    where = "where chain = ? and sequence = ?"
    edit(site_dir, f"update events set {column} = ? {where}", new, CHAIN, sequence)


def test_an_untouched_store_is_good(site_dir):
    report = verify(site_dir)
    assert report["ok"]
    assert report["events"] == 9
    assert {chain["source"] for chain in report["chains"]} == {"front", "server"}


@pytest.mark.parametrize("sequence", [1, 2, 3, 8])
@pytest.mark.parametrize("column", ["line", "type", "subject"])
def test_one_changed_byte_of_a_row_is_found(site_dir, column, sequence):
    flip(site_dir, column, sequence, at=15 if column == "type" else 7)
    (bad,) = [c["bad"] for c in verify(site_dir)["chains"] if c["bad"]]
    assert (bad["source"], bad["chain"], bad["sequence"]) == ("front", CHAIN, sequence)


def test_every_byte_of_a_line_is_covered(site_dir):
    with sqlite3.connect(site_dir / "ostiary.db") as db:
        (line,) = db.execute("select line from events where sequence = 3").fetchone()
    db.close()
    for at in range(0, len(line), 7):
        flip(site_dir, "line", 3, at)
        assert not verify(site_dir)["ok"], at
        flip(site_dir, "line", 3, at)
    assert verify(site_dir)["ok"]


@pytest.mark.parametrize("column", ["signature", "keyid"])
def test_one_changed_byte_of_a_signature_is_found(site_dir, column):
    flip(site_dir, column, 4)
    (bad,) = [c["bad"] for c in verify(site_dir)["chains"] if c["bad"]]
    assert (bad["sequence"], bad["position"]) == (4, bad["position"])
    assert bad["position"] is not None


@pytest.mark.parametrize(
    ("change", "sequence"),
    [
        ("signed_from = 3", 2),
        ("signed_from = 1", 4),
        ("signed_from = 5", 4),
        ("signed_from = -9", 4),
        ("signed_from = null", 4),
        ("signature = null", 4),
        ("signature = null, keyid = null, signed_from = null", 2),
        ("time_us = time_us + 1", 4),
        ("sequence = 99", 4),
        ("source = 'back'", 4),
        ("chain = 'ffffffffffffffff'", 4),
    ],
)
def test_a_changed_column_is_found(site_dir, change, sequence):
    edit(site_dir, f"update events set {change} where chain = ? and sequence = 4", CHAIN)
    found = [c["bad"] for c in verify(site_dir)["chains"] if c["bad"]]
    assert sequence in [bad["sequence"] for bad in found if bad["chain"] == CHAIN]


def test_a_chain_whose_last_signature_was_taken_is_found(site_dir):
    change = "signature = null, keyid = null, signed_from = null"
    edit(site_dir, f"update events set {change} where chain = ? and sequence = 8", CHAIN)
    (bad,) = [c["bad"] for c in verify(site_dir)["chains"] if c["bad"]]
    assert (bad["sequence"], bad["why"]) == (5, "no signature covers this line")


@pytest.mark.parametrize("sequence", [1, 3, 4, 8])
def test_a_line_taken_out_is_found(site_dir, sequence):
    edit(site_dir, "delete from events where chain = ? and sequence = ?", CHAIN, sequence)
    (bad,) = [c["bad"] for c in verify(site_dir)["chains"] if c["bad"]]
    assert bad["chain"] == CHAIN
    assert bad["sequence"] <= sequence


@pytest.mark.parametrize("change", ["sequence = 7", f"hash = '{'0' * 64}'", "chain = 'eeee'"])
def test_a_head_that_is_not_the_chains_is_found(site_dir, change):
    edit(site_dir, f"update chains set {change} where chain = ?", CHAIN)
    assert not verify(site_dir)["ok"]


def test_in_words_the_place_is_named_too(site_dir):
    flip(site_dir, "line", 3)
    result = CliRunner().invoke(app, ["events", "verify", "--site-dir", str(site_dir)])
    assert result.exit_code == 1
    assert f"source front, chain {CHAIN}, sequence 3, position" in result.stderr


def test_the_key_of_one_agent_proves_nothing_of_another(site_dir):
    """A line moved with its signature under another agent's name is found."""
    edit(site_dir, "update agents set id = 'back' where id = 'front'")
    (bad,) = [c["bad"] for c in verify(site_dir)["chains"] if c["bad"]]
    assert bad["sequence"] == 1
