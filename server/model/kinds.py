"""The kinds of objects: how each is kept in rows, and what it names.

`KINDS` is in the order in which they can be made: each names only kinds before it, or its own.
"""

# ruff: noqa: ARG002 - one signature for all kinds

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import Row, Table

from schemas.card_chunks import slots
from schemas.names import CardId, Name
from schemas.policy import CardState, DoorBehaviour
from server.clock import from_microseconds, microseconds
from server.model.bodies import (
    Area,
    Body,
    Calendar,
    CalendarUse,
    Card,
    Door,
    DoorSettings,
    Group,
    Membership,
    Person,
    Rule,
    Schedule,
)
from server.model.times import DAYS, RANGES, SPECIAL_DAYS, WINDOWS
from server.store import model_tables as t

B = TypeVar("B", bound=Body)
Parts = Mapping[Table, Sequence[Row[Any]]]


class Reference(NamedTuple):
    """Something the body names: where, of what kind, and by which id."""

    path: str
    kind: str
    id: str


class Kind(Generic[B]):
    """One kind. `parts` are tables whose rows belong to an object, by the column named."""

    name: ClassVar[str]
    plural: ClassVar[str]
    table: ClassVar[Table]
    parts: ClassVar[Mapping[Table, str]] = {}
    ids: ClassVar[TypeAdapter[str]] = TypeAdapter(Name)
    body: type[B]

    def row(self, id: str, body: B) -> dict[str, Any]:
        """The columns of the object's own row, but for id and revision."""
        raise NotImplementedError

    def rows_of_parts(self, body: B) -> dict[Table, list[dict[str, Any]]]:
        """The rows of each part, but for the column that names the object."""
        return {}

    def read(self, row: Row[Any], parts: Parts) -> B:
        """The body that was put."""
        raise NotImplementedError

    def references(self, body: B) -> Iterator[Reference]:
        """What the body names."""
        yield from ()


class _Calendars(Kind[Calendar]):
    name, plural, table, body = "calendar", "calendars", t.calendars, Calendar

    def row(self, id: str, body: Calendar) -> dict[str, Any]:
        return {"name": body.name, "days": DAYS.dump_json(body.days).decode()}

    def read(self, row: Row[Any], parts: Parts) -> Calendar:
        return Calendar(name=row.name, days=DAYS.validate_json(row.days))


class _Schedules(Kind[Schedule]):
    name, plural, table, body = "schedule", "schedules", t.schedules, Schedule
    parts: ClassVar[Mapping[Table, str]] = {t.schedule_calendars: "schedule"}

    def row(self, id: str, body: Schedule) -> dict[str, Any]:
        return {
            "name": body.name,
            "windows": WINDOWS.dump_json(body.windows).decode(),
            "special_days": SPECIAL_DAYS.dump_json(body.special_days).decode(),
        }

    def rows_of_parts(self, body: Schedule) -> dict[Table, list[dict[str, Any]]]:
        return {
            t.schedule_calendars: [
                {
                    "calendar": use.calendar,
                    "position": position,
                    "ranges": RANGES.dump_json(use.ranges).decode(),
                }
                for position, use in enumerate(body.calendars)
            ]
        }

    def read(self, row: Row[Any], parts: Parts) -> Schedule:
        uses = sorted(parts[t.schedule_calendars], key=lambda use: use.position)
        return Schedule(
            name=row.name,
            windows=WINDOWS.validate_json(row.windows),
            special_days=SPECIAL_DAYS.validate_json(row.special_days),
            calendars=tuple(
                CalendarUse(calendar=use.calendar, ranges=RANGES.validate_json(use.ranges))
                for use in uses
            ),
        )

    def references(self, body: Schedule) -> Iterator[Reference]:
        for position, use in enumerate(body.calendars):
            yield Reference(f"calendars.{position}.calendar", "calendar", use.calendar)


class _Areas(Kind[Area]):
    name, plural, table, body = "area", "areas", t.areas, Area

    def row(self, id: str, body: Area) -> dict[str, Any]:
        return {"name": body.name, "parent": body.parent}

    def read(self, row: Row[Any], parts: Parts) -> Area:
        return Area(name=row.name, parent=row.parent)

    def references(self, body: Area) -> Iterator[Reference]:
        if body.parent is not None:
            yield Reference("parent", "area", body.parent)


class _Doors(Kind[Door]):
    name, plural, table, body = "door", "doors", t.doors, Door

    def row(self, id: str, body: Door) -> dict[str, Any]:
        settings = body.settings
        return {
            "name": body.name,
            "agent": body.agent,
            "area": body.area,
            "readers": ",".join(body.readers),
            "domain": settings.domain or id,
            "suite": settings.suite,
            "unlock_schedule": settings.unlock_schedule,
            "behaviour": settings.model_dump_json(include=set(DoorBehaviour.model_fields)),
        }

    def read(self, row: Row[Any], parts: Parts) -> Door:
        behaviour = DoorBehaviour.model_validate_json(row.behaviour)
        return Door(
            name=row.name,
            agent=row.agent,
            area=row.area,
            readers=tuple(row.readers.split(",")),
            settings=DoorSettings(
                **behaviour.model_dump(),
                domain=None if row.domain == row.id else row.domain,
                suite=row.suite,
                unlock_schedule=row.unlock_schedule,
            ),
        )

    def references(self, body: Door) -> Iterator[Reference]:
        if body.area is not None:
            yield Reference("area", "area", body.area)
        if body.settings.unlock_schedule is not None:
            yield Reference("settings.unlock_schedule", "schedule", body.settings.unlock_schedule)


class _Groups(Kind[Group]):
    name, plural, table, body = "group", "groups", t.groups, Group

    def row(self, id: str, body: Group) -> dict[str, Any]:
        return {"name": body.name}

    def read(self, row: Row[Any], parts: Parts) -> Group:
        return Group(name=row.name)


class _Persons(Kind[Person]):
    name, plural, table, body = "person", "persons", t.persons, Person
    parts: ClassVar[Mapping[Table, str]] = {t.memberships: "person"}

    def row(self, id: str, body: Person) -> dict[str, Any]:
        return {
            "name": body.name,
            "note": body.note,
            "valid_from_us": _us(body.valid_from),
            "valid_until_us": _us(body.valid_until),
        }

    def rows_of_parts(self, body: Person) -> dict[Table, list[dict[str, Any]]]:
        return {
            t.memberships: [{"group": m.group, "until_us": _us(m.until)} for m in body.groups],
        }

    def read(self, row: Row[Any], parts: Parts) -> Person:
        return Person.model_construct(  # there are many: what was checked is not checked again
            name=row.name,
            note=row.note,
            valid_from=_time(row.valid_from_us),
            valid_until=_time(row.valid_until_us),
            groups=tuple(
                Membership.model_construct(group=m.group, until=_time(m.until_us))
                for m in parts[t.memberships]
            ),
        )

    def references(self, body: Person) -> Iterator[Reference]:
        for position, membership in enumerate(body.groups):
            yield Reference(f"groups.{position}.group", "group", membership.group)


class _Cards(Kind[Card]):
    name, plural, table, body = "card", "cards", t.cards, Card
    ids: ClassVar[TypeAdapter[str]] = TypeAdapter(CardId)

    def row(self, id: str, body: Card) -> dict[str, Any]:
        first, second = slots(id)
        return {
            "person": body.person,
            "state": body.state.value,
            "note": body.note,
            "valid_from_us": _us(body.valid_from),
            "valid_until_us": _us(body.valid_until),
            "offline": body.offline,
            "slot": 64 * int(first, 16) + int(second, 16),
        }

    def read(self, row: Row[Any], parts: Parts) -> Card:
        return Card.model_construct(
            person=row.person,
            state=CardState(row.state),
            note=row.note,
            valid_from=_time(row.valid_from_us),
            valid_until=_time(row.valid_until_us),
            offline=row.offline,
        )

    def references(self, body: Card) -> Iterator[Reference]:
        yield Reference("person", "person", body.person)


class _Rules(Kind[Rule]):
    name, plural, table, body = "rule", "rules", t.rules, Rule
    parts: ClassVar[Mapping[Table, str]] = {t.rule_doors: "rule", t.rule_areas: "rule"}

    def row(self, id: str, body: Rule) -> dict[str, Any]:
        return {"name": body.name, "group": body.group, "schedule": body.schedule}

    def rows_of_parts(self, body: Rule) -> dict[Table, list[dict[str, Any]]]:
        return {
            t.rule_doors: [{"door": door} for door in body.doors],
            t.rule_areas: [{"area": area} for area in body.areas],
        }

    def read(self, row: Row[Any], parts: Parts) -> Rule:
        return Rule(
            name=row.name,
            group=row.group,
            schedule=row.schedule,
            doors=tuple(part.door for part in parts[t.rule_doors]),
            areas=tuple(part.area for part in parts[t.rule_areas]),
        )

    def references(self, body: Rule) -> Iterator[Reference]:
        yield Reference("group", "group", body.group)
        yield Reference("schedule", "schedule", body.schedule)
        for position, door in enumerate(body.doors):
            yield Reference(f"doors.{position}", "door", door)
        for position, area in enumerate(body.areas):
            yield Reference(f"areas.{position}", "area", area)


def _us(time: datetime | None) -> int | None:
    return None if time is None else microseconds(time)


def _time(us: int | None) -> datetime | None:
    return None if us is None else from_microseconds(us)


CALENDARS, SCHEDULES, AREAS, DOORS = _Calendars(), _Schedules(), _Areas(), _Doors()
GROUPS, PERSONS, CARDS, RULES = _Groups(), _Persons(), _Cards(), _Rules()
KINDS: tuple[Kind[Any], ...] = (
    CALENDARS,
    SCHEDULES,
    AREAS,
    DOORS,
    GROUPS,
    PERSONS,
    CARDS,
    RULES,
)
REVOCABLE = frozenset({CARDS.name, PERSONS.name})
"""What a revocation can name, and a reinstatement answer."""
BY_NAME: Mapping[str, Kind[Any]] = {kind.name: kind for kind in KINDS}
