"""Objects as they are stored: one, some, all, or a page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Row, Select, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.model.bodies import Body, Site
from server.model.kinds import CARDS, PERSONS, Kind
from server.store.model_tables import model_state

B = TypeVar("B", bound=Body)
_AT_ONCE = 1000
"""Ids in one statement: below the limits of both databases."""


@dataclass(frozen=True)
class Stored(Generic[B]):
    """An object, the revision of its last change, and up to where revocations are answered."""

    id: str
    revision: int
    body: B
    cleared: int | None = None


async def fetch(
    connection: AsyncConnection, kind: Kind[B], ids: Collection[str] | None = None
) -> dict[str, Stored[B]]:
    """These objects, or all, by id. Those that are not there are left out."""
    query = select(kind.table).order_by(kind.table.c.id)
    if ids is None:
        return await _read(connection, kind, query, everything=True)
    found: dict[str, Stored[B]] = {}
    for some in in_chunks(sorted(ids)):
        found |= await _read(connection, kind, query.where(kind.table.c.id.in_(some)))
    return found


async def fetch_page(
    connection: AsyncConnection,
    kind: Kind[B],
    conditions: Sequence[ColumnElement[bool]],
    after: str | None,
    limit: int,
) -> list[Stored[B]]:
    """Up to `limit` objects that meet all conditions, by id, beginning after one."""
    query = select(kind.table).where(*conditions).order_by(kind.table.c.id).limit(limit)
    if after is not None:
        query = query.where(kind.table.c.id > after)
    return list((await _read(connection, kind, query)).values())


async def fetch_site(connection: AsyncConnection) -> Stored[Site]:
    """The site itself."""
    row = (await connection.execute(select(model_state))).one()
    return Stored("site", row.site_revision, Site(name=row.name, timezone=row.timezone))


async def _read(
    connection: AsyncConnection, kind: Kind[B], query: Select[Any], *, everything: bool = False
) -> dict[str, Stored[B]]:
    rows = (await connection.execute(query)).all()
    parts: dict[Table, dict[str, list[Row[Any]]]] = {}
    for table, owner in kind.parts.items():
        of_table: dict[str, list[Row[Any]]] = {}
        column = table.c[owner]
        wanted = [row.id for row in rows]
        for some in [None] if everything else in_chunks(wanted):
            part = select(table) if some is None else select(table).where(column.in_(some))
            for row in await connection.execute(part.order_by(*table.primary_key.columns)):
                of_table.setdefault(row._mapping[owner], []).append(row)
        parts[table] = of_table
    answers = kind is CARDS or kind is PERSONS
    return {
        row.id: Stored(
            row.id,
            row.revision,
            kind.read(row, {table: parts[table].get(row.id, []) for table in parts}),
            row.cleared if answers else None,
        )
        for row in rows
    }


def in_chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """`ids` in runs that fit into one statement."""
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]
