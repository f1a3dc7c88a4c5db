"""What gives orders to doors, over a real SQLite store and a broker that remembers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prometheus_client import CollectorRegistry
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from server.distribution.commands import CommandMetrics, Commands, Session
from server.distribution.heartbeats import Facts, HeartbeatMetrics, Heartbeats
from server.distribution.lockdowns import Lockdowns
from server.distribution.revocation_messages import RevocationMessages
from server.distribution.revocations import Revocations
from server.ingest.verify import Refusal
from server.store.announcements import Announcement, waiting
from server.store.database import open_database
from server.store.model_tables import doors
from tests.site_keys import SiteKeys

MOMENT = datetime(2026, 11, 24, 8, 15, 30, 123456, tzinfo=UTC)
SITE = "demo"


class FakeClock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.wall = MOMENT
        self.seconds = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def pass_time(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.seconds += seconds


class Broker:
    """Keeps what was published; may be away, or hold a message until it is let go."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self.away = False
        self.open = asyncio.Event()
        self.open.set()
        self.came = asyncio.Condition()

    async def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        if self.away:
            raise ConnectionError("there is no broker")
        async with self.came:
            self.messages.append((topic, payload, retain))
            self.came.notify_all()
        await self.open.wait()

    async def until(self, count: int) -> list[tuple[str, bytes, bool]]:
        """All messages, as soon as there are so many."""
        async with asyncio.timeout(20), self.came:
            await self.came.wait_for(lambda: len(self.messages) >= count)
        return self.messages


class Forgetful:
    """A database that writes, and then loses the connection before it says so."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.begin() as connection:
            yield connection
        raise OSError("the connection was lost")

    def connect(self) -> AsyncConnection:
        return self._engine.connect()


@dataclass
class Orders:
    """The parts, not yet loaded; `restarted` gives others over the same store."""

    engine: AsyncEngine
    executor: ThreadPoolExecutor
    keys: SiteKeys
    clock: FakeClock = field(default_factory=FakeClock)
    broker: Broker = field(default_factory=Broker)
    alarms: list[Refusal] = field(default_factory=list)
    sessions: dict[str, Session] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    news: int = 0

    def __post_init__(self) -> None:
        ids = (f"{n:016x}" for n in itertools.count(1))
        self.registry = CollectorRegistry()
        root = self.keys.root
        online = self.keys.signer("online")
        self.revocations = Revocations(
            engine=self.engine,
            site=SITE,
            suite=self.keys.suite,
            messages=RevocationMessages(
                engine=self.engine,
                site=SITE,
                suite=self.keys.suite,
                signer=self.keys.signer("revoke"),
                executor=self.executor,
                clock=self.clock,
            ),
            publish=self.broker.publish,
            clock=self.clock,
            announced=self._announced,
            alarm=self.alarms.append,
        )
        self.lockdowns = Lockdowns(
            engine=self.engine,
            root=lambda: root,
            signer=online,
            publish=self.broker.publish,
            executor=self.executor,
            clock=self.clock,
            announced=self._announced,
            alarm=self.alarms.append,
            new_id=lambda: f"lockdown-{next(ids)}",
        )
        self.commands = Commands(
            engine=self.engine,
            site=SITE,
            signer=online,
            publish=self.broker.publish,
            executor=self.executor,
            clock=self.clock,
            announced=self._announced,
            connected=lambda: not self.broker.away,
            session=self.sessions.get,
            new_id=lambda: next(ids),
            metrics=CommandMetrics(self.registry),
        )
        self.heartbeats = Heartbeats(
            engine=self.engine,
            site=SITE,
            signer=online,
            publish=self.broker.publish,
            executor=self.executor,
            clock=self.clock,
            connected=lambda: not self.broker.away,
            agents=self.facts.keys,
            facts=self.facts.get,
            metrics=HeartbeatMetrics(self.registry),
        )

    def _announced(self) -> None:
        self.news += 1

    async def restarted(self) -> Orders:
        """The same store, after a restart."""
        again = Orders(self.engine, self.executor, self.keys, self.clock)
        await again.load()
        return again

    async def load(self) -> None:
        await self.revocations.load()
        await self.lockdowns.load()
        await self.heartbeats.load()

    async def announcements(self) -> list[Announcement]:
        return await waiting(self.engine, 10_000)

    async def add_door(self, door: str, agent: str | None, *, behaviour: str = "{}") -> None:
        """Describe a door in the management model."""
        async with self.engine.begin() as connection:
            await connection.execute(
                insert(doors).values(
                    id=door,
                    name=door,
                    agent=agent,
                    readers="in",
                    domain=door,
                    behaviour=behaviour,
                    revision=1,
                )
            )

    def payloads(self, topic_end: str) -> list[bytes]:
        return [p for topic, p, _ in self.broker.messages if topic.endswith(topic_end)]


@asynccontextmanager
async def orders(path: Path, keys: SiteKeys | None = None) -> AsyncIterator[Orders]:
    """The parts over a new store, loaded."""
    engine = await open_database(path / "ostiary.db")
    with ThreadPoolExecutor(1, "sign") as executor:
        try:
            made = Orders(engine, executor, keys or SiteKeys())
            await made.load()
            yield made
        finally:
            await engine.dispose()


@asynccontextmanager
async def running(*parts: Callable[[], object]) -> AsyncIterator[None]:
    """The parts' `run` while the context lasts."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run()) for run in parts]  # type: ignore[arg-type]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
