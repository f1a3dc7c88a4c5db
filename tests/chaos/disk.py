"""A disk that fails, and that is cut off in the middle of anything, under the real SQLite."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Literal

Sickness = Literal["full", "broken"]
LOCKED_S = 30.0
"""Real seconds."""
_MESSAGES = {"full": "database or disk is full", "broken": "disk I/O error"}


class Disk:
    """One folder, for one life of a process. After a crash `image` is what the next life finds.

    As `kill -9` leaves it: all that was written, nothing that was not. A commit that is cut in two
    leaves part of what it appended to the write-ahead log, as a power cut may.
    """

    def __init__(
        self, folder: Path, dice: Random, tally: Counter[str], *, unsure: bool = False
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.dead = False
        self.sick: Sickness | None = None
        self.image = folder.with_name(f"{folder.name}+")
        self.on_crash: Callable[[], None] = lambda: None
        self._unsure = unsure
        self._dice = dice
        self._tally = tally
        self._crash_in: int | None = None
        self._lock = threading.Lock()

    def connect(
        self, path: Path | str, real: Callable[..., sqlite3.Connection], **kwargs: Any
    ) -> Any:
        """`sqlite3.connect`, whose statements go by this disk."""
        # the real wait for another's lock would keep that other from this disk: see `do`
        connection = real(path, factory=_Connection, **kwargs | {"timeout": 0})
        assert isinstance(connection, _Connection)
        connection.disk, connection.log = self, Path(f"{path}-wal")
        return connection

    def spared(self, path: Path) -> sqlite3.Connection:
        """A connection for who only looks: this disk does not fail it."""
        return sqlite3.Connection(path, isolation_level=None)

    def crash_in(self, statements: int | None) -> None:
        """Die just before or after a statement that is yet to come; None: go on living."""
        self._crash_in = statements

    def crash(self) -> None:
        """Die now, between two statements."""
        with self._lock:
            if not self.dead:
                self._die("kill between statements")

    def do(self, connection: sqlite3.Connection, sql: str, work: Callable[[], Any]) -> Any:
        """One statement; while another connection holds the database's lock, again and again."""
        ends_s = time.monotonic() + LOCKED_S
        while True:
            try:
                return self._do_once(connection, sql, work)
            except sqlite3.OperationalError as error:
                busy = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > ends_s:
                    raise
            time.sleep(0.001)  # the server's own thread: the event loop goes on

    def _do_once(self, connection: sqlite3.Connection, sql: str, work: Callable[[], Any]) -> Any:
        verb = sql.split(None, 1)[0].upper()
        with self._lock:
            if self.dead:
                raise sqlite3.OperationalError("this process is dead")
            if self._crash_in is not None:
                self._crash_in -= 1
                if self._crash_in <= 0:
                    self._crash_at(connection, verb, work)
            if self.sick and self._strikes(verb):
                self._fail(connection, verb, work)
            return work()

    def _strikes(self, verb: str) -> bool:
        spared = ("PRAGMA", "ROLLBACK", "SAVEPOINT", "RELEASE")
        if verb in spared or (self.sick == "full" and verb in ("SELECT", "BEGIN")):
            return False
        return self._dice.random() < 0.5

    def _fail(self, connection: sqlite3.Connection, verb: str, work: Callable[[], Any]) -> None:
        assert self.sick is not None
        self._tally[f"disk {self.sick}: {verb}"] += 1
        if self._unsure and verb == "COMMIT" and self._dice.random() < 0.3:
            work()  # as a database server whose answer got lost: it is committed after all
        elif connection.in_transaction and self._dice.random() < 0.3:
            connection.rollback()  # SQLite does so by itself after some errors
        raise sqlite3.OperationalError(_MESSAGES[self.sick])

    def _crash_at(self, connection: Any, verb: str, work: Callable[[], Any]) -> None:
        log = connection.log
        before = log.stat().st_size if log and log.exists() else 0
        moment = self._dice.choice(("before", "after"))
        if moment == "after":
            work()
        self._die(f"kill {moment} {verb}")
        grown = log.stat().st_size - before if log and log.exists() else 0
        if log and verb == "COMMIT" and grown > 0 and self._dice.random() < 0.5:
            self._tally["commit cut in two"] += 1
            with (self.image / log.name).open("r+b") as file:
                file.truncate(before + int(self._dice.random() * grown))
        raise sqlite3.OperationalError("this process is dead")

    def _die(self, how: str) -> None:
        self.dead = True
        self._tally[how] += 1
        self.image.mkdir()
        for file in self.folder.glob("*.db*"):
            if not file.name.endswith("-shm"):
                shutil.copyfile(file, self.image / file.name)
        self.on_crash()


class _Connection(sqlite3.Connection):
    disk: Disk | None = None
    log: Path | None = None
    """Its write-ahead log."""

    def cursor(self, factory: Any = None) -> Any:  # `execute` of the connection comes here too
        return super().cursor(_Cursor)

    def commit(self) -> None:
        if self.disk is None:
            super().commit()
        else:
            self.disk.do(self, "COMMIT", super().commit)


class _Cursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        if sql.startswith("PRAGMA busy_timeout"):
            sql = "PRAGMA busy_timeout=0"
        return self._do(sql, lambda: super(_Cursor, self).execute(sql, parameters))

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        return self._do(sql, lambda: super(_Cursor, self).executemany(sql, parameters))

    def _do(self, sql: str, work: Callable[[], Any]) -> Any:
        assert isinstance(self.connection, _Connection)
        disk = self.connection.disk
        return work() if disk is None else disk.do(self.connection, sql, work)
