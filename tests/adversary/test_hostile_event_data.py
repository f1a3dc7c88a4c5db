"""Whatever a signed event says, it is stored, and no content of it stops the server or another."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from schemas.chain import join_lines
from schemas.events import EVENT_DATA
from server.distribution.lock_keys import LockKeys
from server.ingest.doors import takeovers
from server.ingest.heads import Batch
from server.ingest.ledger import Ledger
from server.ingest.verify import Verified, verify_message
from server.model.bindings import bind
from server.model.bound import Bound
from server.store.events import StoredEvent, read_after
from server.store.windows import note_given
from tests.agent_pen import SITE, Pen
from tests.key_rig import AGENT
from tests.server_rig import agent, make_site, running, stored, until_stored
from tests.transport_rig import CARD, DOMAIN, DOOR, MOMENT, WINDOW, transport_desk

HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    256,
    2**31,
    -(2**63),
    2**63 - 1,
    0.5,
    "",
    "\x00",
    "x" * 3000,
    "\U0001f6aa",
    [],
    [[]],
    {},
    {"": {}},
]
CLOCK = {"status": "synced"}
CHECKS = dict.fromkeys(("auth", "admit", "maintain"), "aabbcc")
GOOD: dict[str, dict[str, Any]] = {
    "access.granted": {"card": CARD, "domain": DOMAIN, "key_version": 2},
    "access.denied": {"card": CARD, "domain": DOMAIN, "reason": "key_version_retired"},
    "card.bound": {"card": CARD, "domain": DOMAIN, "command": WINDOW, "key_version": 1},
    "card.unbound": {"card": CARD, "domain": DOMAIN, "command": WINDOW},
    "card.rekeyed": {"card": CARD, "domain": DOMAIN, "from_version": 1, "key_version": 2},
    "card.not_bound": {
        "command": WINDOW,
        "card": CARD,
        "person": None,
        "domain": DOMAIN,
        "outcome": "unknown_key",
        "detail": "",
    },
    "command.refused": {
        "command": WINDOW,
        "action": "binding-window",
        "reason": "Busy",
        "detail": "",
    },
    "command.executed": {"command": WINDOW, "action": "pulse", "latency_ms": 1.0},
    "agent.started": {"doors": {DOOR: "closed"}, "cause": "start"},
    "agent.events_lost": {"count": 1},
    "door.mode_changed": {"mode": "locked"},
    "root.applied": {"version": 1},
    "policy.applied": {"policy_version": 1, "hash": "00" * 32},
    "revocation.applied": {"sequence": 1, "hash": "00" * 32, "entries": 1},
    "lockdown.applied": {"counter": 1, "doors": [DOOR]},
    "keys.held": {
        "domain": DOMAIN,
        "suite": "intl",
        "esam": None,
        "held": {"1": CHECKS},
        "floor": 1,
        "preferred": 1,
        "accepted": [],
    },
    "keys.refused": {"domain": DOMAIN, "version": 1, "reason": "full", "detail": ""},
}
"""What the server itself acts on; of all else it keeps the bytes."""


def _problems(model: type[BaseModel], said: dict[str, Any]) -> list[str]:
    try:
        model.model_validate(said)
    except ValidationError as error:
        return [each["type"] for each in error.errors()]
    return []


def sayings(name: str) -> list[dict[str, Any]]:
    """The good data, and that with each member replaced by each hostile value, or gone."""
    good = GOOD[name] | {"door": DOOR, "clock": CLOCK}
    bent = [good | {member: value} for member in good for value in HOSTILE]
    less = [{k: v for k, v in good.items() if k != member} for member in good]
    return [*bent, *less, {}, good]


@pytest.mark.parametrize("name", GOOD)
def test_what_is_bent_was_good(name):
    model = EVENT_DATA[name]
    good = GOOD[name] | {"door": DOOR, "clock": CLOCK}
    said = {member: good[member] for member in good if member in model.model_fields}
    assert set(_problems(model, said)) <= {"missing"}  # of what the server does not go by


@pytest.mark.parametrize("name", GOOD)
async def test_no_content_of_an_event_keeps_it_or_another_from_being_stored(tmp_path, name):
    pen = Pen(AGENT)
    for data in sayings(name):
        pen.write(name, data)
    async with transport_desk(tmp_path / "site") as desk:
        await desk.transport.take_list({CARD: b"k" * 16}, "test")
        await desk.window()
        async with desk.engine.begin() as connection:
            await desk.transport.give(connection, CARD)
            await note_given(connection, WINDOW, CARD)
            await bind(connection, CARD, "zone-b", 1, f"{'00' * 8}-1", MOMENT)
        lock_keys = LockKeys(desk.clock)
        lock_keys.watched = {DOMAIN: frozenset({1, 2})}
        bound = Bound(desk.clock)
        ledger = Ledger(desk.engine, [bound.project, lock_keys.project])
        await ledger.load()
        for start in range(0, len(pen.lines), 100):
            payload = join_lines(pen.lines[start : start + 100])
            verified = verify_message(pen.topic, pen.seal(payload), pen.ring, SITE, pen.suite)
            batch = Batch(ledger.heads, {}, 0.0)
            assert isinstance(verified, Verified)
            batch.place(verified)
            list(takeovers(ledger.doors, batch.rows))
            await ledger.commit(batch.rows, batch.heads, 0)
        stored = await read_after(desk.engine, 0, 10_000)
        assert [each.line for each in stored] == pen.lines


async def test_a_message_that_can_not_be_taken_holds_up_no_other(tmp_path, monkeypatch):
    """Whatever the fault is: here a part of the server fails because of what `front` says."""
    front, back = Pen("front"), Pen("back")
    front.write_many(1)
    back.write_many(2)
    site = await make_site(tmp_path / "site", front, back)
    commit = Ledger.commit

    async def failing(ledger, rows, *more):
        if any(row.source == "front" for row in rows):
            raise TypeError("unhashable type: 'list'")
        return await commit(ledger, rows, *more)

    monkeypatch.setattr(Ledger, "commit", failing)
    async with running(site) as serving, agent(serving, back, site) as link:
        await link.send(back.message(1), topic=back.topic)
        await link.send(front.message(1), topic=front.topic)
        await link.send(back.message(2))
        await link.acknowledged(2)

        def named(events: list[StoredEvent]) -> bool:
            lines = [e.line for e in events if e.source == "server"]
            return any(b"could not be taken: TypeError" in line for line in lines)

        await until_stored(site, named)
    assert [e.line for e in await stored(site) if e.source != "server"] == back.lines
