"""What agents say and ask: reports, pulls, renewals, keys, and the broker's word of broken links.

Each agent has a short queue of its own and they are served in turn, so one that has gone mad takes
its own time and nobody else's. Names no agent has share one queue: they are someone's invention, or
an agent that was enrolled a moment ago.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from schemas.enrolment import Renewal
from schemas.envelope import KeyRing
from schemas.errors import MalformedTopic
from schemas.keys import KeyRequest
from schemas.report import Pull, Report
from schemas.topics import WILL, parse_up
from schemas.transport import TransportRequest
from server.clock import Clock
from server.core.clones import Clones, Sighting
from server.core.hearing import Heard, hear
from server.ingest.checking import check_all
from server.ingest.registry import Registry
from server.ingest.verify import AlarmKind, Refusal

MAX_WAITING = 64
"""Messages of one agent that wait; a well one never has more than three or four."""
MAX_MESSAGES = 16_384
MAX_BYTES = 32 * 1024 * 1024
RATE_PER_S = 40.0
BURST = 160.0
"""Of one agent: a full fetch of a policy takes 10 pulls a second on a fast network."""
_STRANGERS = 8
"""How many times an agent's share the names have together that no agent has."""
_BATCH = 64
GATHER_S = 0.01
"""How long the first of some messages waits for others: one errand of a thread serves them all."""

log = structlog.get_logger(__name__)


class Handlers(Protocol):
    """Who is told. None of them may wait, but for a renewal, which is signed."""

    def heard(self, agent: str, report: Report) -> None: ...

    def pulled(self, agent: str, pull: Pull) -> None: ...

    def broken(self, agent: str) -> None: ...

    async def renewed(self, agent: str, renewal: Renewal) -> None: ...

    def keys_asked(self, agent: str, request: KeyRequest) -> None: ...

    def transport_asked(self, agent: str, request: TransportRequest) -> None: ...


@dataclass
class _Lane:
    share: float
    tokens: float
    at_s: float
    waiting: deque[tuple[str, bytes]] = field(default_factory=deque)

    def allow(self, now_s: float) -> bool:
        """A token bucket: whether one more is within the rate."""
        gained = (now_s - self.at_s) * RATE_PER_S * self.share
        self.tokens, self.at_s = min(BURST * self.share, self.tokens + gained), now_s
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Inbox:
    """`offer` from the link, `run` for the work."""

    def __init__(
        self,
        *,
        site: str,
        registry: Registry,
        executor: ThreadPoolExecutor,
        threads: int,
        clock: Clock,
        metrics: CollectorRegistry,
        refused: Callable[[Refusal], None],
        handlers: Handlers,
    ) -> None:
        self._site, self._registry, self._clock = site, registry, clock
        self._executor, self._threads = executor, threads
        self._refused, self._handlers = refused, handlers
        self._lanes: dict[str | None, _Lane] = {}
        self._turns: deque[_Lane] = deque()
        """Those with something waiting, whose turn it is at the front."""
        self._count = self._bytes = 0
        self._wake = asyncio.Event()
        self._pulls = Clones()
        self._renewals: asyncio.Queue[tuple[str, Renewal]] = asyncio.Queue(256)
        self._waiting = Gauge(
            "ostiary_inbox_messages", "Agents' statements waiting", registry=metrics
        )
        self._dropped = Counter(
            "ostiary_inbox_dropped_total",
            "Agents' statements dropped: too many at once, of one agent or of all",
            registry=metrics,
        )

    def offer(self, topic: str, payload: bytes) -> bool:
        """Whether there was room for the message. Never waits."""
        lane, size = self._lane(topic), len(topic) + len(payload)
        if (
            len(lane.waiting) >= MAX_WAITING * lane.share
            or self._count >= MAX_MESSAGES
            or self._bytes + size > MAX_BYTES
            or not lane.allow(self._clock.monotonic())
        ):
            self._dropped.inc()
            return False
        if not lane.waiting:
            self._turns.append(lane)
        lane.waiting.append((topic, payload))
        self._count += 1
        self._bytes += size
        self._waiting.set(self._count)
        self._wake.set()
        return True

    async def run(self) -> None:
        """Verify and hand over, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew())
            while True:
                messages = await self._take()
                checked = await self._verify(messages)
                for result in checked:
                    try:
                        self._hand_over(result)
                    except Exception:  # a fault of ours: the other agents are heard
                        log.exception("message_not_taken")

    def _lane(self, topic: str) -> _Lane:
        try:
            name: str | None = parse_up(topic).agent
        except MalformedTopic:
            name = None
        if name not in self._registry.agents:
            name = None
        lane = self._lanes.get(name)
        if lane is None:
            share = 1 if name is not None else _STRANGERS
            lane = _Lane(share, BURST * share, self._clock.monotonic())
            self._lanes[name] = lane
        return lane

    async def _take(self) -> list[tuple[str, bytes]]:
        while not self._turns:
            self._wake.clear()
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
        taken: list[tuple[str, bytes]] = []
        while self._turns and len(taken) < _BATCH:
            lane = self._turns.popleft()
            taken.append(lane.waiting.popleft())
            if lane.waiting:
                self._turns.append(lane)
        self._count -= len(taken)
        self._bytes -= sum(len(topic) + len(payload) for topic, payload in taken)
        self._waiting.set(self._count)
        return taken

    async def _verify(self, messages: list[tuple[str, bytes]]) -> list[Heard | Refusal | str]:
        return await check_all(
            messages,
            self._check,
            registry=self._registry,
            executor=self._executor,
            threads=self._threads,
        )

    def _check(self, topic: str, payload: bytes, ring: KeyRing) -> Heard | Refusal | str:
        return _broken(topic, self._site) or hear(topic, payload, ring, self._site)

    def _hand_over(self, result: Heard | Refusal | str) -> None:
        match result:
            case Refusal():
                self._refused(result)
            case str():
                if result in self._registry.agents:
                    self._handlers.broken(result)
            case Heard(agent, Report() as report):
                self._handlers.heard(agent, report)
            case Heard(agent, Pull() as pull):
                if self._pulls.seen(agent, pull.session, pull.counter) is Sighting.REPLAY:
                    detail = f"pull {pull.counter} of session {pull.session} came again"
                    self._refused(Refusal(AlarmKind.REPLAYED, agent, detail))
                else:
                    self._handlers.pulled(agent, pull)
            case Heard(agent, KeyRequest() as request):
                self._handlers.keys_asked(agent, request)
            case Heard(agent, TransportRequest() as request):
                self._handlers.transport_asked(agent, request)
            case Heard(agent, Renewal() as renewal):
                if self._renewals.full():
                    self._dropped.inc()  # the agent asks again
                else:
                    self._renewals.put_nowait((agent, renewal))

    async def _renew(self) -> None:
        while True:
            agent, renewal = await self._renewals.get()
            await self._handlers.renewed(agent, renewal)


def _broken(topic: str, site: str) -> str | None:
    """The agent whose connection broke, if that is what the message says."""
    try:
        up = parse_up(topic)
    except MalformedTopic:
        return None
    return up.agent if (up.site, up.channel) == (site, WILL) else None
