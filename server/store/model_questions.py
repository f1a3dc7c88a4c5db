"""What those who give orders ask the management model: is it there, whose is it, how long."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.policy import DoorBehaviour
from server.store.key_tables import key_versions
from server.store.model_tables import areas, cards, doors, groups, persons
from server.store.rotations import Versions, read_versions

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
        by_kind.setdefault(kind, set()).add(name)
    versions = by_kind.get("key-version", set())
    found = {("key-version", each) for each in versions & await _key_versions(connection, versions)}
    for kind in by_kind.keys() & _TABLES.keys():
        ids, column = by_kind[kind], _TABLES[kind].c.id
        for row in await _rows(connection, sorted(ids), column, column):
            found.add((kind, row.id))
    return found


async def _key_versions(connection: AsyncConnection, named: Collection[str]) -> set[str]:
    """The `DOMAIN/VERSION` of their domains that the authority made or doors have asked for."""
    domains = sorted({name.rpartition("/")[0] for name in named})
    if not domains:
        return set()
    made = select(key_versions.c.domain, key_versions.c.version).where(
        key_versions.c.domain.in_(domains)
    )
    found = {f"{domain}/{version}" for domain, version in await connection.execute(made)}
    asked = await read_versions(connection)
    for domain in await connection.scalars(
        select(doors.c.domain).where(doors.c.domain.in_(domains)).distinct()
    ):
        newest = max(asked.get(domain, Versions()).taken)
        found |= {f"{domain}/{version}" for version in range(1, newest + 1)}
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
