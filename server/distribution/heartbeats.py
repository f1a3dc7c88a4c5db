"""Heartbeats: one for each agent every 30 s, spread evenly, and at once where something is new.

Their age is what an agent's staleness is measured by, so an agent gets one only while all that it
is to name is known, and while the agent is heard: what a door that is cut off still lets in then
ends with its grace, whatever reaches it in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.envelope import Signer
from schemas.heartbeat import INTERVAL_S, Heartbeat
from schemas.statement import sign_statement
from schemas.topics import HEARTBEAT, down
from schemas.versions import LogHead, Version
from server.clock import Clock, from_microseconds, microseconds
from server.distribution.publish import Publish
from server.store.counters import read_reserved, reserve
from server.store.database import DATABASE_ERRORS

TICK_S = 0.1
"""At most one batch is signed in this time, but for what is urgent."""
BATCH = 64
RESERVED_US = 60_000_000
_AHEAD = 100_000
"""Counters beyond the clock, for the first minute after a restart."""
_RETRY_S = 1.0
HEADS = 16
"""So many heads of the log are told apart by when heartbeats named them, for each agent."""
_AT_ONCE = 64


log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Facts:
    """What one agent's heartbeat names."""

    root: int
    policy: Version | None
    revocation: LogHead
    lockdown: int
    key_floors: Mapping[str, int] = field(default_factory=dict)


class HeartbeatMetrics:
    """One set of counters per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sent = Counter(
            "ostiary_heartbeats_sent_total", "Heartbeats the broker took", registry=registry
        )


class Heartbeats:
    """Signs and sends them; `load` first, then `run`.

    Counters are times in microseconds and go up over restarts too.
    """

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        site: str,
        signer: Signer,
        publish: Publish,
        executor: Executor,
        clock: Clock,
        connected: Callable[[], bool],
        agents: Callable[[], Collection[str]],
        facts: Callable[[str], Facts | None],
        metrics: HeartbeatMetrics,
    ) -> None:
        self._engine, self._site, self._signer = engine, site, signer
        self._publish, self._executor, self._clock = publish, executor, clock
        self._connected, self._agents, self._facts = connected, agents, facts
        self._metrics = metrics
        self._last = self._reserved = 0
        self._urgent: dict[str, None] = {}
        self._gone: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._round: list[str] = []
        self._turn = 0
        self._round_s = 0.0
        self._issued: dict[str, list[tuple[int, datetime]]] = {}
        self._earlier: datetime | None = None
        """No heartbeat of an earlier run was issued later: counters are times, and reserved."""

    def beat(self, agent: str) -> None:
        """Send this agent one now: it is new here, or something it is to name is."""
        self._urgent[agent] = None
        self._wake.set()

    def forget(self, agent: str) -> None:
        """The agent is gone: what the broker keeps for it is taken back."""
        self._gone[agent] = None
        self._wake.set()

    def issued(self, agent: str) -> list[tuple[int, datetime]]:
        """Heads of the revocation log that the agent's heartbeats named, ascending.

        Each with when the newest that named it was issued; what came before the last HEADS of them
        counts as the first of those. Empty: it never got a heartbeat.
        """
        earlier = [] if self._earlier is None else [(0, self._earlier)]
        return self._issued.get(agent) or earlier

    async def load(self) -> None:
        """Read how far an earlier run may have counted."""
        self._last = self._reserved = await read_reserved(self._engine)
        self._earlier = from_microseconds(self._reserved) if self._reserved else None

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        self._begin_round(self._clock.monotonic())
        while True:
            # without a broker nobody's turn passes: those who wait get theirs when it is back
            connected = self._connected()
            if connected and self._gone:
                await self._clear()
            if connected and (agents := self._take()):
                await self._send(agents)
            if not connected or not self._urgent:
                await self._rest()

    async def _clear(self) -> None:
        while self._gone:
            agent = next(iter(self._gone))
            del self._gone[agent]
            if agent in self._agents():
                continue  # it was enrolled again meanwhile
            try:
                await self._publish(down(self._site, agent, HEARTBEAT), b"", True)
            except ConnectionError:
                self._gone[agent] = None  # at the next connection
                return

    async def _rest(self) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(TICK_S):
                await self._wake.wait()
        except TimeoutError:
            pass  # the next ones are due

    def _take(self) -> list[str]:
        """Whose turn it is: the urgent first."""
        now_s = self._clock.monotonic()
        if now_s >= self._round_s + INTERVAL_S:
            self._begin_round(now_s)
        agents = list(self._urgent)[:BATCH]
        for agent in agents:
            del self._urgent[agent]
        through = min(1.0, (now_s - self._round_s) / INTERVAL_S)
        due = self._round[self._turn : int(through * len(self._round))][: BATCH - len(agents)]
        self._turn += len(due)
        return [*agents, *due]

    def _begin_round(self, now_s: float) -> None:
        for agent in self._round[self._turn :]:
            self._urgent[agent] = None
        late = now_s - self._round_s >= 2 * INTERVAL_S
        self._round_s = now_s if late else self._round_s + INTERVAL_S
        self._round, self._turn = sorted(self._agents()), 0

    async def _send(self, agents: Sequence[str]) -> None:
        facts = {agent: known for agent in agents if (known := self._facts(agent)) is not None}
        now = self._clock.now()
        first = max(self._last + 1, microseconds(now))
        self._last = first + len(facts)
        try:
            if self._last > self._reserved:
                self._reserved = max(self._last + _AHEAD, microseconds(now) + RESERVED_US)
                await reserve(self._engine, self._reserved)
        except DATABASE_ERRORS as error:
            self._reserved = 0
            self._urgent.update(dict.fromkeys(agents))
            log.error(
                "heartbeats_held",
                why=str(error)[:500],
                next_step="check the database; doors become stale meanwhile",
            )
            await asyncio.sleep(_RETRY_S)
            return
        loop = asyncio.get_running_loop()
        signed = await loop.run_in_executor(self._executor, self._sign, facts, now, first)
        for start in range(0, len(signed), _AT_ONCE):
            some = signed[start : start + _AT_ONCE]
            for agent, _ in some:
                self._note(agent, facts[agent].revocation.sequence, now)
            told = await asyncio.gather(
                *(self._publish(down(self._site, a, HEARTBEAT), e, True) for a, e in some),
                return_exceptions=True,
            )
            for failure in (each for each in told if each is not None):
                if not isinstance(failure, ConnectionError):
                    raise failure
            self._metrics.sent.inc(sum(each is None for each in told))

    def _note(self, agent: str, head: int, now: datetime) -> None:
        """It goes out now, and may arrive though the broker does not say so."""
        heads = self._issued.setdefault(agent, self.issued(agent))
        if heads and heads[-1][0] == head:
            heads[-1] = (head, max(heads[-1][1], now))
            return
        heads.append((head, now))
        if len(heads) > HEADS:
            # the one that is dropped was issued no later than the next: that stands for it
            (dropped, _), (_, issued) = heads[:2]
            heads[:2] = [(dropped, issued)]

    def _sign(
        self, facts: Mapping[str, Facts], issued: datetime, first: int
    ) -> list[tuple[str, bytes]]:
        return [
            (
                agent,
                sign_statement(
                    Heartbeat(
                        site=self._site,
                        audience=agent,
                        issued=issued,
                        counter=counter,
                        root=known.root,
                        policy=known.policy,
                        revocation=known.revocation,
                        lockdown=known.lockdown,
                        key_floors=dict(known.key_floors),
                    ),
                    self._signer,
                ),
            )
            for counter, (agent, known) in enumerate(facts.items(), first)
        ]
