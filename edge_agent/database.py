"""One SQLite database, used from one named thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from sqlite_utils import Database

P = ParamSpec("P")
R = TypeVar("R")

BUSY_TIMEOUT_S = 5.0


def connect(path: Path) -> Database:
    """The database at `path`, made if it is not there.

    What is committed survives a power cut: WAL with synchronous=FULL syncs each commit.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    database = Database(connection)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return database


class DatabaseThread:
    """Runs functions on a database one after another, off the event loop."""

    def __init__(self, path: Path, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._path = path
        self._database: Database | None = None

    async def run(
        self, function: Callable[Concatenate[Database, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """What `function` returns. Once asked for it is carried out, even if the asker is gone."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(function, *args, **kwargs)))

    def submit(
        self, function: Callable[Concatenate[Database, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """Queue `function`; the order of calls is the order of work."""
        return self._thread.submit(lambda: self._call(function, *args, **kwargs))

    def _call(
        self, function: Callable[Concatenate[Database, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        if self._database is None:
            self._database = connect(self._path)
        return function(self._database, *args, **kwargs)

    async def close(self) -> None:
        """Finish what is queued, then let go of the file."""
        await self.run(_close)
        self._thread.shutdown(wait=False)


def _close(database: Database) -> None:
    database.close()
