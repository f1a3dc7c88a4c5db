"""`ostiary events tail`: the last events that were asked for, and what matters of each."""

from __future__ import annotations

import asyncio
import json

import pytest
from sqlalchemy import insert
from typer.testing import CliRunner

from schemas.events import event_type
from server.cli.root import app
from server.store.database import open_database
from server.store.tables import events
from tests.server_rig import make_site


@pytest.fixture
def tail(tmp_path):
    """Store events, as (type, subject, data), and see what `tail` says of them."""
    site = asyncio.run(make_site(tmp_path / "site"))

    async def keep(*said):
        engine = await open_database(site.database)
        row = {"source": "/x", "chain": "00" * 8, "time_us": 0, "recorded_us": 0}
        async with engine.begin() as connection:
            for sequence, (name, subject, data) in enumerate(said, start=1):
                line = json.dumps({"data": data}).encode()
                row |= {"sequence": sequence, "line": line, "subject": subject}
                await connection.execute(insert(events).values(row | {"type": event_type(name)}))
        await engine.dispose()

    def run(*words, said=(), code=0):
        asyncio.run(keep(*said))
        result = CliRunner().invoke(
            app, ["events", "tail", "--no-follow", "-d", str(site.path), *words]
        )
        assert result.exit_code == code, result.output
        return result

    return run


def test_the_last_of_a_type_or_door_are_counted_among_these_alone(tail):
    made = [("keys.version_made", "domains/a", {"version": n}) for n in (1, 2, 3)]
    other = [("rex.pressed", "doors/front", {})] * 20
    shown = tail("-n", "2", "--type", "keys.version_made", said=[*made, *other]).stdout
    assert "version=1" not in shown
    assert "version=2" in shown
    assert "version=3" in shown
    assert tail("-n", "2", "--door", "front").stdout.count("rex.pressed") == 2
    assert tail("-n", "0").stdout == ""
    assert tail("-n", "500").stdout.count("\n") == 23


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("card.not_bound", {"outcome": "other_person", "detail": "x y"}, "outcome=other_person"),
        ("card.rekeyed", {"from_version": 1, "key_version": 2}, "from_version=1 key_version=2"),
        (
            "rotation.staged",
            {"rotation": "0123abcd", "domain": "a", "from_version": 1, "to_version": 2},
            "domain=a from_version=1 to_version=2 rotation=0123abcd",
        ),
        ("keys.floor_raised", {"domain": "a", "floor": 3}, "domain=a floor=3"),
        ("keys.esam_changed", {"esam": "45", "state": "withdrawn"}, "state=withdrawn esam=45"),
        (
            "keys.held",
            {"domain": "a", "esam": None, "held": {"1": {}, "2": {}}, "floor": 1, "accepted": []},
            "domain=a floor=1 accepted=none held=1,2",
        ),
        ("keys.backed_up", {"versions": 3, "esams": 1}, "esams=1 versions=3"),
        ("door.held", {"open_s": 30.0}, "open_s=30.0"),
        ("keys.held", {"new_in_a_later_version": 5}, "new_in_a_later_version=5"),
    ],
)
def test_a_line_says_what_matters_of_an_event(tail, name, data, told):
    assert told in tail(said=[(name, "x/y", data)]).stdout


def test_a_door_that_is_not_there_is_said(tail):
    assert "there is no door nodoor" in tail("--door", "nodoor", code=1).stderr
    gone = tail("--door", "gone", said=[("rex.pressed", "doors/gone", {})])
    assert "rex.pressed" in gone.stdout
    assert "No such events yet" in tail("--type", "door.held").stderr


def test_nothing_is_there_yet_is_said(tail):
    assert tail().stderr == "No events yet.\n"
