"""Carries out a step of a campaign: committed with the event that tells of it, then it is so."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.server_event_data import RotationChanged
from server.clock import Clock, microseconds
from server.core.rotation import Campaign, Destroy, Prefer, RaiseFloor, Step
from server.distribution.key_standing import Standing, Standings
from server.keys.authority import KeyAuthority
from server.model.revisions import STRUCTURE_ONLY, next_revision, touch
from server.store import rotations as rows
from server.store.announcements import announce

_NAMED = 10
"""So many locks are named in an event; the rest are counted."""

log = structlog.get_logger(__name__)


class RotationSteps:
    """`policies_changed` is called after a commit by which doors are to ask for other versions."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        standings: Standings,
        authority: KeyAuthority,
        clock: Clock,
        announced: Callable[[], None],
        policies_changed: Callable[[], None],
    ) -> None:
        self._engine, self._standings = engine, standings
        self._authority, self._clock = authority, clock
        self._announced, self._policies_changed = announced, policies_changed

    async def add(self, campaign: Campaign, chosen: dict[str, int], by: str) -> None:
        """A new campaign, with the wave of each lock."""
        now = self._clock.now()
        async with self._engine.begin() as connection:
            await rows.add_rotation(connection, campaign, chosen, now)
            await _announce(connection, campaign, "planned", by=by, now=now)
        self._announced()

    async def take(
        self,
        standing: Standing,
        step: Step,
        by: str,
        back: Campaign | None = None,
        counted: rows.LockedOut | None = None,
    ) -> None:
        """Commit a step and what follows from it; then it is so.

        `back` undoes the campaign that the step ends; `counted` is what the step counts.
        """
        with self._standings.changing():
            name, now = standing.domain.name, self._clock.now()
            prefers = [effect for effect in step.effects if isinstance(effect, Prefer)]
            for effect in step.effects:  # again after a crash they are no error
                if isinstance(effect, RaiseFloor):
                    await self._raise_floor(standing, effect.floor, by)
                elif isinstance(effect, Destroy) and standing.authority:
                    await self._authority.destroy(name, effect.version, by)
                    kept = {v: c for v, c in standing.domain.checks.items() if v != effect.version}
                    standing.domain = replace(standing.domain, checks=kept)
            async with self._engine.begin() as connection:
                await rows.put_rotation(connection, step.campaign, now)
                if counted is not None:
                    await rows.forget_lockout(connection, counted)
                for prefer in prefers:
                    await rows.prefer(connection, name, prefer)
                    revision = await next_revision(connection)
                    await touch(connection, revision, {a: {STRUCTURE_ONLY} for a in standing.locks})
                if step.event is not None:
                    await _announce(
                        connection, step.campaign, step.event, step.detail, by=by, now=now
                    )
                if back is not None:
                    chosen = {lock.agent: lock.wave for lock in standing.locks.values()}
                    await rows.add_rotation(connection, back, chosen, now)
                    without = [a for a, lock in standing.locks.items() if lock.quarantined]
                    await rows.set_quarantined(connection, back.id, without, True)
                    await _announce(connection, back, "activated", "to roll back", by=by, now=now)
            self._announced()
            log.info("rotation", id=step.campaign.id, state=step.campaign.state, why=step.detail)
            standing.campaign = back or (None if step.campaign.ended else step.campaign)
            for prefer in prefers:
                standing.domain = replace(
                    standing.domain, preferred=prefer.preferred, accepted=prefer.accepted
                )
            if prefers:
                self._policies_changed()

    async def _raise_floor(self, standing: Standing, floor: int, by: str) -> None:
        name = standing.domain.name
        if standing.authority:
            await self._authority.raise_floor(name, floor, by)
        else:
            async with self._engine.begin() as connection:
                await rows.raise_own_floor(connection, name, floor)
        standing.domain = replace(standing.domain, floor=max(standing.domain.floor, floor))

    async def quarantine(
        self,
        standing: Standing,
        campaign: Campaign,
        agents: Collection[str],
        into: bool,
        by: str,
    ) -> None:
        now = self._clock.now()
        some = ", ".join(sorted(agents)[:_NAMED]) + (" ..." if len(agents) > _NAMED else "")
        detail = f"{len(agents)} locks {'into' if into else 'out of'} it: {some}"[:500]
        with self._standings.changing():
            async with self._engine.begin() as connection:
                await rows.set_quarantined(connection, campaign.id, agents, into)
                await _announce(connection, campaign, "quarantined", detail, by=by, now=now)
            self._announced()
            for agent in agents:
                lock = standing.locks[agent]
                standing.locks[agent] = replace(lock, quarantined=into, refusal="")


async def _announce(
    connection: AsyncConnection,
    campaign: Campaign,
    event: str,
    detail: str = "",
    *,
    by: str,
    now: datetime,
) -> None:
    data = RotationChanged(
        by=by,
        rotation=campaign.id,
        domain=campaign.domain,
        from_version=campaign.from_version,
        to_version=campaign.to_version,
        state=campaign.state,
        detail=detail[:500],
    )
    subject = f"rotations/{campaign.id}"
    await announce(connection, f"rotation.{event}", subject, data, microseconds(now))
