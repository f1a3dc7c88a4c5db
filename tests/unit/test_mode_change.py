from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from edge_agent.core.decision import DoorView
from edge_agent.core.door_mode import Override, effective_mode
from edge_agent.core.mode_change import cause_of, next_edge, source_of
from schemas.lockdown import Lockdown
from schemas.policy import WEEKDAYS, DoorMode, DoorSettings, Schedule, Window

NOW = datetime(2026, 3, 29, 0, 30, 20, tzinfo=UTC)
OPEN = Schedule(windows=(Window(start="00:00", end="24:00", days=WEEKDAYS),))
EVERYWHERE = Lockdown(id="l1", scope="site", name="demo", since=NOW)


def view(mode=DoorMode.LOCKED, unlock=None, zone="UTC"):
    settings = DoorSettings(domain="front", suite="intl", mode=mode)
    return DoorView(settings, ZoneInfo(zone), (), unlock)


def source(door, override=None, lockdowns=(), now=NOW, in_time=True):
    mode = effective_mode(
        "demo", "front", door, lockdowns=lockdowns, override=override, now=now, in_time=in_time
    )
    return source_of(mode, door, override, now=now)


@pytest.mark.parametrize(
    ("door", "given", "expected"),
    [
        (view(), {}, "policy"),
        (view(DoorMode.UNLOCKED), {}, "policy"),
        (view(DoorMode.UNLOCKED), {"in_time": False}, "policy"),
        (view(unlock=OPEN), {}, "schedule"),
        (view(unlock=OPEN), {"in_time": False}, "policy"),
        (view(DoorMode.BLOCKED, OPEN), {}, "policy"),
        (view(unlock=OPEN), {"override": Override(DoorMode.LOCKED)}, "command"),
        (view(), {"override": Override(DoorMode.BLOCKED, NOW)}, "policy"),
        (view(), {"override": Override(DoorMode.BLOCKED), "lockdowns": [EVERYWHERE]}, "lockdown"),
    ],
)
def test_a_mode_comes_from_the_strongest_of_what_gives_it(door, given, expected):
    assert source(door, **given) == expected


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ("policy", "policy", "policy"),
        ("policy", "lockdown", "lockdown"),
        ("lockdown", "command", "lockdown"),
        ("command", "schedule", "command"),
        ("schedule", "policy", "schedule"),
    ],
)
def test_what_ends_is_as_good_a_cause_as_what_begins(before, after, cause):
    assert cause_of(before, after) == cause


def test_the_next_edge_is_the_end_of_a_command_or_a_whole_minute():
    soon = NOW + timedelta(seconds=3)
    assert next_edge(view(), Override(DoorMode.BLOCKED, soon), now=NOW) == soon
    assert next_edge(view(unlock=OPEN), None, now=NOW) == NOW.replace(minute=31, second=0)
    assert next_edge(view(), Override(DoorMode.BLOCKED), now=NOW) > NOW
    assert next_edge(view(), Override(DoorMode.BLOCKED, NOW), now=NOW) > NOW, "is over"


def test_no_schedule_changes_between_two_edges_also_where_an_hour_is_skipped():
    # 2026-03-29 02:00 to 03:00 does not exist in Berlin: 01:00 UTC is where the window begins
    window = Window(start="02:30", end="03:30", days=WEEKDAYS)
    door = view(unlock=Schedule(windows=(window,)), zone="Europe/Berlin")
    now, seen = NOW, []
    while now < NOW + timedelta(hours=2):
        edge = next_edge(door, None, now=now)
        first, last = (
            effective_mode("demo", "front", door, lockdowns=(), override=None, now=at, in_time=True)
            for at in (now, edge - timedelta(microseconds=1))
        )
        assert first is last
        seen.append((first, now))
        now = edge
    unlocked = [at for mode, at in seen if mode is DoorMode.UNLOCKED]
    assert unlocked[0] == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    assert unlocked[-1] == datetime(2026, 3, 29, 1, 29, tzinfo=UTC)
