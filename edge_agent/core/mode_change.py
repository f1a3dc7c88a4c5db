"""Why the mode of a door changes, and when it next may by itself. Pure.

Which mode it is stands in `core.door_mode`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from edge_agent.core.decision import DoorView
from edge_agent.core.door import Cause
from edge_agent.core.door_mode import Override
from schemas.policy import DoorMode

_STRONGEST_FIRST: tuple[Cause, ...] = ("lockdown", "command", "schedule", "policy")
MINUTE = timedelta(minutes=1)


def source_of(mode: DoorMode, view: DoorView, override: Override | None, *, now: datetime) -> Cause:
    """What gives the door its `mode` at `now`."""
    if mode is DoorMode.LOCKED_DOWN:
        return "lockdown"
    if override is not None and override.holds(now):
        return "command"
    by_schedule = mode is DoorMode.UNLOCKED and view.settings.mode is not DoorMode.UNLOCKED
    return "schedule" if by_schedule else "policy"


def cause_of(before: Cause, after: Cause) -> Cause:
    """What made the change, given what gave the mode before and after: the stronger of the two.

    A door that a command had unlocked is locked by that command's end, whatever comes after it.
    """
    return min(before, after, key=_STRONGEST_FIRST.index)


def next_edge(view: DoorView, override: Override | None, *, now: datetime) -> datetime:
    """Until when the mode can't change by itself, but for the policy's own end and staleness.

    At most a minute ahead. Schedules change on whole minutes, and so does daylight saving.
    """
    edges = [_next_minute(now) if view.unlock is not None else now + MINUTE]
    if override is not None and override.until is not None and override.until > now:
        edges.append(override.until)
    return min(edges)


def _next_minute(now: datetime) -> datetime:
    return now.replace(second=0, microsecond=0) + MINUTE
