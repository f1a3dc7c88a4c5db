"""From messages to committed events: verify, place, commit, and only then show and acknowledge.

Two stages run at once: while one batch is being committed, the next one is being verified. Placing
happens in the second, one batch after the other, so heads are always those of the database.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.envelope import KeyRing
from schemas.names import SERVER
from schemas.server_event_data import AlarmRaised
from schemas.suites import Suite
from server.clock import Clock, from_microseconds, microseconds
from server.feed.hub import Hub
from server.ingest.acknowledge import Acknowledger
from server.ingest.alarms import Alarms
from server.ingest.checking import check_all
from server.ingest.doors import takeovers
from server.ingest.heads import Batch, Row, questions
from server.ingest.intake import Intake, Message
from server.ingest.journal import Journal, Said, say_alarm
from server.ingest.ledger import Ledger
from server.ingest.metrics import IngestMetrics
from server.ingest.registry import Registry
from server.ingest.verify import AlarmKind, Refusal, Verified, verify_message
from server.store.announcements import Announcement, waiting
from server.store.database import DATABASE_ERRORS

MAX_BATCH = 512
MAX_BATCH_BYTES = 2 * 1024 * 1024
"""Some 3,000 lines: a commit stays well under a second."""
MOST_ANNOUNCED = 256
"""Told of in one commit."""
MOST_OUTSIDE = 1000
"""Refusals of other parts that wait for a commit; beyond it the oldest is dropped."""
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0

log = structlog.get_logger(__name__)

Checked = Sequence[Verified | Refusal]


class Pipeline:
    """Takes from `intake` until it is closed and empty; then everything is committed."""

    def __init__(
        self,
        *,
        site: str,
        suite: Suite,
        intake: Intake,
        registry: Registry,
        ledger: Ledger,
        journal: Journal,
        acknowledger: Acknowledger,
        hub: Hub,
        clock: Clock,
        metrics: IngestMetrics,
        executor: ThreadPoolExecutor,
        threads: int,
        engine: AsyncEngine,
        committed: Callable[[Sequence[Row]], None],
        reloaded: Callable[[], None],
    ) -> None:
        """`committed` is told what a commit has stored, once it has.

        `reloaded` is called after a commit of which the answer may have been lost: it may be stored
        and `committed` not told.
        """
        self._site, self._suite, self._intake = site, suite, intake
        self._registry, self._ledger, self._journal = registry, ledger, journal
        self._acknowledger, self._hub, self._clock = acknowledger, hub, clock
        self._metrics, self._executor, self._threads = metrics, executor, threads
        self._engine, self._committed, self._reloaded = engine, committed, reloaded
        self._alarms = Alarms()
        self._outside: deque[Refusal] = deque(maxlen=MOST_OUTSIDE)
        self._announced = True
        """Whether announcements may wait: those of an earlier run do."""
        self._unsaid: list[AlarmRaised] = []
        self._checked: asyncio.Queue[Checked | None] = asyncio.Queue(maxsize=1)
        self._backoff_s = FIRST_BACKOFF_S

    async def run(self) -> None:
        """Both stages, until the intake is closed and all of it is committed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._verify_stage())
            group.create_task(self._commit_stage())

    def announced(self) -> None:
        """A transaction that announced something is committed: make events of it."""
        self._announced = True
        self._nudge()

    def alarm(self, refusal: Refusal) -> None:
        """Raise an alarm for what another part has refused or missed."""
        self._outside.append(refusal)
        self._nudge()

    def _nudge(self) -> None:
        if not self._checked.full():  # else a commit is coming anyway
            self._checked.put_nowait(())

    def greet(self) -> None:
        """Tell every known agent where its chain stands: the server has (re)connected."""
        for agent in self._registry.agents:
            head = self._ledger.heads.newest(agent)
            if head is not None:
                self._acknowledger.resend(agent, head)

    async def _verify_stage(self) -> None:
        while messages := await self._intake.take(MAX_BATCH, MAX_BATCH_BYTES):
            self._metrics.queue.set(len(self._intake))
            await self._checked.put(await self._verify(messages))
        await self._checked.put(None)

    async def _verify(self, messages: list[Message]) -> Checked:
        return await check_all(
            messages,
            self._check,
            registry=self._registry,
            executor=self._executor,
            threads=self._threads,
        )

    def _check(self, topic: str, payload: bytes, ring: KeyRing) -> Verified | Refusal:
        return verify_message(topic, payload, ring, self._site, self._suite)

    async def _commit_stage(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._alarms.due_in(self._clock.monotonic())):
                    checked = await self._checked.get()
            except TimeoutError:
                checked = ()  # repeats of an alarm are to be recorded
            if checked is None:
                return
            await self._store(checked)

    async def _store(self, checked: Checked) -> None:
        """Commit what was checked; one message that can't be taken holds up no other."""
        try:
            await self._commit(checked)
            self._backoff_s = FIRST_BACKOFF_S
        except DATABASE_ERRORS as error:
            await self._recover(error, len(checked))
        except Exception as error:
            log.exception("commit_failed", messages=len(checked))
            await self._recover(error, len(checked))
            if len(checked) == 1:
                agent = checked[0].agent
                said = f"a message of {agent} could not be taken: {type(error).__name__}"
                self.alarm(Refusal(AlarmKind.MALFORMED, agent, f"{said}; see the server's log"))
                return
            for each in checked:
                await self._store((each,))

    async def _commit(self, checked: Checked) -> None:
        ledger, now_s = self._ledger, self._clock.monotonic()
        messages = [c for c in checked if isinstance(c, Verified)]
        stored = await ledger.digests(questions(ledger.heads, messages), self._suite)
        batch = Batch(ledger.heads, stored, now_s, self._registry.announced)
        for result in checked:
            if isinstance(result, Verified):
                batch.place(result)
            else:
                batch.alarms.append(result)
        batch.alarms += takeovers(ledger.doors, batch.rows)
        outside = len(self._outside)
        batch.alarms += list(self._outside)
        now = self._clock.now()
        announced = await self._to_announce()
        alarms = [
            *self._unsaid,
            *self._alarms.raise_for(batch.alarms, self._registry.agents, now_s),
        ]
        self._unsaid = alarms  # until they are committed
        for _ in range(outside):
            self._outside.popleft()
        rows, heads = batch.rows, batch.heads
        to_say = [*map(_said, announced), *(say_alarm(each, self._site, now) for each in alarms)]
        if to_say:
            said, head = self._journal.compose(to_say, ledger.heads.newest(SERVER))
            rows, heads = [*rows, *said], {**heads, (SERVER, head.chain): head}
        if rows:
            with self._metrics.commit_seconds.time():
                position = await ledger.commit(
                    rows, heads, microseconds(now), [each.id for each in announced]
                )
            self._hub.committed(position)
            self._committed(rows)
        self._unsaid = []
        self._acknowledge(batch)
        self._count(batch)
        for alarm in alarms:
            self._metrics.alarms.labels(alarm.kind).inc()
            log.warning("alarm", kind=alarm.kind, agent=alarm.agent, detail=alarm.detail)

    async def _to_announce(self) -> list[Announcement]:
        if not self._announced:
            return []
        self._announced = False  # before the look: what comes after it sets it again
        found = await waiting(self._engine, MOST_ANNOUNCED)
        if len(found) == MOST_ANNOUNCED:
            self.announced()
        return found

    def _acknowledge(self, batch: Batch) -> None:
        heads = self._ledger.heads
        for agent, chain in batch.acknowledge.items():
            self._acknowledger.committed(agent, heads.of(agent, chain))
        for agent, chain in batch.resend.items():
            self._acknowledger.resend(agent, heads.of(agent, chain))

    def _count(self, batch: Batch) -> None:
        metrics, now = self._metrics, self._clock.now()
        metrics.committed.inc(len(batch.rows))
        metrics.duplicates.inc(batch.duplicates)
        for refusal in batch.alarms:
            metrics.refused.labels(refusal.kind).inc()
        for row in batch.rows:
            if row.signed is not None:
                metrics.age_seconds.observe((now - row.link.event.time).total_seconds())

    async def _recover(self, error: Exception, messages: int) -> None:
        """Nothing was acknowledged: agents send it again. Read back what the database has."""
        while True:
            self._metrics.commit_failures.inc()
            self._announced = True  # what was looked up is told of by no event yet
            log.error(
                "commit_failed",
                why=str(error)[:500],
                messages=messages,
                retry_s=self._backoff_s,
                next_step="check disk space and the database; agents keep their events meanwhile",
            )
            await asyncio.sleep(self._backoff_s)
            self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)
            try:
                await self._ledger.load()
            except DATABASE_ERRORS as again:
                error = again
            else:
                self._reloaded()
                return


def _said(each: Announcement) -> Said:
    return Said(each.name, each.subject, each.data, from_microseconds(each.time_us))
