"""A process that can be killed at any commit: the next one finds what its disk held then."""

from __future__ import annotations

import functools
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest import mock

Moment = Literal["before", "after"]


class Killed(BaseException):
    """The process is gone: nothing in it may catch this."""


class Fate:
    """When the next kill comes, and the disk as it was at that moment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._left = 0
        self._moment: Moment = "before"
        self.path = folder / "0" / "trust.db"
        self._lives = 0

    def arm(self, moment: Moment, commit: int) -> None:
        """Kill at the `commit`th commit from now."""
        self._moment, self._left = moment, commit

    def disarm(self) -> None:
        self._left = 0

    def is_due(self, moment: Moment) -> bool:
        if self._left == 0 or moment != self._moment:
            return False
        self._left -= 1
        return self._left == 0

    def kill(self) -> None:
        """Keep the files as they are now, for the next life."""
        self._lives += 1
        new = self._folder / str(self._lives) / self.path.name
        new.parent.mkdir()
        for suffix in ("", "-wal"):
            old = self.path.with_name(self.path.name + suffix)
            if old.exists():
                shutil.copyfile(old, new.with_name(new.name + suffix))
        self.path = new
        raise Killed


@contextmanager
def mortal(folder: Path) -> Iterator[Fate]:
    """While this lasts, every SQLite connection that is opened has the fate that is given."""
    fate = Fate(folder)

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if sql == "COMMIT" and fate.is_due("before"):
                fate.kill()
            cursor = super().execute(sql, *parameters)
            if sql == "COMMIT" and fate.is_due("after"):
                fate.kill()
            return cursor

    connect = functools.partial(sqlite3.connect, factory=Connection)
    with mock.patch("edge_agent.database.sqlite3.connect", connect):
        yield fate
