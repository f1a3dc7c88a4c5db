"""Opening the database: pragmas, migrations, and an identity of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

BUSY_TIMEOUT_MS = 10_000
DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error, OSError)
"""What a statement raises when the database is in trouble."""
_rolling_back: set[asyncio.Task[None]] = set()


class DatabaseUnavailable(Exception):
    """The database can't be opened, or its schema is newer than this program."""


async def open_database(target: Path | str) -> AsyncEngine:
    """The database at a path or SQLAlchemy URL, brought to the newest schema.

    A SQLite database is durable at commit (WAL, synchronous=FULL). Raises DatabaseUnavailable.
    """
    url = f"sqlite+aiosqlite:///{target}" if isinstance(target, Path) else target
    try:
        engine = create_async_engine(url, hide_parameters=True)  # of persons, in the log
    except (ArgumentError, ImportError) as error:  # its words show no password
        raise DatabaseUnavailable(f"the setting `database` can't be used: {error}") from error
    if make_url(url).get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", _sqlite_pragmas)
        event.listen(engine.sync_engine, "invalidate", _roll_back)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_migrate)
            await connection.commit()
    except DBAPIError as error:
        await engine.dispose()
        shown = target if isinstance(target, Path) else make_url(url).render_as_string()
        raise DatabaseUnavailable(
            f"the database {shown} can't be opened: {error.orig}; check that it is there, whole, "
            "and writable for you, or restore it from a backup"
        ) from error
    except BaseException:
        await engine.dispose()
        raise
    return engine


@asynccontextmanager
async def snapshot(db: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection that sees one state of the database, whatever is committed meanwhile."""
    async with db.connect() as connection:
        if db.dialect.name == "sqlite":  # its driver begins a transaction for a write alone
            await connection.exec_driver_sql("BEGIN")
            yield connection
        else:
            yield await connection.execution_options(isolation_level="REPEATABLE READ")


@asynccontextmanager
async def sole_writer(db: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction whose reads hold until it commits: no other process writes meanwhile.

    Keep it short. In PostgreSQL it is alone among those that go about keys.
    """
    async with db.begin() as connection:
        if db.dialect.name == "sqlite":  # its driver begins a transaction for a write alone
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            await connection.exec_driver_sql("LOCK TABLE key_domains IN EXCLUSIVE MODE")
        yield connection


async def overwrite_freed(db: AsyncEngine) -> None:
    """Have SQLite move what is committed out of its log, so that no old page stays there."""
    if db.dialect.name == "sqlite":
        async with db.connect() as connection:
            await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _sqlite_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # a commit survives the loss of power
        cursor.execute("PRAGMA foreign_keys=ON")
    finally:
        cursor.close()


def _roll_back(connection: Any, _record: object, _why: BaseException | None) -> None:
    """End the transaction of a connection that is given up, as when its task is cancelled.

    To close it would not: where a cursor has rows left, SQLite keeps the connection, and with it
    the lock, until that cursor is no more, which an exception's traceback may hold for long. The
    driver does one thing after the other, so this comes before the closing.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return  # the garbage collector found it: no cursor is left
    task = loop.create_task(connection.driver_connection.rollback())
    _rolling_back.add(task)
    task.add_done_callback(_rolled_back)


def _rolled_back(task: asyncio.Task[None]) -> None:
    _rolling_back.discard(task)
    if not task.cancelled():
        task.exception()  # it was closed before: there is nothing to roll back


def _migrate(connection: Connection) -> None:
    with as_file(files("server.store") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.attributes["connection"] = connection
        script = ScriptDirectory.from_config(config)
        current = MigrationContext.configure(connection).get_current_revision()
        if current == script.get_current_head():
            return
        if current is not None and current not in {r.revision for r in script.walk_revisions()}:
            raise DatabaseUnavailable(
                f"the database has schema {current}, which this version does not know; "
                "run the version of Ostiary that made it, or a newer one"
            )
        command.upgrade(config, "head")
