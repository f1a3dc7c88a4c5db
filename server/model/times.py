"""Schedules as they are kept: weekly windows, special days, and calendars that others share."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.policy import Schedule, TimeRange, Window
from server.store.model_tables import calendars, schedule_calendars, schedules

Ranges = tuple[TimeRange, ...]
WINDOWS: TypeAdapter[tuple[Window, ...]] = TypeAdapter(tuple[Window, ...])
RANGES: TypeAdapter[Ranges] = TypeAdapter(Ranges)
SPECIAL_DAYS: TypeAdapter[dict[dt.date, Ranges]] = TypeAdapter(dict[dt.date, Ranges])
DAYS: TypeAdapter[dict[dt.date, str]] = TypeAdapter(dict[dt.date, str])


async def read_schedules(
    connection: AsyncConnection, wanted: Collection[str]
) -> dict[str, Schedule]:
    """The schedules as doors know them, with the days of their calendars filled in.

    A schedule's own special day stands before one of a calendar; of two calendars that have the
    same day, the one the schedule names first counts.
    """
    query = (
        select(schedule_calendars.c.schedule, schedule_calendars.c.ranges, calendars.c.days)
        .join(calendars, calendars.c.id == schedule_calendars.c.calendar)
        .where(schedule_calendars.c.schedule.in_(wanted))
        .order_by(schedule_calendars.c.schedule, schedule_calendars.c.position)
    )
    shared: dict[str, dict[dt.date, Ranges]] = {}
    for schedule, ranges, days in await connection.execute(query):
        of_schedule = shared.setdefault(schedule, {})
        for day in DAYS.validate_json(days):
            of_schedule.setdefault(day, RANGES.validate_json(ranges))
    rows = await connection.execute(
        select(schedules).where(schedules.c.id.in_(wanted)).order_by(schedules.c.id)
    )
    return {
        row.id: Schedule(
            windows=WINDOWS.validate_json(row.windows),
            special_days=dict(
                sorted(
                    (shared.get(row.id, {}) | SPECIAL_DAYS.validate_json(row.special_days)).items()
                )
            ),
        )
        for row in rows
    }
