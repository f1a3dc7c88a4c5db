"""What those who give orders ask the management model: is it there, whose is it, how long."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.policy import DoorBehaviour
from server.store.model_tables import areas, cards, doors, groups, persons

_AT_ONCE = 500
_GRACE_S = float(DoorBehaviour().grace_s)
_TABLES: dict[str, Table] = {
    "card": cards,
    "person": persons,
    "area": areas,
    "door": doors,
    "group": groups,
}


async def known(
    connection: AsyncConnection, named: Iterable[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Those of (kind, id) that are there."""
    by_kind: dict[str, set[str]] = {}
    for kind, name in named:
        if kind in _TABLES:
            by_kind.setdefault(kind, set()).add(name)
    found = set()
    for kind, ids in by_kind.items():
        column = _TABLES[kind].c.id
        for row in await _rows(connection, sorted(ids), column, column):
            found.add((kind, row.id))
    return found


async def agent_of(connection: AsyncConnection, door: str) -> tuple[bool, str | None]:
    """Whether there is such a door, and the agent that serves it."""
    query = select(doors.c.agent).where(doors.c.id == door)
    row = (await connection.execute(query)).one_or_none()
    return (False, None) if row is None else (True, row.agent)


async def grace_of(connection: AsyncConnection, names: Collection[str]) -> dict[str, float]:
    """How old the newest heartbeat of each door may become, in seconds."""
    rows = await _rows(connection, sorted(names), doors.c.id, doors.c.id, doors.c.behaviour)
    return {row.id: float(json.loads(row.behaviour).get("grace_s", _GRACE_S)) for row in rows}


async def _rows(
    connection: AsyncConnection, ids: Sequence[str], key: Any, *columns: Any
) -> list[Any]:
    found: list[Any] = []
    for start in range(0, len(ids), _AT_ONCE):
        query = select(*columns).where(key.in_(ids[start : start + _AT_ONCE]))
        found += await connection.execute(query)
    return found
