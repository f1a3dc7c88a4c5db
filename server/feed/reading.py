"""Reading the feed: a page at a time, from a place, with or without waiting for more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
from sqlalchemy.ext.asyncio import AsyncEngine

from server.feed import cursor
from server.feed.hub import Hub, HubClosed
from server.store import events as store
from server.store.events import StoredEvent


class CursorAhead(Exception):
    """A cursor beyond the store's end: the store was put back to an older backup."""


@dataclass(frozen=True)
class Filter:
    """Which events: of any of these full CloudEvents types (none: all), about this subject."""

    types: Sequence[str] = ()
    subject: str | None = None


@dataclass(frozen=True)
class Page:
    """Events in arrival order, where to go on from, and whether more are waiting there."""

    events: Sequence[StoredEvent]
    position: int
    more: bool


class Feed:
    """All events of one store. Every reader has only a position; none is known to the server.

    A read is short and runs to its end even if its client leaves: the SQLite driver can't give back
    a connection that is cancelled half-way (its thread would stay behind).
    """

    def __init__(self, db: AsyncEngine, hub: Hub) -> None:
        self._db = db
        self._hub = hub
        self._store_id: str | None = None

    async def store_id(self) -> str:
        """The name of the store, which cursors are bound to."""
        if self._store_id is None:
            with anyio.CancelScope(shield=True):
                self._store_id = await store.store_id(self._db)
        assert self._store_id is not None  # the scope is never cancelled, only shields
        return self._store_id

    async def position_of(self, text: str) -> int:
        """The position a cursor names. Raises BadCursor, ForeignCursor or CursorAhead."""
        position = cursor.decode(await self.store_id(), text)
        newest = await self.newest()
        if position > newest:
            raise CursorAhead("cursor is beyond the newest event: the store lost some since")
        return position

    async def newest(self) -> int:
        """The position of the newest event; 0 if there is none."""
        return await store.last_position(self._db)

    async def read(self, after: int, limit: int, wanted: Filter) -> Page:
        """Up to `limit` wanted events after position `after`."""
        # Asked before the events are read: up to here the store is surely read through, so a
        # reader whose filter matches little need not walk the same stretch again.
        with anyio.CancelScope(shield=True):
            newest = await store.last_position(self._db)
            found = await store.read_after(
                self._db, after, limit + 1, types=wanted.types, subject=wanted.subject
            )
        if len(found) > limit:
            return Page(found[:limit], found[limit - 1].position, more=True)
        reached = max(after, newest, found[-1].position if found else 0)
        return Page(found, reached, more=False)

    async def read_or_wait(self, after: int, limit: int, wanted: Filter, wait_s: float) -> Page:
        """Like `read`, but with nothing there wait up to `wait_s` seconds for the first event."""
        clock = asyncio.get_running_loop()
        until = clock.time() + wait_s
        page = await self.read(after, limit, wanted)
        while not page.events and await self.more_after(page.position, until - clock.time()):
            page = await self.read(page.position, limit, wanted)
        return page

    async def more_after(self, position: int, within_s: float) -> bool:
        """Whether something was committed beyond `position` within this time.

        False at shutdown too.
        """
        try:
            async with asyncio.timeout(within_s):
                await self._hub.wait_beyond(position)
        except (TimeoutError, HubClosed):
            return False
        return True

    @property
    def closed(self) -> bool:
        """The server is shutting down."""
        return self._hub.closed
