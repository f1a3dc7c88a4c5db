"""Who has one agent's key in software, beside the true device, speaks to the whole real server.

The agent is `front` with a door in `zone-f`; the others are `back`'s, in `zone-b`. Each lie is
refused with an alarm where an honest agent would never say it, and nothing follows from it for
anybody's lock or card but the agent's own. What the key can do is named in docs/security.md.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiomqtt
import pytest
from sqlalchemy import insert, select

from schemas.chain import GENESIS, join_lines
from schemas.event_data import ClockStatus
from schemas.events import agent_source
from schemas.keys import Item, KeyRequest
from schemas.names import SERVER
from schemas.report import Report
from schemas.statement import Statement, sign_statement
from schemas.topics import KEYS, REPORT, TRANSPORT, up
from schemas.transport import LoanRequest, TransportRequest
from schemas.versions import LogHead
from server.model.bindings import bind
from server.model.bodies import Card
from server.model.kinds import CARDS
from server.store.database import open_database
from server.store.events import StoredEvent
from server.store.model_tables import bindings, cards, doors, persons
from server.store.rotation_tables import lock_keys
from tests.agent_pen import SITE, Pen
from tests.esam_desk import EsamDesk
from tests.key_rig import key_desk
from tests.server_rig import LIMIT_S, agent, make_site, running, stored

FRONT, BACK = "front", "back"
ADA, BO = "0102030405060708", "1112131415161718"
"""Ada's card is bound at `front`'s door, Bo's at `back`'s."""
SESSION = "0123456789abcdef"
CLOCK = {"clock": {"status": "synced"}}


@dataclass
class Thief:
    """The leaked key, a connection of its own, and what is in the server's store."""

    pen: Pen
    site: Any
    client: aiomqtt.Client
    esams: dict[str, EsamDesk]
    said: int = 0

    async def events(self, *told: tuple[str, dict[str, Any]]) -> None:
        """Lines of the agent's chain, signed by its key; returns when they are stored."""
        first = len(self.pen.lines) + 1
        for name, data in told:
            self.pen.write(name, data | CLOCK, time=datetime.now(UTC))
        last = first + len(told) - 1
        await self.client.publish(self.pen.topic, self.pen.message(first, last), qos=1)
        await self.until(lambda found: sum(e.source == FRONT for e in found) >= last)

    async def say(self, channel: str, statement: Statement, *, of: str = FRONT) -> None:
        message = sign_statement(statement, self.pen.signer)
        await self.client.publish(up(SITE, of, channel), message, qos=1)

    def common(self, **more: Any) -> dict[str, Any]:
        self.said += 1
        now = datetime.now(UTC)
        return {"site": SITE, "audience": SERVER, "issued": now, "counter": self.said, **more}

    def report(self, **changes: Any) -> Report:
        values = self.common(
            session=SESSION,
            root=1,
            policy=None,
            revocation=LogHead(sequence=0, hash=GENESIS),
            lockdown=0,
            command=0,
            chain=SESSION,
            waiting=0,
            doors={},
            clock=ClockStatus(status="synced", offset_ms=0.0),
            version="0",
        )
        return Report(**values | changes)

    def key_request(self, **changes: Any) -> KeyRequest:
        values = {"esam": self.esams[FRONT].serial.hex(), "domain": "zone-f", "index": 1}
        values |= {"version": 1, "item": Item.KEYS, "challenge": "00" * 16, "session": SESSION}
        return KeyRequest(**self.common(**values) | changes)

    async def until(self, holds) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not holds(await stored(self.site)):  # noqa: ASYNC110 the server writes
                await asyncio.sleep(0.02)

    async def alarmed(self, *kinds: str) -> dict[str, str]:
        """Wait until there is an alarm of each kind about the agent; what each says first."""
        said: dict[str, str] = {}

        def are_there(found: list[StoredEvent]) -> bool:
            alarms = [json.loads(e.line)["data"] for e in found if ".alarm.raised." in e.type]
            for each in reversed([x for x in alarms if x["agent"] == FRONT]):
                said[each["kind"]] = each["detail"]
            return said.keys() >= set(kinds)

        await self.until(are_there)
        return said

    async def rows(self) -> dict[str, Any]:
        """All that events could have changed of cards and keys."""
        engine, found = await open_database(self.site.database), {}
        async with engine.connect() as connection:
            for table in (bindings, cards, lock_keys):
                rows = await connection.execute(select(table))
                found[table.name] = sorted(map(tuple, rows), key=repr)
        await engine.dispose()
        return found

    async def given(self) -> list[str]:
        """What the server says that it gave: ESAMs, and cards."""
        said = [e for e in await stored(self.site) if e.source == SERVER]
        return [
            json.loads(e.line)["subject"]
            for e in said
            if ".keys.package_made." in e.type or ".keys.transport_given." in e.type
        ]


@pytest.fixture
async def thief(tmp_path):
    async with _thief(tmp_path / "site") as made:
        yield made


@asynccontextmanager
async def _thief(path):
    pens = Pen(FRONT), Pen(BACK)
    site = await make_site(path, *pens)
    esams = {FRONT: EsamDesk("intl").issue(), BACK: EsamDesk("intl", serial=b"backESAM").issue()}
    async with key_desk(path) as desk:
        for name, zone in ((FRONT, "zone-f"), (BACK, "zone-b")):
            await desk.authority.create_domain(zone, "intl", "test")
            await desk.know(esams[name], zone, agent=name)
        async with desk.engine.begin() as connection:
            for name, zone, card in ((FRONT, "zone-f", ADA), (BACK, "zone-b", BO)):
                door = {"id": name, "name": name, "agent": name, "readers": "in", "domain": zone}
                await connection.execute(insert(doors).values(**door, behaviour="{}", revision=1))
                person = {"id": f"p-{name}", "name": name, "note": "", "cleared": 0}
                await connection.execute(insert(persons).values(**person, revision=1))
                row = CARDS.row(card, Card(person=f"p-{name}"))
                await connection.execute(
                    insert(cards).values(id=card, revision=1, cleared=0, **row)
                )
                await bind(connection, card, zone, 1, "e-1", datetime(2026, 1, 1, tzinfo=UTC))
    async with running(site) as serving, agent(serving, pens[0], site) as connection:
        made = Thief(pens[0], site, connection.client, esams)
        await made.say(REPORT, made.report())
        yield made


NOT_ITS = {"door": FRONT, "domain": "zone-b", "card": BO, "person": "p-back"}
HELD = {"auth": "000000", "admit": "000000", "maintain": "000000"}
LIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("card.bound", NOT_ITS | {"card": ADA, "key_version": 1}),
    ("card.bound", NOT_ITS | {"card": ADA, "key_version": 1, "command": "ab" * 8}),
    ("card.unbound", NOT_ITS),
    ("card.unbound", NOT_ITS | {"command": "ab" * 8}),
    ("card.rekeyed", NOT_ITS | {"from_version": 1, "key_version": 2}),
    ("access.granted", NOT_ITS | {"key_version": 2}),
    ("access.denied", NOT_ITS | {"reason": "key_version_unsupported", "key_version": 1}),
    ("keys.refused", {"domain": "zone-b", "version": 1, "reason": "full", "detail": "a lie"}),
    (
        "keys.held",
        {
            "domain": "zone-b",
            "suite": "intl",
            "esam": b"backESAM".hex(),
            "held": {"1": HELD, "2": HELD},
            "floor": 2,
            "preferred": 2,
            "accepted": [],
        },
    ),
)


async def test_what_it_says_and_asks_of_others_is_alarmed_and_changes_nothing(thief):
    before = await thief.rows()
    await thief.events(*LIES)
    back = thief.esams[BACK].serial.hex()
    asked = (
        thief.key_request(esam=back),
        thief.key_request(esam=back, domain="zone-b"),
        thief.key_request(domain="zone-b"),
        thief.key_request(domain="zone-b", index=2),
        thief.key_request(version=2),
        thief.key_request(item=Item.FLOOR, version=9),
    )
    for request in asked:
        await thief.say(KEYS, request)
        await thief.say(KEYS, request, of=BACK)
    loan = LoanRequest(esam=back, domain="zone-b", index=1, version=1, challenge="00" * 16)
    for card, lent in ((ADA, None), (BO, None), (BO, loan)):
        request = TransportRequest(
            **thief.common(session=SESSION, command="ab" * 8, card=card, loan=lent),
            recipient=thief.pen.signer.key.public.point.hex(),
        )
        await thief.say(TRANSPORT, request)
        await thief.say(TRANSPORT, request, of=BACK)
    said = await thief.alarmed("binding_refused", "key_refused", "wrong_topic")
    assert "zone-b" in said["binding_refused"]
    # The last question has been answered when the one after it has.
    good = thief.key_request(challenge=thief.esams[FRONT].challenge().hex())
    await thief.say(KEYS, good)
    await thief.until(lambda found: any(".keys.package_made." in e.type for e in found))
    assert await thief.given() == ["keys/zone-f"]
    assert await thief.rows() == before
    good = "card.rekeyed", {"door": FRONT, "domain": "zone-f", "card": ADA}
    await thief.events((good[0], good[1] | {"from_version": 1, "key_version": 2}))
    assert await thief.rows() != before  # so its own are heard


async def test_a_second_device_shows_and_keeps_nobody_else_from_being_heard(thief):
    pen, back, forged = thief.pen, Pen(BACK), Pen(BACK)
    back.write("door.opened", {"door": BACK} | CLOCK)
    await thief.client.publish(back.topic, back.message(1), qos=1)
    await thief.until(lambda found: any(e.source == BACK for e in found))
    await thief.events(("rex.pressed", {"door": FRONT}), ("rex.pressed", {"door": FRONT}))
    pen.begin(pen.head.chain)  # the true device, which knows nothing of the thief's lines
    pen.write("door.opened", {"door": FRONT} | CLOCK)
    await thief.client.publish(pen.topic, pen.message(1), qos=1)
    pen.begin("ff" * 8)
    pen.write("door.opened", {"door": BACK} | CLOCK)  # a neighbour's door
    await thief.client.publish(pen.topic, pen.message(1), qos=1)
    pen.write(source=agent_source(SITE, BACK))
    await thief.client.publish(pen.topic, pen.message(2), qos=1)
    forged.write("door.opened", {"door": BACK} | CLOCK)
    forged.write("door.forced", {"door": BACK} | CLOCK)  # the next line of `back`'s chain
    await thief.client.publish(back.topic, pen.seal(join_lines(forged.lines[1:])), qos=1)
    for n in range(300):
        await thief.say(REPORT, thief.report(session=f"{n % 2:016x}"))
    back.write("door.closed", {"door": BACK} | CLOCK)
    await thief.client.publish(back.topic, back.message(2), qos=1)
    await thief.until(lambda found: sum(e.source == BACK for e in found) == 2)
    await thief.alarmed("fork", "new_chain", "door_taken", "wrong_topic", "identity_cloned")
    found = await stored(thief.site)
    assert [e.line for e in found if e.source == BACK] == back.lines
    others = agent_source(SITE, BACK).encode()
    assert not any(others in e.line for e in found if e.source == FRONT)
