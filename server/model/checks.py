"""What must hold between objects. Each check names the place and what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sqlalchemy import Column, Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.model.bodies import Area, Body
from server.model.errors import Fault, InvalidModel, StillNamed
from server.model.kinds import BY_NAME, KINDS, Kind
from server.model.paths import path
from server.model.stored import in_chunks
from server.store.key_tables import key_domains
from server.store.model_tables import areas, doors
from server.store.tables import metadata

DOORS_OF_AN_AGENT = 64
"""As many as a policy takes."""
_SHOWN = 3


async def check_references(
    connection: AsyncConnection, kind: Kind[Any], objects: Mapping[str, Body]
) -> None:
    """Everything the objects name is there, or among them. Raises InvalidModel."""
    named: dict[str, set[str]] = {}
    for body in objects.values():
        for reference in kind.references(body):
            named.setdefault(reference.kind, set()).add(reference.id)
    missing: set[tuple[str, str]] = set()
    for target, ids in named.items():
        known = await _present(connection, BY_NAME[target], ids)
        known |= objects.keys() if target == kind.name else set()
        missing |= {(target, key) for key in ids - known}
    if missing:
        raise InvalidModel(
            [
                Fault(f"{kind.plural}.{key}.{r.path}", f"there is no {r.kind} {r.id!r}")
                for key, body in objects.items()
                for r in kind.references(body)
                if (r.kind, r.id) in missing
            ]
        )


async def check_nesting(connection: AsyncConnection, objects: Mapping[str, Area]) -> None:
    """No area would lie in itself, or too deep. Raises InvalidModel."""
    rows = await connection.execute(select(areas.c.id, areas.c.parent))
    parents: dict[str, str | None] = dict(rows.all())
    parents |= {key: body.parent for key, body in objects.items()}
    for area in [*objects, *parents]:
        try:
            path(area, parents)
        except ValueError as error:
            raise InvalidModel([Fault(f"areas.{area}.parent", str(error))]) from None


async def check_doors(connection: AsyncConnection, ids: Collection[str], suite: str) -> None:
    """No agent has too many doors; a domain and its keys have one suite. Raises InvalidModel."""
    crowded = select(doors.c.agent).group_by(doors.c.agent)
    crowded = crowded.where(doors.c.agent.is_not(None))
    crowded = crowded.having(func.count() > DOORS_OF_AN_AGENT)
    suites = select(doors.c.domain).group_by(doors.c.domain)
    suites = suites.having(func.count(func.distinct(func.coalesce(doors.c.suite, suite))) > 1)
    other = select(doors.c.domain).join(key_domains, key_domains.c.name == doors.c.domain)
    other = other.where(func.coalesce(doors.c.suite, suite) != key_domains.c.suite)
    for query, column, what in (
        (crowded, "agent", f"serves more than {DOORS_OF_AN_AGENT} doors: give some to another"),
        (suites, "settings.domain", "would have two suites, but its one secret is of one suite"),
        (other, "settings.suite", "has keys of the other suite: see `ostiary keys domains`"),
    ):
        wrong = await connection.scalar(query.limit(1))
        if wrong is not None:
            of_it = doors.c.agent == wrong if column == "agent" else doors.c.domain == wrong
            all_its = await connection.scalars(select(doors.c.id).where(of_it))
            door = next((key for key in all_its if key in ids), "")
            raise InvalidModel([Fault(f"doors.{door}.{column}", f"{wrong} {what}")])


async def check_unnamed(connection: AsyncConnection, kind: Kind[Any], ids: Collection[str]) -> None:
    """Nothing else names what is to be deleted. Raises StillNamed."""
    for other, owner, column in _columns_that_name(kind):
        for some in in_chunks(sorted(ids)):
            query = select(column, owner).where(column.in_(some))
            if other is kind:
                query = query.where(owner.not_in(ids))
            rows = (await connection.execute(query.limit(_SHOWN + 1))).all()
            if rows:
                target = rows[0][0]
                names = [f"{other.name} {by}" for named, by in rows if named == target]
                more = " and more" if len(names) > _SHOWN else ""
                raise StillNamed(
                    f"{kind.name} {target} is named by {', '.join(names[:_SHOWN])}{more}"
                )


async def _present(connection: AsyncConnection, kind: Kind[Any], ids: set[str]) -> set[str]:
    found: set[str] = set()
    for some in in_chunks(sorted(ids)):
        query = select(kind.table.c.id).where(kind.table.c.id.in_(some))
        found |= set(await connection.scalars(query))
    return found


def _columns_that_name(kind: Kind[Any]) -> Iterator[tuple[Kind[Any], Column[Any], Column[Any]]]:
    """(kind that names it, the column with that one's key, the column with the name)."""
    owners: dict[Table, tuple[Kind[Any], str]] = {}
    for other in KINDS:
        owners[other.table] = (other, "id")
        owners |= {part: (other, owner) for part, owner in other.parts.items()}
    for table in metadata.sorted_tables:
        if table not in owners or table in kind.parts:
            continue
        other, owner = owners[table]
        for key in table.foreign_keys:
            if key.column.table is kind.table:
                yield other, table.c[owner], key.parent
