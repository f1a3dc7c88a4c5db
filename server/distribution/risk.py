"""What a revocation has not reached yet: which doors still let in whom, and until when at most."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.policy import CardState, DoorSettings, PolicyCard
from schemas.revocation import RevocationEntry
from server.core.compiler import AgentModel
from server.core.residual_risk import Admission, AgentPosture, DoorPosture, Exposure, exposures
from server.model.reading import read_agent, read_cards
from server.model.stored import in_chunks
from server.state import ServerState
from server.store.model_tables import bindings, cards
from server.store.revocations import entries_against, find_entries

MOST_ENTRIES = 10_000
"""Looked at: of an agent that lacks more, the oldest it lacks are left out."""


async def residual_risk(state: ServerState) -> list[Exposure]:
    """Every door and card at risk now, by agent, door and card."""
    applied = state.convergence.applied()
    head = state.revocations.head.sequence
    served = sorted({agent for _, agent in await state.served_doors()})
    behind = {
        agent: done.revocation if (done := applied.get(agent)) else 0
        for agent in served
        if (applied[agent].revocation if agent in applied else 0) < head
    }
    if not behind:
        return []
    first = max(min(behind.values()), head - MOST_ENTRIES)
    async with state.engine.connect() as connection:
        lacked = await find_entries(connection, after=first, limit=MOST_ENTRIES)
        denied = await entries_against(connection, {(e.kind, e.subject) for e in lacked})
        slots = await _slots(connection, lacked)
        postures = [
            await _posture(state, connection, agent, done, lacked=lacked, slots=slots)
            for agent, done in behind.items()
        ]
    return list(exposures(denied, postures, state.clock.now()))


async def _posture(
    state: ServerState,
    connection: AsyncConnection,
    agent: str,
    applied: int,
    *,
    lacked: Sequence[RevocationEntry],
    slots: Collection[int],
) -> AgentPosture:
    model = await read_agent(connection, agent, state.suite.name)
    doors: list[DoorPosture] = []
    if model is not None:
        there = [c async for _, some in read_cards(connection, model, slots) for c in some]
        meant = _meant(there, lacked)
        doors = [_door(model, name, settings, meant) for name, settings in model.doors.items()]
    return AgentPosture(
        agent=agent,
        applied=applied,
        heartbeats=state.heartbeats.issued(agent),
        doors=doors,
    )


def _door(
    model: AgentModel, name: str, settings: DoorSettings, there: Iterable[PolicyCard]
) -> DoorPosture:
    groups = {rule.group for rule in model.rules if name in rule.doors}
    return DoorPosture(
        door=name,
        grace_s=settings.grace_s,
        domain=settings.domain,
        key_versions=frozenset({settings.key_version, *settings.accepted_key_versions}),
        admits=[
            Admission(
                card=card.card,
                person=card.person,
                offline=card.offline,
                valid_until=card.valid_until,
                card_cleared=card.card_cleared,
                person_cleared=card.person_cleared,
            )
            for card in there
            if card.state is CardState.ACTIVE
            and settings.domain in card.domains
            and not groups.isdisjoint(card.groups)
        ],
    )


def _meant(there: Iterable[PolicyCard], lacked: Iterable[RevocationEntry]) -> list[PolicyCard]:
    """The cards that the entries deny, by themselves, by their holder, or by their keys."""
    subjects: Mapping[str, set[str]] = {"card": set(), "person": set(), "key-version": set()}
    for entry in lacked:
        subjects[entry.kind].add(entry.subject)
    domains = {subject.split("/")[0] for subject in subjects["key-version"]}
    return [
        card
        for card in there
        if card.card in subjects["card"]
        or card.person in subjects["person"]
        or not domains.isdisjoint(card.domains)
    ]


async def _slots(connection: AsyncConnection, lacked: Iterable[RevocationEntry]) -> set[int]:
    """Where in the tree of cards those stand whom the entries deny."""
    named: dict[str, list[str]] = {"card": [], "person": [], "key-version": []}
    for entry in lacked:
        named[entry.kind].append(entry.subject)
    slots: set[int] = set()
    for some in in_chunks(named["card"]):
        slots.update(await connection.scalars(select(cards.c.slot).where(cards.c.id.in_(some))))
    for some in in_chunks(named["person"]):
        query = select(cards.c.slot).where(cards.c.person.in_(some))
        slots.update(await connection.scalars(query))
    for some in in_chunks([subject.split("/")[0] for subject in named["key-version"]]):
        query = select(cards.c.slot).join(bindings, bindings.c.card == cards.c.id)
        slots.update(await connection.scalars(query.where(bindings.c.domain.in_(some))))
    return slots
