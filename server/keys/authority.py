"""The key authority: domain secrets by version, from their making to their end.

Every change is announced in the transaction that makes it. A key itself is in no row, event, error
or return value: the homes of the keys (`server.keys.home`) give out check values and packages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.keys import MAX_KEY_VERSION, CheckValues
from schemas.names import Name
from schemas.server_event_data import (
    KeyFloorRaised,
    KeyVersionDestroyed,
    KeyVersionMade,
)
from schemas.suites import SuiteName
from server.clock import Clock, microseconds
from server.keys.home import KeysError, Source
from server.keys.homes import Homes
from server.store import keys as rows
from server.store.announcements import announce
from server.store.database import overwrite_freed, sole_writer
from server.store.model_tables import bindings, doors
from server.store.rotations import Versions, read_versions


@dataclass(frozen=True)
class Domain:
    """A key domain as the authority knows it."""

    name: str
    suite: SuiteName
    floor: int
    versions: tuple[rows.VersionRow, ...]

    @property
    def newest(self) -> int:
        """The version that was made last; 0: none yet."""
        return max((each.version for each in self.versions), default=0)

    def version(self, number: int) -> rows.VersionRow:
        """Raises KeysError."""
        for each in self.versions:
            if each.version == number:
                return each
        raise KeysError(
            f"key domain {self.name} has no version {number}, the newest is {self.newest}"
        )


class KeyAuthority:
    """Makes, retires and destroys. What is done with the keys between is `server.keys.issuing`."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        homes: Homes,
        clock: Clock,
        announced: Callable[[], None],
    ) -> None:
        self._engine, self._homes = engine, homes
        self._clock, self._announced = clock, announced
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Finish destroying what a stop left half done. Raises KeysError."""
        async with self._changing:
            async with self._engine.connect() as connection:
                found = await rows.read_versions(connection)
            for each in found:
                if each.destroyed is not None and each.stored:
                    await self._finish_destroying(each)

    async def domains(self) -> list[Domain]:
        """All of them, by name."""
        async with self._engine.connect() as connection:
            versions = await rows.read_versions(connection)
            return [
                _domain(row, (v for v in versions if v.domain == row.name))
                for row in await rows.read_domains(connection)
            ]

    async def check_values(self, domain: str, version: int) -> CheckValues:
        """By which a lock shows that it holds the right keys. Raises KeysError."""
        async with self._engine.connect() as connection:
            found = await read_domain(connection, domain)
        return found.version(version).check_values

    async def create_domain(self, name: str, suite: SuiteName, by: str) -> CheckValues:
        """A new domain of that suite, with version 1.

        Raises KeysError if it is there, or the name is none.
        """
        try:
            TypeAdapter(Name).validate_python(name)
        except ValidationError:
            raise KeysError(
                f"{name!r} is not a name: use up to 63 of a-z, 0-9 and inner hyphens"
            ) from None
        async with self._changing, _alone(name):
            now_us = self._now_us()
            async with self._engine.begin() as connection:
                if await rows.read_domain(connection, name) is not None:
                    raise KeysError(
                        f"key domain {name} is there already: `ostiary keys new-version {name}`"
                        " makes its next keys"
                    )
                bound = select(bindings.c.card).where(bindings.c.domain == name).limit(1)
                if await connection.scalar(bound) is not None:
                    raise KeysError(
                        f"cards are bound in {name} by keys that its locks have drawn themselves:"
                        " those would open nothing any more. Choose another name, give it to the"
                        " doors as their `domain`, and bind the cards there"
                    )
                await rows.add_domain(connection, name, suite, now_us)
                made = await self._make(connection, Domain(name, suite, 1, ()), 1, by)
        self._announced()
        return made

    async def new_version(self, domain: str, by: str) -> tuple[int, CheckValues]:
        """The next version's number and check values. Raises KeysError."""
        async with self._changing, _alone(domain), self._engine.begin() as connection:
            found = await read_domain(connection, domain)
            version = found.newest + 1
            if version > MAX_KEY_VERSION:
                raise KeysError(
                    f"key domain {domain} has used up its {MAX_KEY_VERSION} versions: make a"
                    " new domain and bind its cards there"
                )
            made = await self._make(connection, found, version, by)
        self._announced()
        return version, made

    async def raise_floor(self, domain: str, floor: int, by: str) -> None:
        """Retire the versions below: no lock is given them again. It never goes back.

        Raises KeysError.
        """
        async with self._changing, sole_writer(self._engine) as connection:
            found = await read_domain(connection, domain)
            if found.version(floor).destroyed is not None or floor < found.floor:
                raise KeysError(
                    f"the floor of key domain {domain} is {found.floor}: it never goes down"
                )
            if floor == found.floor:
                return
            lowest = await _lowest_asked(connection, domain)
            if floor > lowest:
                raise KeysError(
                    f"doors of {domain} take version {lowest}: whoever has no other would stand"
                    f" outside. `ostiary rotation` moves doors and cards on and retires it then"
                )
            await rows.raise_floor(connection, domain, floor)
            data = KeyFloorRaised(by=by, domain=domain, floor=floor)
            await announce(
                connection, "keys.floor_raised", key_subject(domain), data, self._now_us()
            )
        self._announced()

    async def destroy(self, domain: str, version: int, by: str) -> None:
        """Make a retired version's keys useless for ever; again is no error. Raises KeysError.

        First it is recorded that they are destroyed, then they are: a stop in between leaves keys
        that nothing uses, and `load` finishes the work.
        """
        async with self._changing:
            async with sole_writer(self._engine) as connection:
                found = await read_domain(connection, domain)
                old = found.version(version)
                if version >= found.floor:
                    raise KeysError(
                        f"key domain {domain} is at floor {found.floor}: version {version} may be"
                        " in use. Raise the floor above it first"
                    )
                if old.destroyed is None:
                    now_us = self._now_us()
                    await rows.mark_destroyed(connection, domain, version, now_us)
                    data = KeyVersionDestroyed(by=by, domain=domain, version=version)
                    await announce(
                        connection, "keys.version_destroyed", key_subject(domain), data, now_us
                    )
            self._announced()
            if old.stored:
                await self._finish_destroying(old)

    async def _make(
        self, connection: AsyncConnection, domain: Domain, version: int, by: str
    ) -> CheckValues:
        home, now = self._homes.first, self._clock.now()
        made = await self._homes.ask(home.new_version, domain.name, domain.suite, version)
        row = rows.VersionRow(
            domain.name,
            domain.suite,
            version,
            home.name,
            made.stored,
            made.check_values,
            now,
            None,
        )
        await rows.add_version(connection, row)
        data = KeyVersionMade(
            by=by,
            domain=domain.name,
            version=version,
            check_values=made.check_values,
            home=home.name,
        )
        subject = key_subject(domain.name)
        await announce(connection, "keys.version_made", subject, data, microseconds(now))
        return made.check_values

    async def _finish_destroying(self, old: rows.VersionRow) -> None:
        home = self._homes.of(old.home)
        await self._homes.ask(home.destroy, Source(old.domain, old.suite, old.version, old.stored))
        async with self._engine.begin() as connection:
            await rows.forget_stored(connection, old.domain, old.version)
        await overwrite_freed(self._engine)

    def _now_us(self) -> int:
        return microseconds(self._clock.now())


@asynccontextmanager
async def _alone(domain: str) -> AsyncIterator[None]:
    """Refuse what another process did at the same moment: its keys stay, ours were never used."""
    try:
        yield
    except IntegrityError:
        raise KeysError(
            f"another command made keys of {domain} just now: see `ostiary keys domains`"
        ) from None


async def read_domain(connection: AsyncConnection, name: str) -> Domain:
    """A domain with its versions. Raises KeysError."""
    row = await rows.read_domain(connection, name)
    if row is None:
        raise KeysError(
            f"there is no key domain {name}: see `ostiary keys domains`, or make it with"
            f" `ostiary keys create {name}`"
        )
    return _domain(row, await rows.read_versions(connection, name))


def _domain(row: rows.DomainRow, versions: Iterable[rows.VersionRow]) -> Domain:
    return Domain(row.name, row.suite, row.floor, tuple(versions))


def key_subject(domain: str) -> str:
    """The CloudEvents subject of what is about a domain's keys."""
    return f"keys/{domain}"


async def _lowest_asked(connection: AsyncConnection, domain: str) -> int:
    """The oldest version that doors of the domain take; where there is no door, beyond all."""
    if await connection.scalar(select(doors.c.id).where(doors.c.domain == domain).limit(1)) is None:
        return MAX_KEY_VERSION + 1
    return min((await read_versions(connection)).get(domain, Versions()).taken)
