"""Which policies a change may alter. Asked before and after it: a door may change hands."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.model.kinds import AREAS, CALENDARS, CARDS, DOORS, PERSONS, RULES, SCHEDULES, Kind
from server.model.paths import rule_door_pairs
from server.model.reading import agents_of_cards
from server.model.revisions import STRUCTURE_ONLY, Altered
from server.store.model_tables import cards, doors, rules, schedule_calendars

_MANY = 500


async def altered(  # noqa: PLR0911 one a kind
    connection: AsyncConnection, kind: Kind[Any], ids: Collection[str]
) -> Altered | None:
    """Agent -> slots, as `touch` takes it; None: any policy may be altered.

    Of an area, a rule or a door it is not told here which of its fields change.
    """
    if kind is AREAS or len(ids) > _MANY:
        return None
    if kind is CARDS:
        return await agents_of_cards(connection, cards.c.id.in_(ids))
    if kind is PERSONS:
        return await agents_of_cards(connection, cards.c.person.in_(ids))
    if kind is DOORS:
        return dict.fromkeys(
            await _names(connection, select(doors.c.agent).where(doors.c.id.in_(ids)))
        )
    if kind is RULES:
        return dict.fromkeys(await _of_rules(connection, rules.c.id.in_(ids)))
    if kind is SCHEDULES:
        return await _of_schedules(connection, ids)
    if kind is CALENDARS:
        using = select(schedule_calendars.c.schedule).where(schedule_calendars.c.calendar.in_(ids))
        return await _of_schedules(connection, set(await connection.scalars(using)))
    return {}  # groups have no content of their own


async def _of_schedules(connection: AsyncConnection, ids: Collection[str]) -> Altered:
    opened = select(doors.c.agent).where(doors.c.unlock_schedule.in_(ids))
    agents = await _names(connection, opened) | await _of_rules(
        connection, rules.c.schedule.in_(ids)
    )
    return {agent: {STRUCTURE_ONLY} for agent in agents}


async def _of_rules(connection: AsyncConnection, condition: Any) -> set[str]:
    pairs = rule_door_pairs()
    return await _names(
        connection,
        select(doors.c.agent)
        .join(pairs, pairs.c.door == doors.c.id)
        .join(rules, rules.c.id == pairs.c.rule)
        .where(condition),
    )


async def _names(connection: AsyncConnection, query: Select[Any]) -> set[str]:
    return set(await connection.scalars(query.where(doors.c.agent.is_not(None)).distinct()))
