"""Whether a schedule is open at an instant, as the people of the site read their clocks."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from schemas.policy import WEEKDAYS, Schedule


def is_open(schedule: Schedule, zone: ZoneInfo, now: datetime) -> bool:
    """Whether local wall time lies in one of the day's half-open ranges.

    `now` is an aware instant. A special day's ranges stand in place of the weekly ones, so a
    special day without ranges is closed. Where daylight saving skips an hour, a range inside it
    never comes; where it repeats an hour, a range inside it is open both times.
    """
    local = now.astimezone(zone)
    time = f"{local.hour:02d}:{local.minute:02d}"  # ranges are in whole minutes, so [start, end)
    special = schedule.special_days.get(local.date())
    if special is not None:
        return any(span.start <= time < span.end for span in special)
    today = WEEKDAYS[local.weekday()]
    return any(
        today in window.days and window.start <= time < window.end for window in schedule.windows
    )
