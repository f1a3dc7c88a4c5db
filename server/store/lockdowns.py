"""Lockdowns as rows: those in force, those that ended, and the statements that went out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.lockdown import Lockdown
from server.clock import from_microseconds, microseconds
from server.store.distribution_tables import lockdown_statements, lockdowns


@dataclass(frozen=True)
class LockdownRecord:
    """One lockdown, who began it, and its end if it has one."""

    lockdown: Lockdown
    started_by: str
    ended: datetime | None
    ended_by: str | None


async def read_lockdowns(
    connection: AsyncConnection,
    *,
    active: bool,
    after: LockdownRecord | None = None,
    limit: int | None = None,
) -> list[LockdownRecord]:
    """Those in force, or all, the newest first; `limit` of them that come after `after`."""
    since, key = lockdowns.c.since_us, lockdowns.c.id
    query = select(lockdowns).order_by(since.desc(), key).limit(limit)
    if active:
        query = query.where(lockdowns.c.ended_us.is_(None))
    if after is not None:
        at = microseconds(after.lockdown.since)
        query = query.where(or_(since < at, and_(since == at, key > after.lockdown.id)))
    return [_record(row) for row in await connection.execute(query)]


async def find_lockdowns(connection: AsyncConnection, ids: Iterable[str]) -> list[LockdownRecord]:
    """These, in force or ended, the newest first; ids that never began are passed over."""
    query = select(lockdowns).where(lockdowns.c.id.in_(list(ids)))
    query = query.order_by(lockdowns.c.since_us.desc(), lockdowns.c.id)
    return [_record(row) for row in await connection.execute(query)]


async def has_lockdown(connection: AsyncConnection, id: str) -> bool:
    """Whether one of this id ever began."""
    query = select(lockdowns.c.id).where(lockdowns.c.id == id)
    return (await connection.execute(query)).one_or_none() is not None


async def add_lockdown(connection: AsyncConnection, lockdown: Lockdown, by: str) -> None:
    """It begins."""
    await connection.execute(
        insert(lockdowns).values(
            id=lockdown.id,
            scope=lockdown.scope,
            name=lockdown.name,
            exempt=json.dumps(lockdown.exempt),
            since_us=microseconds(lockdown.since),
            started_by=by,
        )
    )


async def end_lockdowns(
    connection: AsyncConnection, ids: Iterable[str], by: str, now_us: int
) -> None:
    """They end."""
    await connection.execute(
        update(lockdowns).where(lockdowns.c.id.in_(list(ids))).values(ended_us=now_us, ended_by=by)
    )


async def newest_statement(connection: AsyncConnection) -> tuple[int, bytes | None]:
    """The counter and exact bytes of the statement that went out last; (0, None): none yet."""
    query = select(lockdown_statements).order_by(lockdown_statements.c.counter.desc()).limit(1)
    row = (await connection.execute(query)).one_or_none()
    return (0, None) if row is None else (row.counter, row.envelope)


async def add_statement(connection: AsyncConnection, counter: int, envelope: bytes) -> None:
    """Keep the bytes that are to go out."""
    await connection.execute(insert(lockdown_statements).values(counter=counter, envelope=envelope))


def _record(row: Row[Any]) -> LockdownRecord:
    return LockdownRecord(
        Lockdown(
            id=row.id,
            scope=row.scope,
            name=row.name,
            exempt=tuple(json.loads(row.exempt)),
            since=from_microseconds(row.since_us),
        ),
        row.started_by,
        None if row.ended_us is None else from_microseconds(row.ended_us),
        row.ended_by,
    )
