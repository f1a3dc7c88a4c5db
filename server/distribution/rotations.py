"""Runs rotation campaigns, and sees to it that every lock has the keys that its doors ask for.

What is to come of a campaign is `server.core.rotation`. Here each step is committed, with the event
that tells of it, before anything follows from it; a restart finds it there and goes on. What locks
have is kept in memory and changed by their own committed words, so that a look costs little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import count

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from server.clock import Clock
from server.core import rotation as core
from server.core.rotation import (
    Campaign,
    Lock,
    NotNow,
    Step,
    order_for,
)
from server.core.rotation_plan import plan
from server.core.rotation_waves import waves
from server.distribution.key_standing import Standing, Standings
from server.distribution.lock_keys import LockKeys
from server.distribution.rotation_steps import RotationSteps
from server.distribution.stage_orders import StageOrders
from server.keys.authority import KeyAuthority
from server.keys.home import KeysError
from server.store import rotations as rows
from server.store.database import DATABASE_ERRORS
from server.store.revocations import denied_versions

LOOK_S = 1.0
REST = 19.0
"""How long it rests after a look, in looks, but for LOOK_S at most: so most take a twentieth of
the time."""
OVERLAP = timedelta(days=30)
ITSELF = "ostiary"
"""`by` of what a campaign does by itself."""

log = structlog.get_logger(__name__)


class Rotations:
    """`load` first, then `run`. What operators ask for is done at once, or raises NotNow."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        standings: Standings,
        steps: RotationSteps,
        authority: KeyAuthority,
        orders: StageOrders,
        lock_keys: LockKeys,
        clock: Clock,
        present: Callable[[], Collection[str]],
        new_id: Callable[[], str],
    ) -> None:
        self._engine, self._standings, self._steps = engine, standings, steps
        self._authority, self._orders, self._lock_keys = authority, orders, lock_keys
        self._clock, self._present, self._new_id = clock, present, new_id
        self._here: frozenset[str] = frozenset()
        self._anew: set[str] = set()
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()

    async def load(self) -> None:
        """Read where everything stands."""
        async with self._turn:
            await self._standings.refresh()

    def model_changed(self) -> None:
        """Doors or agents may be others now."""
        self._standings.stale = True
        self._wake.set()

    def came(self, agent: str) -> None:
        """It has a new session: what it was told in the one before may be lost."""
        self._anew.add(agent)
        self._wake.set()

    def told(self) -> None:
        """Events are committed that may tell of keys."""
        news = self._lock_keys.taken()
        if news:
            self._standings.take_in(news)
            self._wake.set()

    def floors(self, agent: str) -> Mapping[str, int]:
        """What the agent's heartbeat says of key floors: domain -> lowest version that counts."""
        return self._standings.floors(agent)

    async def run(self) -> None:
        """Look after all domains, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            began_s = self._clock.monotonic()
            try:
                await self.look()
            except (*DATABASE_ERRORS, KeysError) as error:
                self._standings.stale = True
                log.error("rotations_wait", why=str(error)[:500], again_in_s=LOOK_S)
                await asyncio.sleep(LOOK_S)
            # Of ten thousand locks each word would be a look at all: one look for many words.
            await asyncio.sleep(min(LOOK_S, REST * (self._clock.monotonic() - began_s)))

    async def look(self) -> None:
        """Take every step that is due, and tell locks what they lack.

        Raises what the database raises, or KeysError if no domain can be read.
        """
        async with self._turn:
            await self._standings.keep_up()
            await self._count_locked_out()
            here = frozenset(self._present())
            came, self._anew, self._here = (here - self._here) | self._anew, set(), here
            for standing in self._standings.all():
                for agent in came:
                    standing.pace.forget(agent)
                try:
                    await self._look(standing)
                except KeysError as error:  # a token that is away, say: the other domains go on
                    log.error("rotation_waits", domain=standing.domain.name, why=str(error)[:500])

    # What operators ask for.

    async def plan(
        self, domain: str, by: str, *, to: int | None = None, overlap: timedelta = OVERLAP
    ) -> Campaign:
        """A new campaign, to the version `to` or to a new one. Changes nothing at any lock.

        Raises UnknownDomain, NotNow or KeysError.
        """
        async with self._turn:
            await self._standings.refresh()  # `ostiary keys` may have made a version just now
            standing = await self._standings.of(domain)
            if not standing.authority and len(standing.locks) > 1:
                raise NotNow(
                    f"{len(standing.locks)} agents have doors in {domain}, each with a secret of"
                    f" its own: make the domain with `ostiary keys create {domain}`, and give"
                    " them ESAMs"
                )
            async with self._engine.connect() as connection:
                past = [c for c, *_ in await rows.read_rotations(connection) if c.domain == domain]
                denied = await denied_versions(connection, domain)
            if to in denied:
                raise NotNow(f"key version {to} of {domain} is revoked: no door takes it")
            version = to or self._next_version(standing, past, denied)
            deadline = self._clock.now() + overlap
            campaign = plan(self._new_id(), standing.domain, version, deadline, past)
            if standing.authority and version not in standing.domain.checks:
                if to is not None:
                    raise NotNow(
                        f"the key authority has no version {to} of {domain}: plan without it,"
                        " and the next one is made"
                    )
                made, _ = await self._authority.new_version(domain, by)
                while made in denied:
                    made, _ = await self._authority.new_version(domain, by)
                campaign = replace(campaign, to_version=made)
            await self._steps.add(campaign, self._waves(standing), by)
            await self._standings.refresh()
            return campaign

    async def start(self, id: str, by: str, *, hold: bool = False) -> Campaign:
        """Begin to give locks the new keys. Raises UnknownRotation or NotNow."""
        async with self._turn:
            standing, campaign = await self._standings.active(id)
            step = core.start(campaign, hold=hold)
            # Since the plan was made others may have gone, and the first must be one that is there.
            async with self._engine.begin() as connection:
                await rows.put_waves(connection, id, self._waves(standing))
            await self._steps.take(standing, step, by)
            await self._standings.refresh()
        self._wake.set()
        return step.campaign

    async def pause(self, id: str, by: str) -> Campaign:
        """Stop it where it is. Raises UnknownRotation or NotNow."""
        return await self._act(id, by, lambda _, c: core.pause(c, f"by {by}"))

    async def resume(self, id: str, by: str) -> Campaign:
        """Go on; what failed before is forgiven. Raises UnknownRotation or NotNow."""

        def step(standing: Standing, campaign: Campaign) -> Step:
            standing.forgive()
            return core.resume(campaign)

        return await self._act(id, by, step)

    async def activate(self, id: str, by: str) -> Campaign:
        """Prefer the new version. Raises UnknownRotation or NotNow."""

        def step(standing: Standing, campaign: Campaign) -> Step:
            checks = standing.domain.checks.get(campaign.to_version)
            return core.activate(campaign, self._standings.locks(standing), checks)

        return await self._act(id, by, step)

    async def retire(
        self, id: str, by: str, *, leave_behind: bool = False, destroy: bool = False
    ) -> Campaign:
        """End the old version. Raises UnknownRotation or NotNow."""
        async with self._turn:
            standing, campaign = await self._standings.active(id)
            locks = self._standings.locks(standing)  # before the cards: none is missed
            now, to = self._clock.now(), campaign.to_version
            async with self._engine.connect() as connection:
                behind, _ = await rows.cards_behind(connection, campaign.domain, to, now, 0)
            step = core.retire(
                campaign, locks, behind, now, leave_behind=leave_behind, destroy=destroy
            )
            await self._steps.take(standing, step, by)
        self._wake.set()
        return step.campaign

    async def roll_back(self, id: str, by: str) -> Campaign:
        """Undo it; what goes on then: this campaign, or the one that goes back.

        Raises UnknownRotation or NotNow.
        """
        async with self._turn:
            standing, campaign = await self._standings.active(id)
            step, back = core.roll_back(campaign, self._new_id())
            await self._steps.take(standing, step, by, back)
            await self._standings.refresh()
            return back or step.campaign

    async def quarantine(
        self, id: str, by: str, agents: Collection[str], *, release: bool = False
    ) -> Campaign:
        """Go on without these locks, or count on them again. Raises UnknownRotation or NotNow."""
        async with self._turn:
            standing, campaign = await self._standings.active(id)
            if unknown := sorted(set(agents) - set(standing.locks)):
                raise NotNow(f"no agent {unknown[0]} has a door in {campaign.domain}")
            await self._steps.quarantine(standing, campaign, agents, not release, by)
            return campaign

    async def standing(self, id: str) -> tuple[Standing, Campaign, list[Lock]]:
        """What a campaign's domain is like now. Raises UnknownRotation."""
        campaign = await self._standings.campaign(id)
        async with self._turn:
            standing = await self._standings.of(campaign.domain)
            return standing, campaign, self._standings.locks(standing)

    # How it is done.

    async def _act(
        self, id: str, by: str, decide: Callable[[Standing, Campaign], Step]
    ) -> Campaign:
        async with self._turn:
            standing, campaign = await self._standings.active(id)
            step = decide(standing, campaign)
            await self._steps.take(standing, step, by)
        self._wake.set()
        return step.campaign

    def _waves(self, standing: Standing) -> dict[str, int]:
        there = self._present()
        serving = [lock.agent for lock in standing.locks.values() if not lock.quarantined]
        return waves((agent, agent in there) for agent in serving)

    def _next_version(
        self, standing: Standing, past: Iterable[Campaign], denied: Collection[int]
    ) -> int:
        used = max([standing.domain.preferred, *(max(c.from_version, c.to_version) for c in past)])
        first = used + 1
        if standing.authority:
            newest = max(standing.domain.checks, default=0)
            # it may be made by hand, or for a plan that was not made in the end
            first = newest if newest > used else newest + 1
        return next(version for version in count(first) if version not in denied)

    async def _look(self, standing: Standing) -> None:
        campaign = standing.campaign
        while campaign is not None:
            step = core.advance(campaign, self._standings.locks(standing), standing.domain)
            if step is None:
                break
            await self._steps.take(standing, step, ITSELF)
            campaign = standing.campaign
        locks = self._standings.locks(standing)
        if campaign is not None:
            back = [k.agent for k in locks if core.is_back(k, standing.domain, campaign)]
            if back:
                await self._steps.quarantine(standing, campaign, back, False, ITSELF)
        lacking = [
            order
            for lock in locks
            if lock.reachable and (order := order_for(lock, standing.domain, campaign)) is not None
        ]
        due = standing.pace.now_due(lacking, self._clock.now())
        if due:
            await self._orders.send(standing.domain.name, standing.suite, due)

    async def _count_locked_out(self) -> None:
        async with self._engine.connect() as connection:
            waiting = await rows.read_lockouts(connection)
        standings = {standing.domain.name: standing for standing in self._standings.all()}
        for out in waiting:
            log.error("locked_out", domain=out.domain, card=out.card, door=out.door)
            standing = standings.get(out.domain)
            lock = standing.locks.get(out.agent) if standing else None
            if standing and standing.campaign and not (lock and lock.quarantined):
                step = core.locked_out(standing.campaign, out.card, out.door)
                await self._steps.take(standing, step, ITSELF, counted=out)
            else:  # of no campaign any more
                async with self._engine.begin() as connection:
                    await rows.forget_lockout(connection, out)
