"""Filters of the lists of objects: what may be asked, and what it means."""

# ruff: noqa: ARG002 - one signature for all kinds

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import ColumnElement, Select, func, select

from schemas.names import AgentId, Name
from schemas.policy import CardState
from server.model.kinds import CARDS, DOORS, PERSONS, RULES, SCHEDULES, Kind
from server.store.model_tables import (
    areas,
    cards,
    doors,
    memberships,
    persons,
    rule_areas,
    rule_doors,
    rules,
    schedule_calendars,
)


class ListQuery(BaseModel):
    """A page of a list, by id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: Annotated[str | None, Field(max_length=130, description="`next` of the page before")] = (
        None
    )
    limit: Annotated[int, Field(ge=1, le=1000, description="most items in one answer")] = 100

    def conditions(self, kind: Kind[Any]) -> list[ColumnElement[bool]]:
        """What the items must meet."""
        return []


Words = Annotated[
    str | None,
    StringConstraints(min_length=1, max_length=100),
    Field(description="only those whose id or name holds this, in any case"),
]


class NamedQuery(ListQuery):
    """Those whose name or id holds some text."""

    q: Words = None

    def conditions(self, kind: Kind[Any]) -> list[ColumnElement[bool]]:
        if self.q is None:
            return []
        table = kind.table
        return [
            table.c.id.contains(self.q.lower(), autoescape=True)
            | func.lower(table.c.name).contains(self.q.lower(), autoescape=True)
        ]


class AreasQuery(NamedQuery):
    """Areas."""

    parent: Annotated[Name | None, Field(description="only those directly in this area")] = None

    def conditions(self, kind: Kind[Any]) -> list[ColumnElement[bool]]:
        return super().conditions(kind) + _equal({areas.c.parent: self.parent})


class SchedulesQuery(NamedQuery):
    """Schedules."""

    calendar: Annotated[Name | None, Field(description="only those that use it")] = None

    def conditions(self, kind: Kind[Any]) -> list[ColumnElement[bool]]:
        return super().conditions(kind) + _within(
            SCHEDULES,
            schedule_calendars.c.schedule,
            {schedule_calendars.c.calendar: self.calendar},
        )


class DoorsQuery(NamedQuery):
    """Doors."""

    agent: Annotated[AgentId | None, Field(description="only those it serves")] = None
    area: Annotated[Name | None, Field(description="only those that lead right into it")] = None
    domain: Annotated[Name | None, Field(description="only those of this key domain")] = None

    def conditions(self, kind: Kind[Any]) -> list[ColumnElement[bool]]:
        return super().conditions(kind) + _equal(
            {doors.c.agent: self.agent, doors.c.area: self.area, doors.c.domain: self.domain}
        )


class PersonsQuery(NamedQuery):
    """Persons."""

    group: Annotated[Name | None, Field(description="only members, also past ones")] = None

    def conditions(self, kind: Kind[Any]) -> list[ColumnElement[bool]]:
        return super().conditions(kind) + _within(
            PERSONS, memberships.c.person, {memberships.c.group: self.group}
        )


class CardsQuery(ListQuery):
    """Cards."""

    person: Annotated[Name | None, Field(description="only those of this person")] = None
    state: Annotated[CardState | None, Field(description="only those in this state")] = None
    q: Words = None

    def conditions(self, kind: Kind[Any]) -> list[ColumnElement[bool]]:
        found = _equal({cards.c.person: self.person, cards.c.state: self.state})
        if self.q is not None:
            text = self.q.lower()
            holders: Select[Any] = select(persons.c.id).where(
                func.lower(persons.c.name).contains(text, autoescape=True)
            )
            found.append(
                cards.c.id.contains(text, autoescape=True)
                | cards.c.person.contains(text, autoescape=True)
                | cards.c.person.in_(holders)
            )
        return found


class RulesQuery(NamedQuery):
    """Rules."""

    group: Annotated[Name | None, Field(description="only those of this group")] = None
    schedule: Annotated[Name | None, Field(description="only those by this schedule")] = None
    door: Annotated[Name | None, Field(description="only those that name it themselves")] = None
    area: Annotated[Name | None, Field(description="only those that name it themselves")] = None

    def conditions(self, kind: Kind[Any]) -> list[ColumnElement[bool]]:
        return (
            super().conditions(kind)
            + _equal({rules.c.group: self.group, rules.c.schedule: self.schedule})
            + _within(RULES, rule_doors.c.rule, {rule_doors.c.door: self.door})
            + _within(RULES, rule_areas.c.rule, {rule_areas.c.area: self.area})
        )


class MembershipsQuery(ListQuery):
    """Memberships."""

    group: Annotated[Name | None, Field(description="only those in this group")] = None
    person: Annotated[Name | None, Field(description="only those of this person")] = None


QUERIES: dict[str, type[ListQuery]] = {
    "area": AreasQuery,
    "schedule": SchedulesQuery,
    DOORS.name: DoorsQuery,
    PERSONS.name: PersonsQuery,
    CARDS.name: CardsQuery,
    RULES.name: RulesQuery,
}
"""Name of the kind -> what its list may be asked for; `NamedQuery` for the others."""


def _equal(wanted: dict[Any, Any]) -> list[ColumnElement[bool]]:
    return [column == value for column, value in wanted.items() if value is not None]


def _within(kind: Kind[Any], owner: Any, wanted: dict[Any, Any]) -> list[ColumnElement[bool]]:
    conditions = _equal(wanted)
    return [kind.table.c.id.in_(select(owner).where(*conditions))] if conditions else []
