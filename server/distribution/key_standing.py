"""Where each key domain stands: how it is wanted, its campaign, and its locks as they last said.

In memory, read from the database again whenever something else may have changed it, and changed by
the locks' own committed words, so that a look at ten thousand of them costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.keys import CheckValues
from schemas.suites import SuiteName
from server.clock import Clock
from server.core.rotation import Campaign, Domain, Lock, NotNow
from server.core.rotation_pace import Pace
from server.distribution.lock_keys import LockKeys, News
from server.ingest.verify import AlarmKind, Refusal
from server.keys.authority import Domain as KeyDomain
from server.keys.authority import KeyAuthority
from server.store import rotations as rows

REFRESH_S = 10.0
"""How often it is seen to whether the key authority, which others use too, has changed."""


class UnknownRotation(LookupError):
    """There is no campaign of this id."""


class UnknownDomain(LookupError):
    """No door is in this key domain."""


@dataclass
class Standing:
    """A domain as it is wanted, its locks as they are, and the campaign that is under way."""

    domain: Domain
    suite: SuiteName
    authority: bool
    campaign: Campaign | None
    locks: dict[str, Lock]
    pace: Pace = field(default_factory=Pace)

    def same(self, held: Mapping[int, CheckValues]) -> Mapping[int, CheckValues]:
        """What is held, said by the very objects that say what is wanted: looks cost less."""
        wanted = self.domain.checks
        return {v: w if (w := wanted.get(v)) == checks else checks for v, checks in held.items()}

    def hand_over(self, to: Standing) -> None:
        """What was told to whom, and who refused, to the same domain read anew."""
        to.pace = self.pace
        for agent, lock in self.locks.items():
            if lock.refusal and agent in to.locks:
                to.locks[agent] = replace(to.locks[agent], refusal=lock.refusal)

    def forgive(self) -> None:
        """Go on in spite of who refused."""
        for agent, lock in self.locks.items():
            self.locks[agent] = replace(lock, refusal="")
            self.pace.forget(agent)


class Standings:
    """All key domains that anything is to be done for."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        suite: SuiteName,
        authority: KeyAuthority,
        lock_keys: LockKeys,
        clock: Clock,
        present: Callable[[], Collection[str]],
        alarm: Callable[[Refusal], None],
    ) -> None:
        self._engine, self._suite, self._authority = engine, suite, authority
        self._lock_keys, self._clock = lock_keys, clock
        self._present, self._alarm = present, alarm
        self._domains: dict[str, Standing] = {}
        self._floors: dict[str, dict[str, int]] = {}
        self._refreshed_s = 0.0
        self._known: dict[str, KeyDomain] = {}
        self._meanwhile: list[News] | None = None
        """While all is read again: what was taken in since, which may not have been read."""
        self.stale = True
        """Doors, agents or campaigns may be others now."""

    def all(self) -> list[Standing]:
        """Of each domain."""
        return list(self._domains.values())

    def floors(self, agent: str) -> Mapping[str, int]:
        """What the agent's heartbeat says of key floors: domain -> lowest version that counts."""
        return self._floors.get(agent, {})

    async def campaign(self, id: str) -> Campaign:
        async with self._engine.connect() as connection:
            found = await rows.read_rotations(connection, id=id)
        if not found:
            raise UnknownRotation(f"there is no rotation {id}: `ostiary rotation list` shows all")
        return found[0][0]

    async def active(self, id: str) -> tuple[Standing, Campaign]:
        campaign = await self.campaign(id)
        if campaign.ended:
            raise NotNow(f"the rotation {id} is {campaign.state}: nothing more comes of it")
        return await self.of(campaign.domain), campaign

    async def of(self, domain: str) -> Standing:
        if domain not in self._domains:
            async with self._engine.connect() as connection:
                standing = await self._read(connection, domain, None)
            if not standing.locks:
                raise UnknownDomain(f"no door is in the key domain {domain}")
            return standing
        return self._domains[domain]

    def take_in(self, news: News) -> None:
        if self._meanwhile is not None:
            self._meanwhile.append(news)
        self._apply(news)

    def _apply(self, news: News) -> None:
        for (agent, domain), picture in news.pictures.items():
            standing = self._domains.get(domain)
            if standing is not None and agent in standing.locks:
                lock = standing.locks[agent]
                told = replace(picture, held=standing.same(picture.held))
                standing.locks[agent] = replace(lock, picture=told, refusal="")
                standing.pace.answered(agent)
                if picture.floor > standing.domain.floor:
                    self._is_behind(agent, standing.domain, picture.floor)
        for (agent, domain), refused in news.refusals.items():
            standing = self._domains.get(domain)
            if standing is not None and agent in standing.locks:
                why = f"{refused.reason}: {refused.detail}"[:300]
                standing.locks[agent] = replace(standing.locks[agent], refusal=why)
                standing.pace.answered(agent)

    def _is_behind(self, agent: str, domain: Domain, floor: int) -> None:
        said = (
            f"agent {agent} counts no keys of {domain.name} below version {floor}, this server's"
            f" floor is {domain.floor}: it was restored from a backup of before a rotation"
        )
        self._alarm(Refusal(AlarmKind.STATE_BEHIND, agent, said))

    def locks(self, standing: Standing) -> list[Lock]:
        here = self._present()
        for agent, lock in standing.locks.items():
            if lock.reachable != (agent in here):
                standing.locks[agent] = replace(lock, reachable=not lock.reachable)
        return list(standing.locks.values())

    async def keep_up(self) -> None:
        """Read all again, if something has changed or time has passed and others changed keys."""
        if not self.stale:
            if self._clock.monotonic() - self._refreshed_s <= REFRESH_S:
                return
            self._refreshed_s = self._clock.monotonic()
            if self._known == {domain.name: domain for domain in await self._authority.domains()}:
                return
        await self.refresh()

    async def refresh(self) -> None:
        """Read all again; what was told to whom, and what is said meanwhile, is remembered."""
        meanwhile: list[News] = []
        self._meanwhile, self.stale = meanwhile, False  # what changes from here on may be missed
        try:
            await self._read_all()
        except BaseException:
            self.stale = True
            raise
        finally:
            self._meanwhile = None
        for news in meanwhile:
            self._apply(news)
        self._refreshed_s = self._clock.monotonic()
        self._watch()

    async def _read_all(self) -> None:
        self._known = {domain.name: domain for domain in await self._authority.domains()}
        authority = self._known
        async with self._engine.connect() as connection:
            active = {c.domain: c for c, *_ in await rows.read_rotations(connection, active=True)}
            versions = await rows.read_versions(connection)
            names = {*authority, *active, *versions}
            found = {
                name: await self._read(
                    connection, name, authority.get(name), active.get(name), versions.get(name)
                )
                for name in sorted(names)
            }
        for name, standing in found.items():
            if name in self._domains:
                self._domains[name].hand_over(standing)
        self._domains = {name: s for name, s in found.items() if s.locks}

    async def _read(
        self,
        connection: AsyncConnection,
        name: str,
        known: KeyDomain | None,
        campaign: Campaign | None = None,
        asked: rows.Versions | None = None,
    ) -> Standing:
        asked = asked or rows.Versions()
        rotation = None if campaign is None else campaign.id
        locks = await rows.read_locks(connection, name, rotation)
        wanted = asked.taken
        if campaign is not None:
            wanted |= {campaign.from_version, campaign.to_version}
        checks: dict[int, CheckValues | None]
        if known is None:
            checks, floor = dict.fromkeys(wanted, None), asked.floor
            suite = await rows.suite_of(connection, name) or self._suite
        else:
            checks = {v.version: v.check_values for v in known.versions if v.destroyed is None}
            floor, suite = known.floor, known.suite
        return Standing(
            Domain(name, asked.preferred, asked.accepted, floor, checks),
            suite,
            known is not None,
            campaign,
            {lock.agent: lock for lock in locks},
        )

    @contextmanager
    def changing(self) -> Iterator[None]:
        """What is done inside is written and then so. Where that fails, all is read anew."""
        try:
            yield
        except BaseException:
            self.stale = True  # it may be written, and only the answer is lost
            raise
        self._watch()

    def _watch(self) -> None:
        """What follows from where the domains stand: floors, and cards whose denial is news."""
        self._floors = {}
        for name, standing in self._domains.items():
            if standing.domain.floor > 1:
                for agent in standing.locks:
                    self._floors.setdefault(agent, {})[name] = standing.domain.floor
        self._lock_keys.watched = {
            name: frozenset({s.domain.preferred, *s.domain.accepted})
            for name, s in self._domains.items()
            if s.campaign is not None
        }
