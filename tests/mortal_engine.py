"""A database whose process ends, or whose connection is lost, at a chosen commit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


class Stopped(BaseException):
    """The process ends here."""


class Mortal:
    """An engine whose process ends at the commit `dies_at` (counted from 0), before or after it.

    The next `fails` commits lose the connection instead, before or after they are written.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine, self.commits = engine, 0
        self.dies_at: int | None = None
        self.fails = 0
        self.written = False

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        number, self.commits = self.commits, self.commits + 1
        end: BaseException | None = Stopped() if number == self.dies_at else None
        if self.fails:
            self.fails, end = self.fails - 1, OSError("the connection was lost")
        async with self._engine.begin() as connection:
            yield connection
            if end is not None and not self.written:
                raise end
        if end is not None:
            raise end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
