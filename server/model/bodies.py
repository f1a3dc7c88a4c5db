"""The objects of the model as the API and a site document show them."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    field_validator,
    model_validator,
)

from schemas.names import AgentId, Name
from schemas.policy import CardState, DoorBehaviour, TimeRange, TimeZone, Window
from schemas.suites import SuiteName

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+ ?(?:Z|[+-][0-9:]{2,6})\Z")


def _printable(text: str) -> str:
    if not all(c.isprintable() or c == "\n" for c in text):
        raise ValueError("holds characters that can't be shown")
    return text


def _one_line(text: str) -> str:
    if "\n" in text:
        raise ValueError("is more than one line")
    return text


def _whole_date(value: Any) -> Any:
    # Pydantic would take 20261225 for a number of seconds
    if isinstance(value, int | float) or (isinstance(value, str) and not _DATE.match(value)):
        raise ValueError("is not a date like 2026-12-25")
    return value


def _whole_time(value: Any) -> Any:
    if isinstance(value, int | float) or (isinstance(value, str) and not _TIME.match(value)):
        raise ValueError("is not a time with its zone, like 2026-12-31T18:00:00+08:00")
    return value


def _utc(time: dt.datetime) -> dt.datetime:
    return time.astimezone(dt.UTC)


def _as_text(time: dt.datetime) -> str:
    whole = "microseconds" if time.microsecond else "seconds"
    return time.isoformat(timespec=whole).replace("+00:00", "Z")


Title = Annotated[
    str,
    StringConstraints(max_length=200, strip_whitespace=True),
    AfterValidator(_printable),
    AfterValidator(_one_line),
]
Note = Annotated[
    str, StringConstraints(max_length=2000, strip_whitespace=True), AfterValidator(_printable)
]
Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_whole_time),
    Field(ge=dt.datetime(1970, 1, 1, tzinfo=dt.UTC), lt=dt.datetime(3000, 1, 1, tzinfo=dt.UTC)),
    AfterValidator(_utc),
    PlainSerializer(_as_text, when_used="json"),
]
"""With a zone or offset; kept and shown in UTC, to the microsecond."""
Date = Annotated[dt.date, BeforeValidator(_whole_date)]
Direction = Literal["in", "out"]


class Body(BaseModel):
    """What is put at an object's address; its id is in the address."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Named(Body):
    """What people have a name for."""

    name: Title = Field(default="", description="for people; the id is for machines")


class Site(Named):
    """The site as a whole."""

    timezone: TimeZone = Field(
        default="UTC",
        description="IANA name; schedules are in its local time, daylight saving included",
        examples=["Asia/Shanghai"],
    )


class Calendar(Named):
    """Days that several schedules treat alike, such as public holidays."""

    days: dict[Date, Title] = Field(
        default_factory=dict,
        max_length=4000,
        description="date -> what it is",
        examples=[{"2026-12-25": "Christmas Day"}],
    )

    @field_validator("days")
    @classmethod
    def _in_order(cls, days: dict[dt.date, str]) -> dict[dt.date, str]:
        return dict(sorted(days.items()))


class CalendarUse(BaseModel):
    """On the days of this calendar these ranges stand in place of the weekly windows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calendar: Name
    ranges: tuple[TimeRange, ...] = Field(default=(), max_length=50)


class Schedule(Named):
    """When: weekly windows, several a day if need be, and days that are different.

    Times are the site's local wall time, half-open: [start, end). A day of `special_days` stands
    before one of a calendar; of two calendars with the same day, the first in the list counts.
    """

    windows: tuple[Window, ...] = Field(default=(), max_length=200)
    special_days: dict[Date, tuple[TimeRange, ...]] = Field(
        default_factory=dict, max_length=1000, description="date -> open on that day; [] is closed"
    )
    calendars: tuple[CalendarUse, ...] = Field(default=(), max_length=20)

    @field_validator("special_days")
    @classmethod
    def _in_order(
        cls, days: dict[dt.date, tuple[TimeRange, ...]]
    ) -> dict[dt.date, tuple[TimeRange, ...]]:
        return dict(sorted(days.items()))

    @field_validator("calendars")
    @classmethod
    def _each_once(cls, uses: tuple[CalendarUse, ...]) -> tuple[CalendarUse, ...]:
        if len({use.calendar for use in uses}) < len(uses):
            raise ValueError("names a calendar twice")
        return uses


class Area(Named):
    """Where a door leads."""

    parent: Name | None = Field(default=None, description="the area around it")


def _in_then_out(readers: tuple[Direction, ...]) -> tuple[Direction, ...]:
    if len(set(readers)) < len(readers):
        raise ValueError("names a reader twice")
    return tuple(sorted(readers))


class DoorSettings(DoorBehaviour):
    """How the door behaves."""

    domain: Name | None = Field(default=None, description="the key domain; null: the door alone")
    suite: SuiteName | None = Field(default=None, description="of its cards; null: the site's")
    unlock_schedule: Name | None = Field(
        default=None, description="while it is open, the door is unlocked"
    )


class Door(Named):
    """A door as it is meant to be."""

    agent: AgentId | None = Field(default=None, description="who serves it; may be enrolled later")
    area: Name | None = Field(default=None, description="where it leads")
    readers: Annotated[
        tuple[Direction, ...], Field(min_length=1, max_length=2), AfterValidator(_in_then_out)
    ] = ("in",)
    settings: DoorSettings = DoorSettings()


class Group(Named):
    """Persons who may enter alike."""


class _Valid(Body):
    valid_from: Moment | None = Field(default=None, description="null: always was")
    valid_until: Moment | None = Field(default=None, description="exclusive; null: without end")

    @model_validator(mode="after")
    def _from_before_until(self) -> _Valid:
        if self.valid_from and self.valid_until and self.valid_from >= self.valid_until:
            raise ValueError("valid_from must be before valid_until, which is exclusive")
        return self


class Membership(BaseModel):
    """A person is in a group, until a time if one is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: Name
    until: Moment | None = Field(default=None, description="exclusive; null: without end")


def _short_form(value: Any) -> Any:
    return {"group": value} if isinstance(value, str) else value


def _by_group(groups: tuple[Membership, ...]) -> tuple[Membership, ...]:
    if len({membership.group for membership in groups}) < len(groups):
        raise ValueError("names a group twice")
    return tuple(sorted(groups, key=lambda membership: membership.group))


class Person(Named, _Valid):
    """Somebody who holds cards. A card opens while both it and its holder are valid."""

    note: Note = ""
    groups: Annotated[
        tuple[Annotated[Membership, BeforeValidator(_short_form)], ...],
        Field(max_length=200, description="a plain name stands for a membership without end"),
        AfterValidator(_by_group),
    ] = ()


class Card(_Valid):
    """One CPU card. Its id is the serial of its chip."""

    person: Name
    state: CardState = CardState.ACTIVE
    note: Note = ""
    offline: bool = Field(
        default=False, description="also admitted at a door that was cut off beyond its grace"
    )


def _sorted_once(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


Names = Annotated[tuple[Name, ...], Field(max_length=10_000), AfterValidator(_sorted_once)]


class Rule(Named):
    """Members of the group may pass these doors, and those into these areas, by the schedule."""

    group: Name
    schedule: Name
    doors: Names = ()
    areas: Names = Field(default=(), description="with all areas inside them")

    @model_validator(mode="after")
    def _somewhere(self) -> Rule:
        if not self.doors and not self.areas:
            raise ValueError("names neither doors nor areas")
        return self
