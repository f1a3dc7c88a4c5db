"""A server that gives transport keys, over a real store, and an agent that asks it."""

from __future__ import annotations

import asyncio
import atexit
import json
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any, Literal

from sqlalchemy import insert, select

from schemas.chain import Head, compose_line
from schemas.command import Action, Command
from schemas.events import EventLine, event_type
from schemas.names import SERVER
from schemas.sealed_to import open_sealed_to
from schemas.statement import open_statement
from schemas.suites import PrivateKey
from schemas.transport import TransportKey, TransportRequest, transport_context
from server.clock import SystemClock
from server.distribution.transport_requests import TransportRequests
from server.ingest.verify import Refusal
from server.kek import read_kek
from server.keys.home import KeyHome
from server.keys.transport import TransportKeys
from server.model.bound import Bound, Taken
from server.model.kinds import CARDS, Card
from server.model.revisions import next_revision
from server.store.model_tables import bindings, cards, doors, persons
from server.store.windows import Window, add_window, read_window
from tests.key_rig import AGENT, SESSION, KeyDesk, key_desk
from tests.model_rig import HandClock

MOMENT = datetime(2026, 11, 24, 8, 15, 30, tzinfo=UTC)
DOMAIN, DOOR, WINDOW = "zone-a", "front", "aa" * 8
CARD, OTHER = "0102030405060708", "1112131415161718"


@dataclass
class Question:
    """What was asked, and the key that the answer is sealed to."""

    request: TransportRequest
    private: PrivateKey


@dataclass
class TransportDesk:
    """The server's side. `session` is what the agent's session is; `connected` the broker."""

    keys_desk: KeyDesk
    transport: TransportKeys
    clock: HandClock
    executor: ThreadPoolExecutor
    session: str = SESSION
    connected: bool = True
    alarms: list[Refusal] = field(default_factory=list)
    unsent: asyncio.Event = field(default_factory=asyncio.Event)
    """Something could not be sent."""
    sent: asyncio.Queue[tuple[str, bytes, bool]] = field(default_factory=asyncio.Queue)
    asked: int = 0

    @property
    def engine(self) -> Any:
        return self.keys_desk.engine

    def requests(self) -> TransportRequests:
        """As a server has them after a start."""
        site = self.keys_desk.site
        return TransportRequests(
            engine=self.engine,
            suite=site.suite,
            keys=self.transport,
            homes=self.keys_desk.homes,
            signer=site.signer("keys", {}),
            publish=self.publish,
            executor=self.executor,
            clock=self.clock,
            random=secrets.token_bytes,
            session=lambda _: self.session,
            alarm=self.alarms.append,
            announced=lambda: None,
        )

    async def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        if not self.connected:
            self.unsent.set()
            raise ConnectionError("there is no broker")
        self.sent.put_nowait((topic, payload, retain))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[TransportRequests]:
        requests = self.requests()
        task = asyncio.create_task(requests.run())
        try:
            yield requests
        finally:
            task.cancel()
            await asyncio.wait([task])

    def question(self, card: str = CARD, **changes: Any) -> Question:
        """A new question of the agent."""
        self.asked += 1
        suite = self.keys_desk.site.suite
        private = suite.generate(secrets.token_bytes)
        values = {
            "purpose": "transport-request",
            "site": "demo",
            "audience": SERVER,
            "issued": self.clock.now(),
            "counter": self.asked,
            "session": SESSION,
            "command": WINDOW,
            "card": card,
            "recipient": private.public.point.hex(),
        }
        return Question(TransportRequest.model_validate(values | changes), private)

    async def answer(
        self, requests: TransportRequests, question: Question, agent: str = AGENT
    ) -> TransportKey:
        """What is answered, verified as an agent does."""
        requests.asked(agent, question.request)
        async with asyncio.timeout(30):
            topic, payload, retain = await self.sent.get()
        assert (topic, retain) == (f"ostiary/demo/down/{agent}/transport", False)
        site = self.keys_desk.site
        found = open_statement(
            payload,
            TransportKey,
            site.root.key_ring(),
            site="demo",
            audience=agent,
            now=self.clock.now(),
        )
        request = question.request
        assert (found.session, found.command) == (request.session, request.command)
        assert (found.card, found.request) == (request.card, request.counter)
        return found

    def opened(self, question: Question, answer: TransportKey, agent: str = AGENT) -> bytes:
        """The key in an answer."""
        assert answer.sealed is not None
        request = question.request
        context = transport_context("demo", agent, request.session, request.counter, request.card)
        return open_sealed_to(question.private, bytes.fromhex(answer.sealed), context)

    async def window(
        self,
        command: str = WINDOW,
        *,
        kind: Literal["bind", "unbind"] = "bind",
        agent: str = AGENT,
        person: str | None = "mei",
        card: str | None = None,
        door: str = DOOR,
    ) -> None:
        """An operator opens one."""
        bind = kind == "bind"
        order = Command(
            site="demo",
            audience=agent,
            issued=self.clock.now(),
            expires=self.clock.now() + timedelta(seconds=30),
            counter=1,
            id=command,
            session=SESSION,
            action=Action.BINDING_WINDOW if bind else Action.UNBINDING_WINDOW,
            door=door,
            until=self.clock.now() + timedelta(seconds=60),
            person=person if bind else None,
            card=card,
            direction="in",
        )
        async with self.engine.begin() as connection:
            await add_window(connection, order, "olga", await next_revision(connection))

    async def stands(self, command: str = WINDOW) -> Window:
        async with self.engine.connect() as connection:
            found = await read_window(connection, command)
        assert found is not None
        return found

    async def card(self, card: str, person: str, state: str = "active") -> None:
        """The model knows it."""
        row = CARDS.row(card, Card(person=person, state=state))
        async with self.engine.begin() as connection:
            await connection.execute(insert(cards).values(id=card, revision=1, cleared=0, **row))

    async def owner(self, card: str) -> str | None:
        async with self.engine.connect() as connection:
            query = select(cards.c.person).where(cards.c.id == card)
            return await connection.scalar(query)  # type: ignore[no-any-return]

    async def bound(self) -> list[tuple[str, str, int]]:
        async with self.engine.connect() as connection:
            rows = await connection.execute(select(bindings).order_by(bindings.c.card))
            return [(row.card, row.domain, row.key_version) for row in rows]

    async def says(self, *events: EventLine, agent: str = AGENT) -> Taken:
        """The agent's events are committed: what follows."""
        projection = Bound(self.clock)
        rows: Sequence[Any] = [
            SimpleNamespace(source=agent, link=SimpleNamespace(event=event)) for event in events
        ]
        async with self.engine.begin() as connection:
            await projection.project(connection, rows)
        return projection.taken()

    async def told(self, name: str) -> list[dict[str, Any]]:
        """The data of the server's own events of this name."""
        return [json.loads(data) for each, data in await self.keys_desk.news() if each == name]


def event(name: str = "card.bound", *, at: datetime = MOMENT, **data: Any) -> EventLine:
    """What a door says, by default of the window."""
    said = {"door": DOOR, "card": CARD, "domain": DOMAIN, "command": WINDOW}
    if name == "card.bound":
        said |= {"key_version": 1, "person": "mallory", "transport": "list"}
    line, _ = compose_line(
        Head("00" * 8),
        lambda _: bytes(32),
        source=f"/sites/demo/agents/{AGENT}",
        type=event_type(name),
        subject=f"doors/{DOOR}",
        time=at,
        data=said | {"clock": {"status": "synced"}} | data,
    )
    return EventLine.model_validate_json(line)


@asynccontextmanager
async def transport_desk(
    path: Path,
    suite: str = "intl",
    *,
    random: Any = secrets.token_bytes,
    homes: Sequence[KeyHome] | None = None,
) -> AsyncIterator[TransportDesk]:
    """The site at `path`, with one door and two people; made if it is not there."""
    if not (path / "root.json").exists():
        if suite not in _SITES:
            _SITES[suite] = await _make(suite)
        shutil.copytree(_SITES[suite], path)
    async with key_desk(path, suite, homes=homes) as keys_desk:
        clock = HandClock(MOMENT)
        transport = TransportKeys(
            engine=keys_desk.engine,
            site="demo",
            kek=read_kek(path, {}),
            random=random,
            clock=SystemClock(),
            announced=lambda: None,
        )
        with ThreadPoolExecutor(1) as executor:
            yield TransportDesk(keys_desk, transport, clock, executor)


_SITES: dict[str, Path] = {}
"""Suite -> a site that was made once, to be copied: that is quicker than to make one."""


async def _make(suite: str) -> Path:
    folder = Path(mkdtemp(prefix="ostiary-site-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "site"
    async with key_desk(path, suite) as made, made.engine.begin() as connection:
        for name in ("mei", "bo"):
            values = {"id": name, "name": name, "note": "", "cleared": 0, "revision": 1}
            await connection.execute(insert(persons).values(values))
        await connection.execute(
            insert(doors).values(
                id=DOOR,
                name=DOOR,
                agent=AGENT,
                readers="in,out",
                domain=DOMAIN,
                behaviour="{}",
                revision=1,
            )
        )
    return path
