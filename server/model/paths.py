"""Areas lie in areas, and a rule for an area is one for every door that leads into it."""

from __future__ import annotations

from sqlalchemy import CompoundSelect, Subquery, select, union
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.model_tables import areas, doors, rule_areas, rule_doors

MAX_DEPTH = 16
"""How deep areas nest: as many as a door's settings name."""


async def areas_around(connection: AsyncConnection) -> dict[str, tuple[str, ...]]:
    """Each area -> itself and those around it, from the innermost out."""
    parents = dict((await connection.execute(select(areas.c.id, areas.c.parent))).all())
    return {area: path(area, parents) for area in parents}


def path(area: str, parents: dict[str, str | None]) -> tuple[str, ...]:
    """The area and those around it. Raises ValueError if it lies in itself, or too deep."""
    found = [area]
    while (parent := parents.get(found[-1])) is not None:
        if parent in found:
            raise ValueError(f"area {area} would lie in itself: {' in '.join([*found, parent])}")
        found.append(parent)
        if len(found) > MAX_DEPTH:
            raise ValueError(f"area {area} would lie more than {MAX_DEPTH} areas deep")
    return tuple(found)


def rule_door_pairs() -> Subquery:
    """(rule, door): the doors each rule names itself or by an area around them."""
    within = select(rule_areas.c.rule, rule_areas.c.area).cte("within", recursive=True)
    within = within.union(
        select(within.c.rule, areas.c.id)
        .select_from(within)
        .join(areas, areas.c.parent == within.c.area)
    )
    both: CompoundSelect[tuple[str, str]] = union(
        select(rule_doors.c.rule, rule_doors.c.door),
        select(within.c.rule, doors.c.id)
        .select_from(within)
        .join(doors, doors.c.area == within.c.area),
    )
    return both.subquery()
