"""The agent and the server as they are, put on a disk, a clock and a wire that fail.

A side dies by being left as it lies: nothing is closed, the next life begins from the files.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from edge_agent.app import _keep, _watch_clock
from edge_agent.config import Broker
from edge_agent.core.trusted_time import TrustedTime
from edge_agent.link import Link
from edge_agent.outbox import Draft, Outbox, StoredLine
from edge_agent.recorder import Recorder
from edge_agent.trust_store import TrustStore
from schemas.envelope import Signer
from schemas.events import agent_source
from server.app import _assemble
from server.broker.grants import server_id
from server.feed.hub import Hub
from server.site import Site
from server.state import LinkStatus, ServerState
from server.store.database import open_database
from tests.chaos.disk import Disk, Sickness
from tests.chaos.simulation import Clock, Thread
from tests.chaos.wire import Wire
from tests.link_rig import IdleDoors, IdleRenewals, in_the_clear

RESTART_S = 5.0
LIVING: ContextVar[Side] = ContextVar("LIVING")


class Violated(AssertionError):
    """A promise that was not kept."""


class Side:
    """A process and whoever starts it again."""

    unsure_commits = False

    def __init__(self, name: str, folder: Path, seed: str, tally: Counter[str], wire: Wire) -> None:
        self.name = name
        self.clock = Clock()
        self.up = False
        self.slow = False
        self.sick: Sickness | None = None
        self.dice = Random(f"{seed} {name}")
        self.tally = tally
        self.disk = Disk(folder / "1", self.dice, tally, unsure=self.unsure_commits)
        self.failure: BaseException | None = None
        """What ended it that should not have."""
        self._wire = wire
        self._threads: list[Thread] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._fallen = asyncio.Event()
        self._life = 1

    @property
    def identifier(self) -> str:
        """Its MQTT client id."""
        raise NotImplementedError

    async def begin(self) -> list[Any]:
        """Start, and return the coroutines that are to run."""
        raise NotImplementedError

    async def abandon(self) -> None:
        """Let go of what only this test's process holds."""

    def thread(self) -> Thread:
        """A thread of this side."""
        thread = Thread(self._latency_s)
        self._threads.append(thread)
        return thread

    def _latency_s(self) -> float:
        return 1e-6 + self.dice.random() * (1.0 if self.slow else 0.002)

    def ail(self, sick: Sickness | None) -> None:
        """The disk fails now and then, or is well again."""
        self.sick = self.disk.sick = sick

    async def keep(self) -> None:
        """Live, die, and live again, for ever."""
        LIVING.set(self)
        loop = asyncio.get_running_loop()
        while True:
            self._fallen.clear()
            self.disk.sick = self.sick
            self.disk.on_crash = lambda: loop.call_soon_threadsafe(self._fall)
            life = asyncio.create_task(self._live())
            fallen = asyncio.create_task(self._fallen.wait())
            await asyncio.wait({life, fallen}, return_when=asyncio.FIRST_COMPLETED)
            self._tasks += [life, fallen]
            await self._leave()
            await asyncio.sleep(RESTART_S * self.dice.random())

    async def _live(self) -> None:
        try:
            work = await self.begin()
        except (sqlite3.Error, SQLAlchemyError):
            self.tally[f"{type(self).__name__.lower()} could not start"] += 1
            return
        self._tasks = [asyncio.create_task(each) for each in work]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        self.up = True
        await self._fallen.wait()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or self.disk.dead:
            return
        self.failure = task.exception() or Violated("a task returned")
        self._fall()

    def _fall(self) -> None:
        self.up = False
        for thread in self._threads:
            thread.ended = True
        self._wire.break_off(self.identifier)
        self._fallen.set()

    async def _leave(self) -> None:
        self._fall()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.abandon()
        self._threads.clear()
        self._tasks.clear()
        if self.disk.dead:
            self._life += 1
            folder = self.disk.image.rename(self.disk.folder.with_name(str(self._life)))
            self.disk = Disk(folder, self.dice, self.tally, unsure=self.unsure_commits)


class Witness:
    """What an agent was promised: the lines whose append returned, over all its lives."""

    def __init__(self) -> None:
        self.lines: dict[int, bytes] = {}
        self.attempted: set[str] = set()
        self.refused: set[str] = set()
        """Events that the store said it did not take."""
        self.unanswered: set[str] = set()
        """Events whose writer died before it heard."""
        self.acknowledged = 0

    def stored(self, lines: Sequence[StoredLine]) -> None:
        for each in lines:
            if self.lines.setdefault(each.sequence, each.line) != each.line:
                raise Violated(f"two lines were stored as number {each.sequence}")

    def stands_at(self, acknowledged: int) -> None:
        if acknowledged < self.acknowledged:
            raise Violated(f"acknowledged went back from {self.acknowledged} to {acknowledged}")
        self.acknowledged = acknowledged


class WitnessedOutbox(Outbox):
    """The outbox, with someone who writes down what it promised."""

    witness: Witness

    async def append_all(self, drafts: Sequence[Draft]) -> list[StoredLine]:
        stored = await super().append_all(drafts)
        self.witness.stored(stored)
        return stored

    async def acknowledge(self, chain: str, sequence: int, hash: str, issued: datetime) -> None:
        await super().acknowledge(chain, sequence, hash, issued)
        self.witness.stands_at(self.state.acknowledged)


class Agent(Side):
    """Outbox, recorder and link of an agent, and a street that keeps it busy."""

    def __init__(
        self,
        name: str,
        folder: Path,
        seed: str,
        tally: Counter[str],
        wire: Wire,
        *,
        site: Site,
        capacity: int,
    ) -> None:
        super().__init__(name, folder / name, seed, tally, wire)
        suite = site.suite
        self.signer = Signer.of(suite.private_key(suite.digest(name.encode())))
        self.witness = Witness()
        self.outbox: WitnessedOutbox | None = None
        self.busy = True
        self.clean_stop = asyncio.Event()
        self._site = site
        self._capacity = capacity
        self._pause_s, self._burst = self.dice.choice(((0.5, 1), (1.0, 3), (4.0, 3), (10.0, 60)))

    @property
    def identifier(self) -> str:
        return self.name

    @property
    def waiting(self) -> int | None:
        """Lines that are not acknowledged; None while the agent is down."""
        return self.outbox.state.waiting if self.up and self.outbox else None

    async def begin(self) -> list[Any]:
        self.outbox = None
        outbox = await WitnessedOutbox.open(
            self.disk.folder / "outbox.db",
            digest=self._site.suite.digest,
            source=agent_source(self._site.name, self.name),
            clock=self.clock,
            random=self.dice.randbytes,
            capacity=self._capacity,
        )
        outbox.witness = self.witness
        self.witness.stands_at(outbox.state.acknowledged)
        recorder = Recorder(outbox, self.clock, TrustedTime(), self.name, "0")
        store = await TrustStore.open(
            self.disk.folder / "trust.db", self._site.root, self.name, self.clock
        )
        link = Link(
            Broker(tls=False),
            store,
            recorder,
            self.signer,
            doors=IdleDoors(),
            renewals=IdleRenewals(),
            tls=in_the_clear,
            random=Random(self.dice.random()),
            random_bytes=self.dice.randbytes,
        )
        cause = await outbox.begin()
        started = recorder.about_agent(
            "agent.started", cause=cause, version="0", doors={}, policy_version=None
        )
        await recorder.record([started])
        self.outbox = outbox
        return [
            _keep("link", link.run),
            _keep("refusals", link.refusals.run),
            _keep("clock", lambda: _watch_clock(recorder)),
            self._street(recorder),
        ]

    async def abandon(self) -> None:
        if self.outbox is not None and not self.disk.dead:
            self.disk.crash()  # a process that ended by itself
        self.outbox = None

    async def _street(self, recorder: Recorder) -> None:
        while True:
            await asyncio.sleep(self.dice.expovariate(1 / self._pause_s))
            if not self.busy:
                continue
            count = 1 + int(self.dice.random() * self._burst)
            names = [f"m{len(self.witness.attempted) + n}" for n in range(count)]
            drafts = [recorder.about_door("door.fault", self.name, detail=name) for name in names]
            self.witness.attempted.update(names)
            self.witness.unanswered.update(names)
            stored = await recorder.record(drafts)
            if not self.disk.dead:
                self.witness.unanswered.difference_update(names)
                if not stored:
                    self.tally["events the store refused"] += count
                    self.witness.refused.update(names)


class Server(Side):
    """Broker link, pipeline, ledger and acknowledger of `ostiary serve`."""

    unsure_commits = True

    def __init__(
        self, folder: Path, seed: str, tally: Counter[str], wire: Wire, *, site: Site
    ) -> None:
        super().__init__("server", folder / "server", seed, tally, wire)
        self._site = site
        self._engine: AsyncEngine | None = None

    @property
    def identifier(self) -> str:
        return server_id(self._site.name)

    @property
    def database(self) -> Path:
        """The store of this life."""
        return self.disk.folder / "ostiary.db"

    async def begin(self) -> list[Any]:
        self._engine = await open_database(self.database)
        state = ServerState(
            self._engine,
            Hub(),
            self._site.name,
            self._site.suite,
            LinkStatus("mqtt://localhost:1883"),
            clock=self.clock,
        )
        stack = AsyncExitStack()
        ingest = await _assemble(self._site, {}, state, self.identifier, stack)
        return [
            ingest.link.run(ingest.pipeline.greet),
            ingest.pipeline.run(),
            ingest.acknowledger.run(),
        ]

    async def abandon(self) -> None:
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None
