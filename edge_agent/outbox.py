"""The durable store of events that the server has not acknowledged yet, as one hash chain.

`append` returns once the line is committed to disk. A line is deleted only when a signed
acknowledgement covers it. A full store keeps the oldest lines, counts what it must drop, and says
so in an `agent.events_lost` line, as the first thing once there is room again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from pydantic import BaseModel
from sqlite_utils import Database

from edge_agent import outbox_tables as tables
from edge_agent.clock import Clock
from edge_agent.database import DatabaseThread
from edge_agent.outbox_tables import Cause, Loss, OutboxState, StoredLine, Why
from schemas.chain import Digest, compose_line
from schemas.errors import MalformedEvent
from schemas.event_data import BufferHigh, EventsLost
from schemas.events import agent_subject, event_type
from schemas.suites import RandomBytes

P = ParamSpec("P")
R = TypeVar("R")

CAPACITY = 200_000
HIGH = 0.9
HIGH_OVER = 0.8
"""Below this share the next `agent.buffer_high` may come."""


class OutboxFailed(Exception):
    """The disk failed or the store is full. An event that was not stored will be declared lost."""


class AcknowledgementMismatch(Exception):
    """The server acknowledged lines that this store does not hold; nothing was deleted."""


@dataclass(frozen=True)
class Draft:
    """An event to be stored: `data` is what `schemas.events.EVENT_DATA` has for `name`."""

    name: str
    subject: str
    data: BaseModel
    time: datetime


class Outbox:
    """One agent's chain. Open it with `open`; one process at a time."""

    def __init__(
        self,
        thread: DatabaseThread,
        state: OutboxState,
        *,
        digest: Digest,
        source: str,
        clock: Clock,
        capacity: int,
    ) -> None:
        self._thread = thread
        self._state = state
        self._digest = digest
        self._source = source
        self._clock = clock
        self._capacity = capacity
        self._changed = asyncio.Event()
        self._begun = False

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        digest: Digest,
        source: str,
        clock: Clock,
        random: RandomBytes,
        capacity: int = CAPACITY,
    ) -> Outbox:
        """The store at `path`; a new one gets a chain id from `random`."""
        thread = DatabaseThread(path, "outbox")
        try:
            state = await thread.run(tables.create, random)
        except BaseException:
            await thread.close()
            raise
        return cls(thread, state, digest=digest, source=source, clock=clock, capacity=capacity)

    @property
    def state(self) -> OutboxState:
        """The state after the last commit."""
        return self._state

    async def append(self, name: str, subject: str, data: BaseModel, time: datetime) -> StoredLine:
        """Store one event, as `append_all` does."""
        (stored,) = await self.append_all([Draft(name, subject, data, time)])
        return stored

    async def append_all(self, drafts: Sequence[Draft]) -> list[StoredLine]:
        """Store these events, all or none, and return when they are on disk.

        They are written even if the caller is cancelled. Raises OutboxFailed if the disk fails, the
        store is full, or one is no line that a server would take.
        """
        return await self._run(self._append, drafts)

    async def lines_after(self, sequence: int, limit: int, most_bytes: int) -> list[StoredLine]:
        """The next lines after `sequence`: at most `limit`, and joined at most `most_bytes`."""
        return await self._thread.run(
            tables.lines_after, self._state.head.chain, sequence, limit, most_bytes
        )

    async def acknowledge(self, chain: str, sequence: int, hash: str, issued: datetime) -> None:
        """Delete the lines up to `sequence`, if `hash` is that of our own line there.

        What was acknowledged before says nothing new. Raises AcknowledgementMismatch, or
        OutboxFailed if the disk fails: the lines stay, and will be acknowledged again.
        """
        await self._run(self._acknowledge, chain, sequence, hash, issued)

    async def changed(self) -> None:
        """Wait until lines came or went since the last call. For one waiter: the link."""
        await self._changed.wait()
        self._changed.clear()

    def nudge(self) -> None:
        """Let the waiter of `changed` look again."""
        self._changed.set()

    async def begin(self) -> Cause:
        """How the last run ended, marking this one as running until `close`.

        Raises OutboxFailed if the mark can't be made.
        """
        try:
            cause = await self._thread.run(tables.begin)
        except sqlite3.Error as error:
            raise OutboxFailed(f"the start could not be marked: {error}") from error
        self._begun = True
        return cause

    async def close(self) -> None:
        """Finish what is queued, and mark a clean end of what `begin` began.

        Raises OutboxFailed if the mark can't be made: the next start will say that this run was
        killed.
        """
        try:
            if self._begun:
                await self._thread.run(tables.end)
        except sqlite3.Error as error:
            raise OutboxFailed(f"the end could not be marked: {error}") from error
        finally:
            await self._thread.close()

    async def _run(
        self, function: Callable[Concatenate[Database, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        loop = asyncio.get_running_loop()
        future = self._thread.submit(function, *args, **kwargs)
        future.add_done_callback(lambda _: _tell(loop, self._changed))
        return await asyncio.shield(asyncio.wrap_future(future))

    # What follows runs on the outbox thread.

    def _append(self, database: Database, drafts: Sequence[Draft]) -> list[StoredLine]:
        needed = len(drafts) + (1 if self._state.lost else 0)
        if self._state.waiting + needed > self._capacity:
            self._count_loss(drafts, "buffer_full")
            self._keep_loss(database)
            raise OutboxFailed(
                f"the event store holds {self._state.waiting} events that the server has not"
                f" acknowledged, its capacity; {_names(drafts)} is dropped. Restore the connection"
            )
        writer = _Writer(self._state, self._digest, self._source)
        try:
            with database.atomic():
                self._declare_loss(database, writer)
                stored = [writer.write(database, draft) for draft in drafts]
                self._warn(database, writer)
                tables.save(database, writer.state)
        except sqlite3.Error as error:
            self._count_loss(drafts, "storage_error")
            raise OutboxFailed(
                f"{_names(drafts)} could not be stored: {error}. Check the disk of the state"
                " directory"
            ) from error
        except MalformedEvent as error:
            self._count_loss(drafts, "storage_error")
            raise OutboxFailed(f"{_names(drafts)} can't be stored: {error}") from error
        self._state = writer.state
        return stored

    def _declare_loss(self, database: Database, writer: _Writer) -> None:
        lost = writer.state.lost
        if lost is None:
            return
        data = EventsLost(
            clock=self._clock.status(),
            count=lost.count,
            lost_from=datetime.fromisoformat(lost.first),
            lost_until=datetime.fromisoformat(lost.last),
            why=lost.why,
        )
        self._about_agent(database, writer, "agent.events_lost", data)
        writer.state = replace(writer.state, lost=None)

    def _warn(self, database: Database, writer: _Writer) -> None:
        waiting, warned = writer.state.waiting, writer.state.warned
        if not warned and HIGH * self._capacity <= waiting < self._capacity:
            data = BufferHigh(clock=self._clock.status(), stored=waiting, capacity=self._capacity)
            self._about_agent(database, writer, "agent.buffer_high", data)
            writer.state = replace(writer.state, warned=True)
        elif warned and waiting < HIGH_OVER * self._capacity:
            writer.state = replace(writer.state, warned=False)

    def _about_agent(self, database: Database, writer: _Writer, name: str, data: BaseModel) -> None:
        subject = agent_subject(self._source.rpartition("/")[2])
        writer.write(database, Draft(name, subject, data, self._clock.now()))

    def _count_loss(self, drafts: Sequence[Draft], why: Why) -> None:
        """In memory at least: a disk that fails can't be told either."""
        first, last = drafts[0].time.isoformat(), drafts[-1].time.isoformat()
        lost = self._state.lost or Loss(0, first, last, why)
        lost = replace(lost, count=lost.count + len(drafts), last=last)
        self._state = replace(self._state, lost=lost)

    def _keep_loss(self, database: Database) -> None:
        try:
            with database.atomic():
                tables.save(database, self._state)
        except sqlite3.Error as error:
            raise OutboxFailed(f"the loss of an event could not be recorded: {error}") from error

    def _acknowledge(
        self, database: Database, chain: str, sequence: int, hash: str, issued: datetime
    ) -> None:
        state = self._state
        if chain != state.head.chain:
            raise AcknowledgementMismatch(f"acknowledged chain {chain}, ours is {state.head.chain}")
        if sequence <= state.acknowledged:
            return
        line = tables.line_at(database, sequence)
        if line is None:
            raise AcknowledgementMismatch(
                f"acknowledged line {sequence}, our last is {state.head.sequence}:"
                " was the state directory restored from a backup?"
            )
        if self._digest(line).hex() != hash:
            raise AcknowledgementMismatch(f"the server holds another line {sequence} than ours")
        server_time = issued if state.server_time is None else max(issued, state.server_time)
        acknowledged = replace(state, acknowledged=sequence, server_time=server_time)
        try:
            with database.atomic():
                tables.forget(database, sequence)
                tables.save(database, acknowledged)
        except sqlite3.Error as error:
            raise OutboxFailed(
                f"acknowledged lines up to {sequence} could not be deleted: {error}"
            ) from error
        self._state = acknowledged


class _Writer:
    """Extends a chain inside one transaction; its state counts only if that commits."""

    def __init__(self, state: OutboxState, digest: Digest, source: str) -> None:
        self.state = state
        self._digest = digest
        self._source = source

    def write(self, database: Database, draft: Draft) -> StoredLine:
        line, head = compose_line(
            self.state.head,
            self._digest,
            source=self._source,
            type=event_type(draft.name),
            subject=draft.subject,
            time=draft.time,
            data=draft.data.model_dump(mode="json"),
        )
        stored = StoredLine(f"{head.chain}-{head.sequence}", head.sequence, line)
        tables.insert(database, stored)
        self.state = replace(self.state, head=head)
        return stored


def _names(drafts: Sequence[Draft]) -> str:
    return ", ".join(draft.name for draft in drafts)


def _tell(loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(changed.set)
