"""Objects as they are stored: one, some, all, or a page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Row, Select, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.model.bodies import Body, Site
from server.model.kinds import REVOCABLE, Kind, Parts
from server.store.model_tables import model_state

B = TypeVar("B", bound=Body)
T = TypeVar("T")
_AT_ONCE = 1000
"""Ids in one statement: below the limits of both databases."""


@dataclass(frozen=True)
class Stored(Generic[B]):
    """An object, the revision of its last change, and up to where revocations are answered.

    The body is made of the rows when it is asked for: of 100,000 objects in a document few differ.
    """

    id: str
    revision: int
    cleared: int | None
    row: Any
    parts: Parts
    kind: Kind[B]

    @cached_property
    def body(self) -> B:
        """What was put."""
        return self.kind.read(self.row, self.parts)

    def is_as(self, body: B) -> bool:
        """Whether putting `body` changes nothing."""
        return self._same_rows(body) or self.body == body

    def _same_rows(self, body: B) -> bool:
        kept = self.row._mapping
        if any(kept[name] != value for name, value in self.kind.row(self.id, body).items()):
            return False
        for table, rows in self.kind.rows_of_parts(body).items():
            wanted = {tuple(row.values()) for row in rows}
            names = rows[0].keys() if rows else ()
            have = {tuple(part._mapping[name] for name in names) for part in self.parts[table]}
            if len(rows) != len(self.parts[table]) or wanted != have:
                return False
        return True


async def fetch(
    connection: AsyncConnection, kind: Kind[B], ids: Collection[str] | None = None
) -> dict[str, Stored[B]]:
    """These objects, or all, by id. Those that are not there are left out."""
    found: dict[str, Stored[B]] = {}
    if ids is None:
        page = await fetch_page(connection, kind, (), None, _AT_ONCE)
        while page:  # in steps the event loop can bear
            found |= {each.id: each for each in page}
            page = await fetch_page(connection, kind, (), page[-1].id, _AT_ONCE)
        return found
    query = select(kind.table).order_by(kind.table.c.id)
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


async def fetch_ids(connection: AsyncConnection, kind: Kind[Any]) -> list[str]:
    """The ids of all objects of a kind, in order."""
    return list(await connection.scalars(select(kind.table.c.id).order_by(kind.table.c.id)))


async def fetch_site(connection: AsyncConnection) -> tuple[int, Site]:
    """The revision of the site itself, and the site."""
    row = (await connection.execute(select(model_state))).one()
    return row.site_revision, Site(name=row.name, timezone=row.timezone)


async def _read(
    connection: AsyncConnection, kind: Kind[B], query: Select[Any]
) -> dict[str, Stored[B]]:
    rows = (await connection.execute(query)).all()
    parts: dict[Table, dict[str, list[Row[Any]]]] = {}
    for table, owner in kind.parts.items():
        of_table: dict[str, list[Row[Any]]] = {}
        column = table.c[owner]
        for some in in_chunks([row.id for row in rows]):
            part = select(table).where(column.in_(some)).order_by(*table.primary_key.columns)
            for row in await connection.execute(part):
                of_table.setdefault(row._mapping[owner], []).append(row)
        parts[table] = of_table
    answers = kind.name in REVOCABLE
    return {
        row.id: Stored(
            row.id,
            row.revision,
            row.cleared if answers else None,
            row,
            {table: parts[table].get(row.id, []) for table in parts},
            kind,
        )
        for row in rows
    }


def in_chunks(ids: Sequence[T]) -> Iterator[Sequence[T]]:
    """`ids`, or rows, in runs that fit into one statement."""
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]
