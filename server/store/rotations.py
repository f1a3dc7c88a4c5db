"""Campaigns, what locks have, and which versions doors ask for, as rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Row, bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.event_data import KeysHeld
from schemas.keys import CheckValues
from schemas.suites import SuiteName
from server.clock import from_microseconds, microseconds
from server.core.rotation import ENDED, Campaign, Lock, Picture, Prefer, State
from server.core.rotation_waves import LAST_WAVE
from server.store.model_tables import bindings, cards, doors
from server.store.rotation_tables import (
    domain_versions,
    lock_keys,
    rotation_lockouts,
    rotation_locks,
    rotations,
)


@dataclass(frozen=True)
class LockedOut:
    """A good card that was refused because of its key version: by which event, and where."""

    event: str
    domain: str
    card: str
    agent: str
    door: str


@dataclass(frozen=True)
class Versions:
    """Which key versions the doors of a domain ask for; `floor` of locks with their own secrets."""

    preferred: int = 1
    accepted: tuple[int, ...] = ()
    floor: int = 1

    @property
    def taken(self) -> frozenset[int]:
        """All that they take."""
        return frozenset({self.preferred, *self.accepted})


async def read_versions(connection: AsyncConnection) -> dict[str, Versions]:
    """Of each domain that is not as it was from the start."""
    rows = await connection.execute(select(domain_versions))
    return {r.domain: Versions(r.preferred, tuple(json.loads(r.accepted)), r.floor) for r in rows}


async def put_versions(connection: AsyncConnection, domain: str, versions: Versions) -> None:
    """What the doors of a domain ask for from now on."""
    await connection.execute(delete(domain_versions).where(domain_versions.c.domain == domain))
    await connection.execute(
        insert(domain_versions).values(
            domain=domain,
            preferred=versions.preferred,
            accepted=json.dumps(list(versions.accepted)),
            floor=versions.floor,
        )
    )


async def prefer(connection: AsyncConnection, domain: str, effect: Prefer) -> None:
    """Carry out a campaign's step."""
    before = (await read_versions(connection)).get(domain, Versions())
    changed = replace(before, preferred=effect.preferred, accepted=effect.accepted)
    await put_versions(connection, domain, changed)


async def raise_own_floor(connection: AsyncConnection, domain: str, floor: int) -> None:
    """The floor of a domain whose locks have secrets of their own; it never goes down."""
    before = (await read_versions(connection)).get(domain, Versions())
    await put_versions(connection, domain, replace(before, floor=max(before.floor, floor)))


async def put_pictures(
    connection: AsyncConnection, told: Mapping[tuple[str, str], tuple[KeysHeld, datetime]]
) -> None:
    """What agents say they have of domains: the word of each that came last, not the newest.

    An agent's clock may have been wrong.
    """
    if not told:
        return
    whose = (lock_keys.c.agent == bindparam("of")) & (lock_keys.c.domain == bindparam("its"))
    await connection.execute(
        delete(lock_keys).where(whose), [{"of": agent, "its": domain} for agent, domain in told]
    )
    values = [
        {
            "agent": agent,
            "domain": domain,
            "esam": held.esam,
            "held": json.dumps({v: checks.model_dump() for v, checks in held.held.items()}),
            "floor": held.floor,
            "preferred": held.preferred,
            "accepted": json.dumps(list(held.accepted)),
            "time_us": microseconds(time),
        }
        for (agent, domain), (held, time) in told.items()
    ]
    await connection.execute(insert(lock_keys), values)


async def read_pictures(connection: AsyncConnection, domain: str) -> dict[str, Picture]:
    """What each agent last said of the domain."""
    query = select(lock_keys).where(lock_keys.c.domain == domain)
    return {row.agent: _picture(row) for row in await connection.execute(query)}


async def agents_of(connection: AsyncConnection, domain: str) -> list[str]:
    """The agents that serve a door of the domain: its locks."""
    query = select(doors.c.agent).where(doors.c.domain == domain, doors.c.agent.is_not(None))
    return list(await connection.scalars(query.distinct().order_by(doors.c.agent)))


async def suite_of(connection: AsyncConnection, domain: str) -> SuiteName | None:
    """The suite that a door of the domain names; None: that of the site."""
    query = select(doors.c.suite).where(doors.c.domain == domain, doors.c.suite.is_not(None))
    return cast("SuiteName | None", await connection.scalar(query.limit(1)))


async def add_rotation(
    connection: AsyncConnection, campaign: Campaign, waves: Mapping[str, int], now: datetime
) -> None:
    """A new campaign and its locks."""
    now_us = microseconds(now)
    values = _values(campaign) | {"created_us": now_us, "changed_us": now_us}
    await connection.execute(insert(rotations).values(id=campaign.id, **values))
    await add_locks(connection, campaign.id, waves)


async def add_locks(connection: AsyncConnection, rotation: str, waves: Mapping[str, int]) -> None:
    """Locks of a campaign, those that came later too."""
    rows = [
        {"rotation": rotation, "agent": agent, "wave": wave, "quarantined": False}
        for agent, wave in waves.items()
    ]
    if rows:
        await connection.execute(insert(rotation_locks), rows)


async def put_waves(connection: AsyncConnection, rotation: str, waves: Mapping[str, int]) -> None:
    """Choose the waves anew; who is in quarantine stays there."""
    ours = rotation_locks.c.rotation == rotation
    query = select(rotation_locks.c.agent).where(ours, rotation_locks.c.quarantined)
    apart = set(await connection.scalars(query))
    await connection.execute(delete(rotation_locks).where(ours, ~rotation_locks.c.quarantined))
    await add_locks(connection, rotation, {a: w for a, w in waves.items() if a not in apart})


async def put_rotation(connection: AsyncConnection, campaign: Campaign, now: datetime) -> None:
    """What a campaign is now."""
    query = update(rotations).where(rotations.c.id == campaign.id)
    await connection.execute(query.values(**_values(campaign), changed_us=microseconds(now)))


async def read_rotations(
    connection: AsyncConnection, *, id: str | None = None, active: bool = False
) -> list[tuple[Campaign, datetime, datetime]]:
    """Campaigns, newest first, each with when it was made and changed."""
    query = select(rotations).order_by(rotations.c.created_us.desc(), rotations.c.id)
    if id is not None:
        query = query.where(rotations.c.id == id)
    if active:
        query = query.where(rotations.c.state.not_in(ENDED))
    return [
        (_campaign(row), from_microseconds(row.created_us), from_microseconds(row.changed_us))
        for row in await connection.execute(query)
    ]


async def read_locks(connection: AsyncConnection, domain: str, rotation: str | None) -> list[Lock]:
    """The domain's locks as they are now; those new to the campaign are in its last wave."""
    pictures = await read_pictures(connection, domain)
    known: dict[str, Row[Any]] = {}
    if rotation is not None:
        query = select(rotation_locks).where(rotation_locks.c.rotation == rotation)
        known = {row.agent: row for row in await connection.execute(query)}
    return [
        Lock(
            agent,
            wave=known[agent].wave if agent in known else LAST_WAVE,
            picture=pictures.get(agent),
            quarantined=known[agent].quarantined if agent in known else False,
        )
        for agent in await agents_of(connection, domain)
    ]


async def set_quarantined(
    connection: AsyncConnection, rotation: str, agents: Iterable[str], quarantined: bool
) -> None:
    """Put locks into quarantine, or take them out."""
    known = set(
        await connection.scalars(
            select(rotation_locks.c.agent).where(rotation_locks.c.rotation == rotation)
        )
    )
    wanted = list(agents)
    await add_locks(connection, rotation, {a: LAST_WAVE for a in wanted if a not in known})
    for agent in wanted:
        ours = (rotation_locks.c.rotation == rotation) & (rotation_locks.c.agent == agent)
        await connection.execute(update(rotation_locks).where(ours).values(quarantined=quarantined))


async def add_lockout(connection: AsyncConnection, out: LockedOut) -> None:
    """One that is to be counted, in the transaction of its event."""
    await connection.execute(insert(rotation_lockouts).values(asdict(out)))


async def read_lockouts(connection: AsyncConnection) -> list[LockedOut]:
    """Those that no campaign has counted."""
    query = select(rotation_lockouts).order_by(rotation_lockouts.c.event)
    return [LockedOut(**row._mapping) for row in await connection.execute(query)]


async def forget_lockout(connection: AsyncConnection, out: LockedOut) -> None:
    """It is counted, in the transaction of the campaign's step, or is of no campaign."""
    await connection.execute(
        delete(rotation_lockouts).where(rotation_lockouts.c.event == out.event)
    )


async def cards_by_version(
    connection: AsyncConnection, domain: str, now: datetime
) -> dict[int, int]:
    """How many live cards have which newest version: active, and not past their end."""
    query = (
        select(bindings.c.key_version, func.count().label("cards"))
        .join(cards, cards.c.id == bindings.c.card)
        .where(*_live(domain, now))
        .group_by(bindings.c.key_version)
    )
    return {row.key_version: row.cards for row in await connection.execute(query)}


async def cards_behind(
    connection: AsyncConnection, domain: str, version: int, now: datetime, limit: int
) -> tuple[int, list[str]]:
    """How many live cards don't have that version, and some of them."""
    lacks = (bindings.c.key_version != version) & (
        bindings.c.other_version.is_(None) | (bindings.c.other_version != version)
    )
    query = (
        select(bindings.c.card)
        .join(cards, cards.c.id == bindings.c.card)
        .where(*_live(domain, now), lacks)
    )
    count = await connection.scalar(select(func.count()).select_from(query.subquery()))
    some = await connection.scalars(query.order_by(bindings.c.card).limit(limit))
    return int(count or 0), list(some)


def _live(domain: str, now: datetime) -> tuple[Any, ...]:
    until = cards.c.valid_until_us
    return (
        bindings.c.domain == domain,
        cards.c.state == "active",
        until.is_(None) | (until > microseconds(now)),
    )


def _picture(row: Row[Any]) -> Picture:
    held = {
        int(version): CheckValues.model_validate(checks)
        for version, checks in json.loads(row.held).items()
    }
    return Picture(held, row.floor, row.preferred, tuple(json.loads(row.accepted)))


def _values(campaign: Campaign) -> dict[str, Any]:
    return {
        "domain": campaign.domain,
        "from_version": campaign.from_version,
        "to_version": campaign.to_version,
        "deadline_us": microseconds(campaign.deadline),
        "state": campaign.state,
        "resumes": campaign.resumes,
        "reason": campaign.reason,
        "wave": campaign.wave,
        "hold": campaign.hold,
        "leave_behind": campaign.leave_behind,
        "destroy": campaign.destroy,
        "lockouts": campaign.lockouts,
    }


def _campaign(row: Row[Any]) -> Campaign:
    return Campaign(
        row.id,
        row.domain,
        row.from_version,
        row.to_version,
        from_microseconds(row.deadline_us),
        cast(State, row.state),
        cast("State | None", row.resumes),
        row.reason,
        row.wave,
        row.hold,
        row.leave_behind,
        row.destroy,
        row.lockouts,
    )
