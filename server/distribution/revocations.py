"""The revocation log: written down, announced, and told to every agent at once.

One task writes and one speaks. What is asked for while a transaction runs shares the next one, and
what is written while a message is on its way shares the next message: a single revocation waits for
nothing, and a thousand cost a handful of commits and messages.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.revocation import (
    MAX_ENTRIES,
    Denied,
    RevocationEntry,
    RevocationReason,
    RevokedKind,
)
from schemas.server_event_data import RevocationRequested
from schemas.suites import Suite
from schemas.topics import REVOCATION, everyone
from schemas.versions import LogHead
from server.clock import Clock, microseconds
from server.distribution.publish import Publish
from server.distribution.revocation_messages import LogDamaged, RevocationMessages
from server.ingest.verify import AlarmKind, Refusal
from server.store import revocations as rows
from server.store.announcements import announce_all
from server.store.database import DATABASE_ERRORS

MAX_MESSAGES = 40
"""Whoever lacks more than this many messages hold gets a snapshot."""
MAX_SKIPPED = 500_000
"""Of all sequences ever: half of what an agent takes for a fast-forward attack (`MAX_LEAP`), so one
that was away all the time still follows."""
MARGIN = 1000
"""Beyond what an agent reports: a heartbeat may have named it more than it has applied."""
BASE_INTERVAL_S = 60.0
_MOST_AT_ONCE = 1000
_KEPT_HASHES = 4096


log = structlog.get_logger(__name__)


class Stopped(Exception):
    """The log's writer has ended; asking the next one again is safe."""


@dataclass(frozen=True)
class Subject:
    """Who or what is to be denied, and why."""

    kind: RevokedKind
    subject: str
    reason: RevocationReason

    def __post_init__(self) -> None:
        # Raises ValueError (Pydantic's) where the subject does not name one of its kind.
        Denied(kind=self.kind, subject=self.subject, sequence=1, reason=self.reason)


@dataclass(frozen=True)
class Revoked:
    """The entry that denies; `new` is false if it stood there before."""

    entry: RevocationEntry
    new: bool


@dataclass(frozen=True)
class _Asked:
    subjects: Sequence[Subject]
    by: str
    answer: asyncio.Future[list[Revoked]]


class Revocations:
    """The site's log; `load` first, then `run`. Durable before it is told to anyone."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        site: str,
        suite: Suite,
        messages: RevocationMessages,
        publish: Publish,
        clock: Clock,
        announced: Callable[[], None],
        alarm: Callable[[Refusal], None],
    ) -> None:
        self._engine, self._site, self._suite = engine, site, suite
        self._messages, self._publish, self._clock = messages, publish, clock
        self._announced, self._alarm = announced, alarm
        self._ends = rows.Ends(LogHead(), LogHead(), 0)
        self._unsure = self._stopped = False
        self._asked: deque[_Asked] = deque()
        self._reported: dict[str, LogHead] = {}
        self._work = asyncio.Event()
        self._unsaid: deque[RevocationEntry] = deque()
        self._said = LogHead()
        self._news = asyncio.Event()
        self._hashes: OrderedDict[int, str] = OrderedDict()
        self._strays: set[str] = set()
        self._based_s: float | None = None

    @property
    def head(self) -> LogHead:
        """The newest entry and its hash, as heartbeats name it."""
        return self._ends.head

    async def load(self) -> None:
        """Read where the log stands."""
        async with self._engine.connect() as connection:
            self._ends = await rows.read_ends(connection)
        self._said = self.head

    async def run(self) -> None:
        """Write what is asked for and tell it, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write_stage())
                group.create_task(self._speak_stage())
        finally:
            self._stopped = True
            _give_up(self._asked)
            self._asked.clear()

    async def revoke(
        self, kind: RevokedKind, subject: str, reason: RevocationReason, by: str
    ) -> RevocationEntry:
        """Deny a card, a person or a key version; durable when this returns, and on its way.

        Who is denied already for the same reason gets no second entry, but the one that stands.
        Raises ValueError if `subject` does not name one of its kind, or what `revoke_all` raises.
        """
        return (await self.revoke_all([Subject(kind, subject, reason)], by))[0].entry

    async def revoke_all(self, subjects: Sequence[Subject], by: str) -> list[Revoked]:
        """As `revoke`, for many in one transaction, in their order.

        Raises what the database raises, or Stopped: what is asked for may then be done or not.
        """
        if self._stopped:
            raise Stopped
        answer: asyncio.Future[list[Revoked]] = asyncio.get_running_loop().create_future()
        self._asked.append(_Asked(subjects, by, answer))
        self._work.set()
        return await answer

    def reported(self, agent: str, head: LogHead) -> None:
        """Take the log's head that `agent` reports: it must be a part of ours."""
        if head != self.head and self._hashes.get(head.sequence) != head.hash:
            self._reported[agent] = head
            self._work.set()
        else:
            self._strays.discard(agent)

    async def after(self, sequence: int, agent: str = "") -> list[bytes] | None:
        """The messages that bring one who has the log up to `sequence` to its head.

        None if it takes a snapshot: too much is missing, or `agent` holds another log.
        """
        base, head = self._ends.base, self.head
        behind = head.sequence - sequence
        if behind <= 0 and agent not in self._strays:
            return []
        if agent in self._strays or sequence < base.sequence or behind > MAX_MESSAGES * MAX_ENTRIES:
            return None
        firsts = range(sequence + 1, head.sequence + 1, MAX_ENTRIES)
        try:
            return [
                await self._messages.range(first, min(first + MAX_ENTRIES - 1, head.sequence))
                for first in firsts
            ]
        except LogDamaged as error:  # what is still there denies all the same
            log.error("revocation_log_damaged", why=str(error), next_step="restore the database")
            return None

    async def snapshot(self, above: int = -1) -> tuple[bytes, Mapping[str, bytes]]:
        """The signed list of everyone who is denied, and its chunks by digest.

        It covers more than the sequence `above`, and lags by what one message holds at most.
        """
        return await self._messages.snapshot(self._ends, above)

    def chunk(self, digest: str) -> bytes | None:
        """A chunk of one of the snapshots that were given out last."""
        return self._messages.chunk(digest)

    async def _write_stage(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self._asked:
                await self._write(self._take())
            reported, self._reported = self._reported, {}
            for agent, head in reported.items():
                try:
                    await self._compare(agent, head)
                except DATABASE_ERRORS as error:  # the agent reports again in a few seconds
                    log.error("reported_log_not_compared", agent=agent, why=str(error)[:500])

    def _take(self) -> list[_Asked]:
        batch, size = [self._asked.popleft()], 0
        while self._asked and size < _MOST_AT_ONCE:
            batch.append(self._asked.popleft())
            size += len(batch[-1].subjects)
        return batch

    async def _write(self, batch: list[_Asked]) -> None:
        try:
            async with self._engine.begin() as connection:
                if self._unsure:
                    self._ends = await rows.read_ends(connection)
                    self._unsaid.clear()  # agents learn of the rest by their heartbeat
                    self._said = self.head
                answers, added = await self._append(connection, batch)
        except DATABASE_ERRORS as error:
            self._unsure = True  # a commit that failed may have happened
            log.error("revocation_not_written", why=str(error)[:500], next_step="try again")
            for asked in batch:
                if not asked.answer.done():
                    asked.answer.set_exception(error)
            return
        except BaseException:
            _give_up(batch)
            raise
        self._unsure = False
        for entry, digest in added:
            self._remember(entry.sequence, digest)
            self._unsaid.append(entry)
        if added:
            last, digest = added[-1]
            head = LogHead(sequence=last.sequence, hash=digest)
            self._ends = rows.Ends(self._ends.base, head, self._ends.count + len(added))
            self._announced()
            self._news.set()
        for asked, answer in zip(batch, answers, strict=True):
            if not asked.answer.done():  # whoever asked may have left; it is revoked all the same
                asked.answer.set_result(answer)

    async def _append(
        self, connection: AsyncConnection, batch: list[_Asked]
    ) -> tuple[list[list[Revoked]], list[tuple[RevocationEntry, str]]]:
        now = self._clock.now()
        standing = await self._standing(connection, [s for a in batch for s in a.subjects])
        head, answers = self.head, []
        added: list[tuple[RevocationEntry, str]] = []
        news = []
        for asked in batch:
            answer = []
            for each in asked.subjects:
                stands = standing.get((each.kind, each.subject))
                if stands is not None and stands.reason is each.reason:
                    answer.append(Revoked(stands, new=False))
                    continue
                entry = RevocationEntry(
                    kind=each.kind,
                    subject=each.subject,
                    sequence=head.sequence + 1,
                    reason=each.reason,
                    time=now,
                )
                digest = entry.hash_after(head.hash, self._suite.digest)
                head = LogHead(sequence=entry.sequence, hash=digest)
                added.append((entry, digest))
                standing[each.kind, each.subject] = entry
                answer.append(Revoked(entry, new=True))
                news.append(("revocation.requested", _about(entry), _requested(entry, asked.by)))
            answers.append(answer)
        await rows.append(connection, added)
        await announce_all(connection, news, microseconds(now))
        return answers, added

    async def _standing(
        self, connection: AsyncConnection, subjects: Sequence[Subject]
    ) -> dict[tuple[RevokedKind, str], RevocationEntry]:
        """The newest entry of each subject, unless a newer policy lets it in again."""
        standing: dict[tuple[RevokedKind, str], RevocationEntry] = {}
        for kind in {each.kind for each in subjects}:
            names = sorted({each.subject for each in subjects if each.kind == kind})
            cleared = await rows.read_cleared(connection, kind, names)
            for name, entry in (await rows.newest_of(connection, kind, names)).items():
                if entry.sequence > cleared.get(name, 0):
                    standing[kind, name] = entry
        return standing

    async def _compare(self, agent: str, theirs: LogHead) -> None:
        ours = self.head
        if theirs.sequence < ours.sequence:
            await self._compare_within(agent, theirs)
        elif theirs != ours:
            await self._move_on(agent, theirs)

    async def _compare_within(self, agent: str, theirs: LogHead) -> None:
        if theirs.sequence < self._ends.base.sequence:
            return  # of a log before a restored backup: it pulls, and gets a snapshot
        async with self._engine.connect() as connection:
            known = await rows.hash_at(connection, theirs.sequence)
        if known is not None:
            self._remember(theirs.sequence, known)
        if known == theirs.hash:
            self._strays.discard(agent)
        elif agent not in self._strays:
            self._strays.add(agent)
            self._warn(agent, f"has another entry {theirs.sequence} than this server")

    async def _move_on(self, agent: str, theirs: LogHead) -> None:
        """Let the log go on above what an agent holds already: this database is an older one."""
        now_s = self._clock.monotonic()
        if self._based_s is not None and now_s - self._based_s < BASE_INTERVAL_S:
            return  # it reports again; who makes things up costs a snapshot a minute at most
        ours = self.head
        sequence = max(ours.sequence, theirs.sequence) + MARGIN
        what = f"has applied entry {theirs.sequence}, this server's log ends at {ours.sequence}"
        self._based_s = now_s
        if sequence - self._ends.count > MAX_SKIPPED:
            self._warn(
                agent,
                f"{what}: too far to go on above it. If other agents say so too, give the role"
                " `revoke` a new key: with a new root document the count starts again",
            )
            return
        text = f"{ours.hash}\n{sequence}\nbase"
        base = LogHead(sequence=sequence, hash=self._suite.digest(text.encode()).hex())
        async with self._engine.begin() as connection:
            await rows.append_base(connection, base, microseconds(self._clock.now()))
        self._ends = rows.Ends(base, base, self._ends.count)
        self._unsaid.clear()
        self._said = base
        self._warn(
            agent,
            f"{what}: it was restored from a backup. Only agents that heard of what was revoked"
            f" since then deny it: revoke it again. The log goes on after {sequence}",
        )

    def _warn(self, agent: str, what: str) -> None:
        self._alarm(Refusal(AlarmKind.REVOCATION_LOG_BEHIND, agent, f"agent {agent} {what}"))

    def _remember(self, sequence: int, digest: str) -> None:
        self._hashes[sequence] = digest
        if len(self._hashes) > _KEPT_HASHES:
            self._hashes.popitem(last=False)

    async def _speak_stage(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._unsaid:
                entries = [
                    self._unsaid.popleft() for _ in range(min(len(self._unsaid), MAX_ENTRIES))
                ]
                previous, self._said = self._said, self._after(self._said, entries)
                await self._tell(entries, previous.hash)

    async def _tell(self, entries: list[RevocationEntry], previous: str) -> None:
        envelope = await self._messages.signed(entries, previous)
        try:
            await self._publish(everyone(self._site, REVOCATION), envelope, False)
        except ConnectionError as error:
            # not lost: every heartbeat names the head, and agents ask for what they lack
            log.warning("revocation_not_told", sequence=entries[-1].sequence, why=str(error))

    def _after(self, head: LogHead, entries: Sequence[RevocationEntry]) -> LogHead:
        digest = head.hash
        for entry in entries:
            digest = entry.hash_after(digest, self._suite.digest)
        return LogHead(sequence=entries[-1].sequence, hash=digest)


def _requested(entry: RevocationEntry, by: str) -> RevocationRequested:
    return RevocationRequested(
        by=by,
        sequence=entry.sequence,
        kind=entry.kind,
        subject=entry.subject,
        reason=entry.reason,
    )


def _about(entry: RevocationEntry) -> str:
    """The event's subject, in the form that all have."""
    if entry.kind == "key-version":
        return f"domains/{entry.subject.rpartition('/')[0]}"
    return f"{entry.kind}s/{entry.subject}"


def _give_up(asked: Iterable[_Asked]) -> None:
    for each in asked:
        if not each.answer.done():
            each.answer.set_exception(Stopped())
