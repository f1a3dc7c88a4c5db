"""Whatever kills the server: what it counts never goes back, what it told is not forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.command import Action, Command
from schemas.envelope import unverified_payload
from schemas.heartbeat import Heartbeat
from schemas.lockdown import Lockdowns
from schemas.revocation import Revocation, RevocationReason
from schemas.statement import parse_statement, payload_type
from schemas.topics import COMMAND, HEARTBEAT, LOCKDOWN, REVOCATION, everyone
from schemas.versions import LogHead
from server.distribution.commands import Session
from server.distribution.drafts import WHOLE
from server.distribution.heartbeats import Facts
from server.distribution.revocations import Stopped
from server.store import policies as policy_rows
from server.store import revocations as log_rows
from server.store.database import DatabaseUnavailable, open_database
from tests.chaos.disk import Disk
from tests.model_rig import ModelRig
from tests.orders_rig import FakeClock, Orders
from tests.site_keys import SiteKeys

AGENTS = ("front-agent", "back-agent")
SUBJECTS = [f"{n:016x}" for n in range(4)]
REASONS = [RevocationReason.LOST, RevocationReason.LEFT]
DIED = (SQLAlchemyError, sqlite3.Error, DatabaseUnavailable, Stopped)
KEYS = SiteKeys()
STATEMENTS: dict[str, Any] = {
    HEARTBEAT: Heartbeat,
    COMMAND: Command,
    LOCKDOWN: Lockdowns,
    REVOCATION: Revocation,
}


class Server:
    """One life on one disk."""

    def __init__(self, engine: AsyncEngine, executor: ThreadPoolExecutor, clock: FakeClock) -> None:
        self.engine = engine
        self.orders = Orders(engine, executor, KEYS, clock)
        self.model = ModelRig(engine, KEYS, clock, executor)  # type: ignore[arg-type]

    async def begin(self) -> None:
        await self.orders.load()
        self._writing = asyncio.create_task(self.orders.revocations.run())

    async def end(self) -> None:
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        await self.engine.dispose()

    @property
    def said(self) -> list[tuple[str, bytes, bool]]:
        return self.orders.broker.messages


class ServerState(RuleBasedStateMachine):
    """What the server told anybody is compared with what it tells and knows afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.executor = self.stack.enter_context(ThreadPoolExecutor(1))
        self.clock, self.disk = FakeClock(), Disk(self.folder / "0", Random(1), Counter())
        self.lives = itertools.count(1)
        real = sqlite3.connect
        self.stack.enter_context(
            patch("sqlite3.connect", lambda path, **k: self.disk.connect(path, real, **k))
        )
        self.counters: dict[tuple[str, str], int] = {}
        self.log: dict[int, str] = {}
        self.lockdowns: dict[int, Any] = {}
        self.policies: dict[str, tuple[int, str]] = {}
        self.locked: set[str] = set()
        self.events: set[tuple[str, str]] = set()
        self.ids = itertools.count()
        self.server: Server

    @initialize()
    def start(self) -> None:
        (self.disk.folder / "ostiary.db").write_bytes(_new_database())
        self.runner.run(self._open())
        self.do(self._describe)

    def teardown(self) -> None:
        self.runner.run(self.server.end())
        self.stack.close()

    async def _open(self) -> None:
        engine = await open_database(self.disk.folder / "ostiary.db")
        self.server = Server(engine, self.executor, self.clock)
        await self.server.begin()
        await self._check()

    def do(self, work: Callable[[], Awaitable[None]]) -> None:
        """One thing the server is asked for; it may die of it, and lives again."""
        self.runner.run(self._do(work))

    async def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        server, before = self.server, len(self.server.said)
        try:
            await work()
        except DIED:
            assert self.disk.dead
        for topic, payload, _ in server.said[before:]:
            self._told(topic, payload)
        if self.disk.dead:
            await server.end()
            folder = self.disk.image.rename(self.folder / f"{next(self.lives)}")
            self.disk = Disk(folder, Random(len(self.log)), Counter())
            await self._open()
        else:
            self.disk.crash_in(None)
            await self._check()

    def _told(self, topic: str, payload: bytes) -> None:
        channel = topic.rpartition("/")[2]
        data = unverified_payload(payload, payload_type(channel), max_bytes=1 << 20)
        word = parse_statement(data, STATEMENTS[channel])
        if channel in (HEARTBEAT, COMMAND):
            assert word.counter > self.counters.get((channel, word.audience), 0)
            self.counters[channel, word.audience] = word.counter
        elif channel == LOCKDOWN:
            assert word.counter >= max(self.lockdowns, default=0)
            assert self.lockdowns.setdefault(word.counter, word.active) == word.active
        else:
            digest = word.previous
            for entry in word.entries:
                digest = entry.hash_after(digest, KEYS.suite.digest)
                assert self.log.setdefault(entry.sequence, digest) == digest

    async def _check(self) -> None:
        """The store against all that was ever told or answered."""
        orders, engine = self.server.orders, self.server.engine
        newest = max(self.lockdowns, default=0)
        assert orders.lockdowns.counter >= newest
        if orders.lockdowns.counter == newest and newest:
            assert set(orders.lockdowns.active) == set(self.lockdowns[newest])
        assert self.locked <= {each.id for each in orders.lockdowns.active}
        assert orders.revocations.head.sequence >= max(self.log, default=0)
        async with engine.connect() as connection:
            for sequence, digest in self.log.items():
                assert await log_rows.hash_at(connection, sequence) == digest
            for agent, (version, digest) in self.policies.items():
                stored = await policy_rows.newest_policy(connection, agent)
                assert stored is not None
                assert stored.version >= version
                assert stored.version > version or stored.hash == digest
        told = {(each.name, str(_key(each.data))) for each in await orders.announcements()}
        assert self.events <= told

    # What is asked for

    async def _describe(self) -> None:
        await self.server.model.apply(_document(0))

    @rule(moment=st.integers(1, 25))
    def a_kill_is_near(self, moment: int) -> None:
        self.disk.crash_in(moment)

    @rule(seconds=st.sampled_from([1.0, 61.0, 86_400.0, -30.0, -86_400.0]))
    def the_clock_is_set(self, seconds: float) -> None:
        self.clock.pass_time(seconds)

    @rule(subject=st.sampled_from(SUBJECTS), reason=st.sampled_from(REASONS))
    def a_card_is_revoked(self, subject: str, reason: RevocationReason) -> None:
        async def work() -> None:
            entry = await self.server.orders.revocations.revoke("card", subject, reason, "test")
            self.events.add(("revocation.requested", str(entry.sequence)))
            for message in await self.server.orders.revocations.after(entry.sequence - 1) or ():
                self._told(everyone("demo", REVOCATION), message)

        self.do(work)

    @rule()
    def a_lockdown_begins(self) -> None:
        async def work() -> None:
            name = f"l{next(self.ids)}"
            await self.server.orders.lockdowns.start("site", "demo", (), "test", id=name)
            self.locked.add(name)
            self.events.add(("lockdown.started", name))

        self.do(work)

    @rule()
    def a_lockdown_ends(self) -> None:
        async def work() -> None:
            active = self.server.orders.lockdowns.active
            if active:
                self.locked.discard(active[0].id)
                await self.server.orders.lockdowns.end(active[0].id, "test")
                self.events.add(("lockdown.ended", active[0].id))

        self.do(work)

    @rule(agent=st.sampled_from(AGENTS), taken=st.integers(0, 2))
    def a_command_is_sent(self, agent: str, taken: int) -> None:
        async def work() -> None:
            orders = self.server.orders
            known = self.counters.get((COMMAND, agent), 0)
            orders.sessions[agent] = Session("ab" * 8, max(0, known - taken))
            door = agent.removesuffix("-agent")
            sending = asyncio.ensure_future(orders.commands.send(door, Action.PULSE, "test"))
            heard = asyncio.ensure_future(orders.broker.until(len(self.server.said) + 1))
            await asyncio.wait({sending, heard}, return_when=asyncio.FIRST_COMPLETED)
            heard.cancel()
            if sending.done():
                sending.result()
            sending.cancel()
            await asyncio.gather(sending, heard, return_exceptions=True)

        self.do(work)

    @rule(agent=st.sampled_from(AGENTS))
    def a_heartbeat_is_due(self, agent: str) -> None:
        async def work() -> None:
            orders = self.server.orders
            head, counter = orders.revocations.head, orders.lockdowns.counter
            orders.facts[agent] = Facts(root=1, policy=None, revocation=head, lockdown=counter)
            assert isinstance(head, LogHead)
            with patch("server.distribution.heartbeats._RETRY_S", 0):
                await orders.heartbeats._send([agent])

        self.do(work)

    @rule(grace_s=st.sampled_from([0, 60, 3600]))
    def the_model_changes(self, grace_s: int) -> None:
        async def work() -> None:
            model = self.server.model
            await model.apply(_document(grace_s))
            for agent in AGENTS:
                made = await model.compiler().make(agent, WHOLE, applied=None, above=0)
                assert made is not None
                version, digest = self.policies.get(agent, (0, ""))
                assert made.version >= version
                assert made.version > version or made.hash == digest
                self.policies[agent] = made.version, made.hash
                if made.version > version:
                    self.events.add(("policy.published", f"{agent} {made.version}"))

        self.do(work)


@cache
def _new_database() -> bytes:
    """With its tables, which take longer to make than all the rest."""

    async def make(path: Path) -> None:
        await (await open_database(path)).dispose()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ostiary.db"
        asyncio.run(make(path))
        return path.read_bytes()


def _key(data: dict[str, Any]) -> object:
    """What tells one announcement of its kind from another."""
    if "policy_version" in data or "version" in data:
        return f"{data.get('agent')} {data.get('policy_version', data.get('version'))}"
    return data.get("sequence", data.get("lockdown", data.get("command")))


def _document(grace_s: int) -> dict[str, Any]:
    return {
        "doors": {
            agent.removesuffix("-agent"): {"agent": agent, "settings": {"grace_s": grace_s}}
            for agent in AGENTS
        }
    }


TestServerState = pytest.mark.slow(ServerState.TestCase)
ServerState.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
)
