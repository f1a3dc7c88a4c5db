"""What a policy is compiled from: the doors of an agent, and the cards that matter to them.

Read all of it in one transaction: the revision then names what was read. `touched_since` says which
agents a later change may have altered, and at which slots of their cards.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Row,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    union,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.policy import CardState, DoorBehaviour, DoorSettings, PolicyCard, Rule
from schemas.suites import SuiteName
from server.clock import from_microseconds
from server.core.compiler import AgentModel
from server.model.paths import areas_around, rule_door_pairs
from server.model.revisions import STRUCTURE_ONLY
from server.model.stored import in_chunks
from server.model.times import read_schedules
from server.store.model_tables import (
    bindings,
    cards,
    doors,
    memberships,
    model_state,
    persons,
    rules,
    touched,
)
from server.store.rotations import Versions, read_versions

SLOTS = 4096
_CARDS_AT_ONCE = 2000
_ROWS_AT_ONCE = 200
"""Then the event loop is held up for some 10 ms."""
_SLOTS_AT_ONCE = 16
"""Of 600,000 cards some 2,300."""


@dataclass(frozen=True)
class Touched:
    """What changes up to `revision` may have altered.

    `agents`: agent -> slots (0 to 4095) whose cards to look at again; None: all of them. Doors,
    rules and schedules are to be looked at again in every case. `everyone`: all agents, all cards.
    """

    revision: int
    everyone: bool
    agents: Mapping[str, frozenset[int] | None]


async def model_revision(connection: AsyncConnection) -> int:
    """The revision of the newest change; 0: nothing was ever described."""
    return int(await connection.scalar(select(model_state.c.revision)) or 0)


async def agents_with_doors(connection: AsyncConnection) -> list[str]:
    """Every agent that has a door, by name."""
    query = select(doors.c.agent).where(doors.c.agent.is_not(None)).distinct()
    return list(await connection.scalars(query.order_by(doors.c.agent)))


async def served_doors(connection: AsyncConnection) -> list[tuple[str, str]]:
    """(door, agent) of every door that an agent serves, by door."""
    query = select(doors.c.id, doors.c.agent).where(doors.c.agent.is_not(None))
    rows = await connection.execute(query.order_by(doors.c.id))
    return [(row.id, row.agent) for row in rows]


async def touched_since(connection: AsyncConnection, revision: int) -> Touched:
    """What was changed after `revision`."""
    newest = await model_revision(connection)
    query = select(touched.c.agent, touched.c.slot).where(touched.c.revision > revision).distinct()
    agents: dict[str, set[int] | None] = {}
    for agent, slot in await connection.execute(query):
        if agent is None:
            return Touched(newest, True, {})
        if slot is None:
            agents[agent] = None
            continue
        slots = agents.setdefault(agent, set())
        if slots is not None and slot != STRUCTURE_ONLY:
            slots.add(slot)
    fixed = {a: None if slots is None else frozenset(slots) for a, slots in agents.items()}
    return Touched(newest, False, fixed)


async def forget_touched(connection: AsyncConnection, revision: int) -> None:
    """The policies of all changes up to `revision` are made: they need not be told again."""
    await connection.execute(delete(touched).where(touched.c.revision <= revision))


async def read_agent(
    connection: AsyncConnection, agent: str, suite: SuiteName
) -> AgentModel | None:
    """The agent's doors and what they name; None if it has no door. `suite`: the site's."""
    return (await read_agents(connection, [agent], suite)).get(agent)


async def read_agents(
    connection: AsyncConnection, agents: Collection[str], suite: SuiteName
) -> dict[str, AgentModel]:
    """The same for some hundred agents, by name, in as many queries as for one."""
    served = select(doors).where(doors.c.agent.in_(agents)).order_by(doors.c.id)
    rows = (await connection.execute(served)).all()
    if not rows:
        return {}
    around = await areas_around(connection)
    versions = await read_versions(connection)
    settings: dict[str, dict[str, DoorSettings]] = {}
    for row in rows:
        asked = versions.get(row.domain, Versions())
        settings.setdefault(row.agent, {})[row.id] = _settings(row, suite, around, asked)
    agent_of = {row.id: row.agent for row in rows}
    pairs = rule_door_pairs()
    named = await connection.execute(
        select(rules.c.id, rules.c.group, rules.c.schedule, pairs.c.door)
        .join(pairs, pairs.c.rule == rules.c.id)
        .where(pairs.c.door.in_(agent_of))
        .order_by(rules.c.id, pairs.c.door)
    )
    of_rule: dict[str, dict[str, tuple[str, str, list[str]]]] = {}
    for rule, group, schedule, door in named:
        of_agent = of_rule.setdefault(agent_of[door], {})
        of_agent.setdefault(rule, (group, schedule, []))[2].append(door)
    made = {
        agent: tuple(
            Rule(group=group, schedule=schedule, doors=tuple(of))
            for group, schedule, of in of_rule.get(agent, {}).values()
        )
        for agent in settings
    }
    wanted = {
        agent: {rule.schedule for rule in made[agent]}
        | {door.unlock_schedule for door in of.values() if door.unlock_schedule}
        for agent, of in settings.items()
    }
    schedules = await read_schedules(connection, sorted(set().union(*wanted.values())))
    timezone = str(await connection.scalar(select(model_state.c.timezone)))
    return {
        agent: AgentModel(
            agent=agent,
            timezone=timezone,
            doors=of,
            schedules={name: schedules[name] for name in schedules if name in wanted[agent]},
            rules=made[agent],
            groups=frozenset(rule.group for rule in made[agent]),
            domains=frozenset(door.domain for door in of.values()),
        )
        for agent, of in settings.items()
    }


async def bound_domains(connection: AsyncConnection, domains: Collection[str]) -> frozenset[str]:
    """Those of these key domains in which any card is bound."""
    found: set[str] = set()
    for some in in_chunks(sorted(domains)):
        query = select(bindings.c.domain).where(bindings.c.domain.in_(some)).distinct()
        found.update(await connection.scalars(query))
    return frozenset(found)


async def read_cards(
    connection: AsyncConnection, agent: AgentModel, slots: Collection[int] | None = None
) -> AsyncIterator[tuple[int, list[PolicyCard]]]:
    """The cards that matter to the agent: slot and its cards, both in order; empty slots too.

    A card matters if it is bound in a domain of one of the agent's doors, or if its holder is in a
    group of one of its rules. It comes with those groups and domains alone, and the validity both
    it and its holder have. `slots`: these alone; all 4,096 if not given.
    """
    wanted = sorted(range(SLOTS) if slots is None else set(slots))
    at_once = _SLOTS_AT_ONCE
    if slots is None:
        count = await connection.scalar(select(func.count()).select_from(_ids(agent).subquery()))
        at_once = min(SLOTS, max(1, SLOTS * _CARDS_AT_ONCE // max(1, count or 0)))
    for start in range(0, len(wanted), at_once):
        some = wanted[start : start + at_once]
        found = await _cards(connection, agent, some)
        for slot in some:
            yield slot, found.get(slot, [])


async def _cards(
    connection: AsyncConnection, agent: AgentModel, slots: Sequence[int]
) -> dict[int, list[PolicyCard]]:
    whole = len(slots) == SLOTS  # then all of the site's other cards need not be looked at
    query = (
        select(
            cards,
            persons.c.valid_from_us.label("person_from_us"),
            persons.c.valid_until_us.label("person_until_us"),
            persons.c.cleared.label("person_cleared"),
        )
        .join(persons, persons.c.id == cards.c.person)
        .where(cards.c.id.in_(_ids(agent)) if whole else and_(_in(slots), _is_relevant(agent)))
        .order_by(cards.c.id)
    )
    rows = (await connection.execute(query)).all()
    # By names, not by a join: SQLite would rather go through all members of a group for each slot.
    groups = await _groups(connection, agent, sorted({row.person for row in rows}))
    domains = await _domains(connection, agent, [row.id for row in rows])
    found: dict[int, list[PolicyCard]] = {}
    for number, row in enumerate(rows):
        if number % _ROWS_AT_ONCE == 0:
            await asyncio.sleep(0)  # others may wait for the event loop
        card = _policy_card(row, sorted(groups.get(row.person, ())), domains.get(row.id, ()))
        found.setdefault(row.slot, []).append(card)
    return found


async def _groups(
    connection: AsyncConnection, agent: AgentModel, of: Sequence[str]
) -> dict[str, list[tuple[str, int | None]]]:
    groups: dict[str, list[tuple[str, int | None]]] = {}
    for some in in_chunks(of):
        query = select(memberships.c.person, memberships.c.group, memberships.c.until_us).where(
            memberships.c.person.in_(some), memberships.c.group.in_(agent.groups)
        )
        for person, group, until_us in await connection.execute(query):
            groups.setdefault(person, []).append((group, until_us))
    return groups


async def _domains(
    connection: AsyncConnection, agent: AgentModel, of: Sequence[str]
) -> dict[str, list[str]]:
    domains: dict[str, list[str]] = {}
    for some in in_chunks(of):
        query = select(bindings.c.card, bindings.c.domain).where(
            bindings.c.card.in_(some), bindings.c.domain.in_(agent.domains)
        )
        for card, domain in await connection.execute(query):
            domains.setdefault(card, []).append(domain)
    return domains


def _in(slots: Sequence[int]) -> ColumnElement[bool]:
    if len(slots) == slots[-1] - slots[0] + 1:
        return cards.c.slot.between(slots[0], slots[-1])
    return cards.c.slot.in_(slots)


def _is_relevant(agent: AgentModel) -> ColumnElement[bool]:
    """Asked for each card of a few slots, rather than listing all of the agent's first."""
    bound = exists().where(bindings.c.card == cards.c.id, bindings.c.domain.in_(agent.domains))
    member = exists().where(
        memberships.c.person == cards.c.person, memberships.c.group.in_(agent.groups)
    )
    return or_(bound, member)


def _ids(agent: AgentModel) -> CompoundSelect[tuple[str]]:
    """The same, as a list of ids."""
    return union(
        select(bindings.c.card).where(bindings.c.domain.in_(agent.domains)),
        select(cards.c.id)
        .join(memberships, memberships.c.person == cards.c.person)
        .where(memberships.c.group.in_(agent.groups)),
    )


def _policy_card(
    row: Row[Any], groups: Sequence[tuple[str, int | None]], domains: Collection[str]
) -> PolicyCard:
    starts = [us for us in (row.valid_from_us, row.person_from_us) if us is not None]
    ends = [us for us in (row.valid_until_us, row.person_until_us) if us is not None]
    return PolicyCard(
        card=row.id,
        person=row.person,
        groups=tuple(group for group, _ in groups),
        group_ends={g: from_microseconds(us) for g, us in groups if us is not None},
        domains=tuple(sorted(domains)),
        state=CardState(row.state),
        valid_from=from_microseconds(max(starts)) if starts else None,
        valid_until=from_microseconds(min(ends)) if ends else None,
        offline=row.offline,
        card_cleared=row.cleared,
        person_cleared=row.person_cleared,
    )


def _settings(
    row: Row[Any], suite: SuiteName, around: Mapping[str, tuple[str, ...]], asked: Versions
) -> DoorSettings:
    behaviour = DoorBehaviour.model_validate_json(row.behaviour)
    return DoorSettings(
        **behaviour.model_dump(),
        domain=row.domain,
        suite=row.suite or suite,
        key_version=asked.preferred,
        accepted_key_versions=asked.accepted,
        unlock_schedule=row.unlock_schedule,
        areas=around[row.area] if row.area else (),
    )


async def agents_of_cards(
    connection: AsyncConnection, of: ColumnElement[bool]
) -> dict[str, set[int]]:
    """Agent -> slots of the cards `of` that matter to it. `of` is a condition on `cards`."""
    by_domain = (
        select(doors.c.agent, cards.c.slot)
        .join(bindings, bindings.c.domain == doors.c.domain)
        .join(cards, cards.c.id == bindings.c.card)
    )
    pairs = rule_door_pairs()
    by_group = (
        select(doors.c.agent, cards.c.slot)
        .join(pairs, pairs.c.door == doors.c.id)
        .join(rules, rules.c.id == pairs.c.rule)
        .join(memberships, memberships.c.group == rules.c.group)
        .join(cards, cards.c.person == memberships.c.person)
    )
    named = doors.c.agent.is_not(None)
    both = union(by_domain.where(named, of), by_group.where(named, of))
    found: dict[str, set[int]] = {}
    for agent, slot in await connection.execute(both):
        found.setdefault(agent, set()).add(slot)
    return found
