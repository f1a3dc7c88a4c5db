"""The one bell that rings after each commit.

It carries no events, only the news that there are some: every listener reads them from the store
itself. So nothing can be lost, reordered or queued without bound here, and a slow listener is
nobody else's burden.
"""

from __future__ import annotations

import asyncio


class HubClosed(Exception):
    """The server is shutting down; there will be no more news."""


class Hub:
    """Wakes whoever waits for a position beyond the one they have read.

    Belongs to one event loop; call it from that loop's thread only.
    """

    def __init__(self) -> None:
        self._position = 0
        self._closed = False
        self._news = asyncio.Event()

    @property
    def position(self) -> int:
        """The highest position announced so far; 0 before the first."""
        return self._position

    @property
    def closed(self) -> bool:
        """Whether there will be no more news."""
        return self._closed

    def committed(self, position: int) -> None:
        """Say that every event up to `position` can be read from the store.

        Call it after the commit, never before. A position that is not beyond the last is no news.
        """
        if position > self._position:
            self._position = position
            self._ring()

    def close(self) -> None:
        """Send every waiter home, now and from here on: the server is shutting down."""
        self._closed = True
        self._ring()

    async def wait_beyond(self, position: int) -> int:
        """Return the newest position as soon as one beyond `position` was committed.

        Read the store to its end first: commits from before the server's start are not announced.
        Raises HubClosed at shutdown.
        """
        # No await stands between the comparison and taking hold of the bell, so a commit can't
        # slip in between: no wake-up is lost. Nothing is registered, so nothing leaks on cancel.
        while self._position <= position:
            if self._closed:
                raise HubClosed("the event feed is closed: the server is shutting down")
            await self._news.wait()
        return self._position

    def _ring(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
