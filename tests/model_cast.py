"""Hypothesis strategies for whole sites, as documents that hold together."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from hypothesis import strategies as st

from server.clock import from_microseconds

TITLES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=12)
TIMES = st.integers(0, 2**51).map(from_microseconds)
DAYS = st.dates(date(2026, 1, 1), date(2026, 12, 31))
_CLOCK = [f"{hour:02}:{minute:02}" for hour in range(24) for minute in (0, 30)] + ["24:00"]


def names(kind: str) -> st.SearchStrategy[list[str]]:
    """Up to four ids of a kind, out of six: so that two documents have some in common."""
    return st.lists(st.sampled_from([f"{kind}{n}" for n in range(6)]), max_size=4, unique=True)


@st.composite
def _range(draw: st.DrawFn) -> dict[str, str]:
    start, end = sorted(
        draw(st.lists(st.sampled_from(_CLOCK), min_size=2, max_size=2, unique=True))
    )
    return {"start": start, "end": end}


@st.composite
def _window(draw: st.DrawFn) -> dict[str, Any]:
    days = st.lists(st.sampled_from(["mon", "wed", "sun"]), min_size=1, max_size=3, unique=True)
    return draw(_range()) | {"days": draw(days)}


@st.composite
def _validity(draw: st.DrawFn) -> dict[str, str]:
    start = draw(st.none() | TIMES)
    end = draw(st.none() | TIMES)
    if start and end and start >= end:
        start, end = end, start + timedelta(microseconds=1)
    given = {"valid_from": start, "valid_until": end}
    return {name: time.isoformat() for name, time in given.items() if time}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A site that a server takes, with every section."""
    ranges = st.lists(_range(), max_size=2)
    calendars = {
        key: {
            "name": draw(TITLES),
            "days": draw(st.dictionaries(DAYS.map(str), TITLES, max_size=3)),
        }
        for key in draw(names("calendar"))
    }
    schedules = {
        key: {
            "windows": draw(st.lists(_window(), max_size=3)),
            "special_days": draw(st.dictionaries(DAYS.map(str), ranges, max_size=2)),
            "calendars": [
                {"calendar": calendar, "ranges": draw(ranges)}
                for calendar in _some(draw, calendars)
            ],
        }
        for key in draw(names("schedule"))
    }
    areas: dict[str, Any] = {}
    for key in draw(names("area")):
        areas[key] = {"name": draw(TITLES), "parent": _one(draw, areas)}
    doors = {
        key: {
            "name": draw(TITLES),
            "agent": draw(st.sampled_from([None, "agent0", "agent1"])),
            "area": _one(draw, areas),
            "readers": draw(st.sampled_from([["in"], ["out", "in"]])),
            "settings": {
                "domain": draw(st.sampled_from([None, "zone"])),
                "unlock_schedule": _one(draw, schedules),
                "grace_s": draw(st.integers(0, 86_400)),
                "strike_release_s": draw(st.floats(0.5, 100)),
                "mutual": draw(st.booleans()),
            },
        }
        for key in draw(names("door"))
    }
    groups = {key: {"name": draw(TITLES)} for key in draw(names("group"))}
    persons = {
        key: draw(_validity())
        | {
            "name": draw(TITLES),
            "note": draw(TITLES),
            "groups": [
                {"group": group}
                | ({"until": draw(TIMES).isoformat()} if draw(st.booleans()) else {})
                for group in _some(draw, groups)
            ],
        }
        for key in draw(names("person"))
    }
    cards = {}
    if persons:
        for key in draw(names("01020304050607a")):
            cards[key] = draw(_validity()) | {
                "person": draw(st.sampled_from(sorted(persons))),
                "state": draw(st.sampled_from(["active", "lost", "revoked"])),
                "offline": draw(st.booleans()),
            }
    rules = {}
    if groups and schedules and (doors or areas):
        for key in draw(names("rule")):
            of_doors, of_areas = _some(draw, doors), _some(draw, areas)
            if of_doors or of_areas:
                rules[key] = {
                    "group": draw(st.sampled_from(sorted(groups))),
                    "schedule": draw(st.sampled_from(sorted(schedules))),
                    "doors": of_doors,
                    "areas": of_areas,
                }
    return {
        "site": {"name": draw(TITLES), "timezone": draw(st.sampled_from(["UTC", "Asia/Shanghai"]))},
        "calendars": calendars,
        "schedules": schedules,
        "areas": areas,
        "doors": doors,
        "groups": groups,
        "persons": persons,
        "cards": cards,
        "rules": rules,
    }


def _some(draw: st.DrawFn, of: dict[str, Any]) -> list[str]:
    return draw(st.lists(st.sampled_from(sorted(of)), max_size=3, unique=True)) if of else []


def _one(draw: st.DrawFn, of: dict[str, Any]) -> str | None:
    return draw(st.none() | st.sampled_from(sorted(of))) if of else None
