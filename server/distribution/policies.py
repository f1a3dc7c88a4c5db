"""The policy of every agent, kept up with the model: what changed is compiled, signed and told.

Desired state follows the model and waits for no agent: a policy is stored, and the agent is told if
it is there. One that was away learns of it by its heartbeat and pulls it. What can't be made for
one agent holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from importlib.metadata import version as version_of
from itertools import islice
from time import perf_counter
from zoneinfo import ZoneInfo

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.envelope import Signer
from schemas.root import Root
from schemas.suites import Suite
from schemas.topics import POLICY, down
from schemas.versions import MAX_LEAP, Version
from server.clock import Clock
from server.core.card_tree import PolicyTooLarge
from server.distribution.compiling import Compiler
from server.distribution.drafts import WHOLE, Order, Outcome, Task
from server.distribution.publish import Publish
from server.ingest.verify import AlarmKind, Refusal
from server.model.reading import agents_with_doors, forget_touched, touched_since
from server.model.revisions import touch
from server.store import policies as rows
from server.store.database import DATABASE_ERRORS, snapshot
from server.store.model_tables import model_state

QUIET_S = 0.1
"""So long nothing must change before policies are made ..."""
PATIENCE_S = 2.0
"""... but no longer than this does a change wait for others."""
LOOK_S = 3600.0
"""How often to see whether a new day has come; a clock may have been set meanwhile."""
RETRY_S = 30.0
STRAY_S = 60.0
"""At most so often does an agent get a new version because of what it reports."""
MARGIN = 1000
"""Beyond a version this server never made: the agent may have been told of more than it applied."""
MAKERS = 2
"""One may wait for the database while another has the compiler's thread."""
AT_ONCE = 32
"""Agents whose policies are made or told of together."""

log = structlog.get_logger(__name__)


class Policies:
    """`load` first, then `run`; `model_changed` after each change of the model."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        root: Callable[[], Root],
        suite: Suite,
        signer: Signer,
        executor: ThreadPoolExecutor,
        clock: Clock,
        metrics: CollectorRegistry,
        publish: Publish,
        live: Callable[[str], bool],
        beat: Callable[[str], None],
        announced: Callable[[], None],
        alarm: Callable[[Refusal], None],
    ) -> None:
        self._engine, self._root, self._clock = engine, root, clock
        self._publish, self._live, self._beat = publish, live, beat
        self._announced, self._alarm = announced, alarm
        self._compiler = Compiler(
            engine=engine, root=root, suite=suite, signer=signer, executor=executor, clock=clock
        )
        self._newest: dict[str, Version] = {}
        self._reported: dict[str, Version] = {}
        self._heeded: dict[str, tuple[Version, float]] = {}
        """agent -> the last stray version that was answered by a new one, and when."""
        self._due: dict[str, Task] = {}
        self._busy: set[str] = set()
        self._again: set[str] = set()
        """Agents for whom something went wrong that may pass."""
        self._undone: dict[str, Task] = {}
        """agent -> what its newest policy was to be made for when that failed."""
        self.failures: dict[str, str] = {}
        """agent -> why its newest policy is not what the model says."""
        self._seen = 0
        """The revision of the model up to which changes were looked at."""
        self._day = ""
        self._wake, self._work, self._idle = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._untold: asyncio.Queue[str] = asyncio.Queue()
        self._metrics = _Metrics(metrics)

    async def load(self) -> None:
        """Read which versions there are."""
        self._newest = {
            stored.agent: Version(version=stored.version, hash=stored.hash)
            for stored in await rows.list_policies(self._engine)
        }

    def newest(self, agent: str) -> Version | None:
        """The newest policy of an agent; None: it has none yet."""
        return self._newest.get(agent)

    async def envelope(self, agent: str) -> bytes | None:
        """The newest policy of an agent, signed."""
        async with self._engine.connect() as connection:
            stored = await rows.newest_policy(connection, agent)
        return None if stored is None else stored.envelope

    async def chunks(self, agent: str, digests: Iterable[str]) -> Mapping[str, bytes]:
        """Those of these chunks that a policy of this agent names."""
        async with self._engine.connect() as connection:
            return await rows.read_chunks(connection, agent, digests)

    def model_changed(self) -> None:
        """The model was changed, and committed."""
        self._wake.set()

    def reported(self, agent: str, applied: Version | None) -> None:
        """Take the policy that `agent` reports to have applied.

        One that this server never made is of a database that was restored from a backup since: the
        next version is above it. At most once in STRAY_S for each agent: whoever has its key must
        not make us sign one policy after another. It reports again before that is over.
        """
        if applied is None:
            self._reported.pop(agent, None)
            return
        self._reported[agent] = applied
        if not self._is_stray(agent, applied):
            return
        last, at_s = self._heeded.get(agent, (None, 0.0))
        now_s = self._clock.monotonic()
        if last is not None and (applied == last or now_s - at_s < STRAY_S):
            return
        self._heeded[agent] = (applied, now_s)
        own = self._newest.get(agent)
        known = own.version if own is not None else 0
        ahead = f"agent {agent} has applied policy {applied.version}, the newest is {known}"
        if applied.version > known + MAX_LEAP:
            self._alarm(Refusal(AlarmKind.STATE_BEHIND, agent, f"{ahead}: too far to follow"))
            return
        self._alarm(Refusal(AlarmKind.STATE_BEHIND, agent, f"{ahead}: the next one goes beyond it"))
        self._owe(agent, Task(anew=True))
        self._wake.set()

    async def run(self) -> None:
        """Keep policies up with the model and tell agents of them, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_stage())
            for _ in range(MAKERS):
                group.create_task(self._make_stage())
            group.create_task(self._tidy_stage())
            group.create_task(self._check_stage())
            wait_s = 0.0
            while True:
                await self._settled(wait_s)
                wait_s = await self._look()

    async def _settled(self, wait_s: float) -> None:
        """Wait for a change, or so long, and then until it is quiet."""
        if await self._woken(wait_s):
            deadline_s = self._clock.monotonic() + PATIENCE_S
            while (left_s := deadline_s - self._clock.monotonic()) > 0:
                self._wake.clear()
                if not await self._woken(min(QUIET_S, left_s)):
                    break
        self._wake.clear()

    async def _woken(self, wait_s: float) -> bool:
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    async def _look(self) -> float:
        """Note what is to be made; after how many seconds to look again if nothing changes."""
        try:
            async with snapshot(self._engine) as connection:
                touched = await touched_since(connection, self._seen)
                with_doors = await agents_with_doors(connection)
                zone = ZoneInfo(str(await connection.scalar(select(model_state.c.timezone))))
                day = f"{self._clock.now().astimezone(zone).date()} {version_of('ostiary')}"
                new_day = await rows.day_looked_at(connection) != day
        except DATABASE_ERRORS as error:
            log.error(
                "model_not_read",
                why=str(error)[:500],
                retry_s=RETRY_S,
                next_step="check the database; doors go by the policies they have",
            )
            return RETRY_S
        everyone = {*with_doors, *self._newest}
        for agent in (
            everyone if touched.everyone else self._again | {*with_doors} - {*self._newest}
        ):
            self._owe(agent, WHOLE)
        for agent, slots in touched.agents.items():
            self._owe(agent, Task(slots))
        for agent in everyone if new_day and day != self._day else ():
            self._owe(agent, Task())
        self._seen, self._day = touched.revision, day
        self._again = set()
        self._idle.set()
        return min(LOOK_S, _until_midnight_s(self._clock.now(), zone))

    def _owe(self, agent: str, task: Task) -> None:
        self._due[agent] = self._due.get(agent, Task()).with_(task)
        self._metrics.waiting.set(len(self._due))
        self._work.set()

    async def _make_stage(self) -> None:
        while True:
            agents = list(islice((a for a in self._due if a not in self._busy), AT_ONCE))
            if not agents:
                self._work.clear()
                await self._work.wait()
                continue
            tasks = {agent: self._due.pop(agent) for agent in agents}
            self._busy.update(agents)
            try:
                await self._make(tasks)
            finally:
                self._busy.difference_update(agents)
            self._metrics.waiting.set(len(self._due))
            self._work.set()  # the same agents may be due again
            self._idle.set()

    async def _make(self, tasks: Mapping[str, Task]) -> None:
        orders = {
            agent: Order(
                task.with_(self._undone.get(agent, task)),
                self._reported.get(agent),
                self._above(agent),
            )
            for agent, task in tasks.items()
        }
        began_s = perf_counter()
        made = await self._compiler.make_all(orders)
        each_s = (perf_counter() - began_s) / len(orders)
        for agent, outcome in made.items():
            self._metrics.seconds.observe(each_s)
            self._take(agent, outcome, orders[agent].task)
        self._announced()

    def _take(self, agent: str, outcome: Outcome, task: Task) -> None:
        if isinstance(outcome, Exception):
            self._undone[agent] = task.with_(WHOLE)
            self.failures[agent] = str(outcome)[:500]
            self._metrics.failed.inc()
            if isinstance(outcome, PolicyTooLarge):
                log.error("policy_not_made", agent=agent, why=str(outcome))
            else:
                log.error("policy_not_made", agent=agent, retry_s=RETRY_S, exc_info=outcome)
                self._again.add(agent)
                asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)
            return
        self.failures.pop(agent, None)
        self._undone.pop(agent, None)
        # one that is not new may be so here: a commit that failed had happened
        if outcome is not None and outcome != self._newest.get(agent):
            self._newest[agent] = outcome
            self._metrics.published.inc()
            self._untold.put_nowait(agent)
            log.info("policy_published", agent=agent, version=outcome.version)

    def _is_stray(self, agent: str, applied: Version) -> bool:
        """Whether this server never made it."""
        own = self._newest.get(agent)
        if own is None or applied.version > own.version:
            return True
        return applied.version == own.version and applied.hash != own.hash

    def _above(self, agent: str) -> int:
        """The agent's next policy must have a version above this."""
        applied, own = self._reported.get(agent), self._newest.get(agent)
        if applied is None or not self._is_stray(agent, applied):
            return 0
        leaps = applied.version > (own.version if own else 0) + MAX_LEAP
        return 0 if leaps else applied.version + MARGIN

    async def _tidy_stage(self) -> None:
        """Once all is made, forget what was: after a crash it would be looked at again."""
        done = (0, "")
        while True:
            await self._idle.wait()
            self._idle.clear()
            seen, day = looked = (self._seen, self._day)
            if self._due or self._busy or looked == done or not day:
                continue
            try:
                async with self._engine.begin() as connection:
                    await forget_touched(connection, seen)
                    await touch(connection, seen, dict.fromkeys(self.failures))
                    await rows.looked_at(connection, day)
            except DATABASE_ERRORS as error:
                log.error("changes_not_forgotten", why=str(error)[:500], consequence="looked again")
            else:
                done = looked

    async def _tell_stage(self) -> None:
        while True:
            agents = [await self._untold.get()]
            while len(agents) < AT_ONCE and not self._untold.empty():
                agents.append(self._untold.get_nowait())
            # who is away learns of it by the heartbeat when it is back
            if there := [agent for agent in agents if self._live(agent)]:
                await self._tell(there)

    async def _tell(self, agents: Collection[str]) -> None:
        try:
            async with self._engine.connect() as connection:
                stored = await rows.newest_policies(connection, agents)
        except DATABASE_ERRORS as error:
            log.info("policies_not_told", agents=len(agents), why=str(error)[:500])
            return
        site = self._root().site
        said = (self._publish(down(site, a, POLICY), p.envelope, False) for a, p in stored.items())
        told = await asyncio.gather(*said, return_exceptions=True)
        for agent, failure in zip(stored, told, strict=True):
            if failure is None:
                self._beat(agent)
            elif isinstance(failure, ConnectionError):
                log.info("policy_not_told", agent=agent, why=str(failure)[:500])
            else:
                raise failure

    async def _check_stage(self) -> None:
        """Owe a new version to each agent whose stored one is not signed by the present key."""
        left = sorted(self._newest)
        while left:
            try:
                async with self._engine.connect() as connection:
                    stored = await rows.newest_policy(connection, left[-1])
            except DATABASE_ERRORS as error:
                log.error("policy_not_checked", why=str(error)[:500], retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)
                continue
            agent = left.pop()
            if stored is not None and not await self._compiler.is_ours(stored):
                self._owe(agent, Task(None, anew=True))


def _until_midnight_s(now: datetime, zone: ZoneInfo) -> float:
    """Seconds to a little after the next local midnight."""
    local = now.astimezone(zone)
    tomorrow = local.date() + timedelta(days=1)
    midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone)
    return max(1.0, midnight.timestamp() - now.timestamp() + 1.0)


class _Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.waiting = Gauge(
            "ostiary_policies_waiting", "Agents whose policy is being made", registry=registry
        )
        self.published = Counter(
            "ostiary_policies_published_total", "Policies signed and stored", registry=registry
        )
        self.failed = Counter(
            "ostiary_policies_failed_total", "Policies that could not be made", registry=registry
        )
        self.seconds = Histogram(
            "ostiary_policy_seconds",
            "Duration of making an agent's policy, or finding that it says nothing new",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
