"""Packages for ESAMs: who may have which key, and the record that it was given.

Many are made at once, for the record costs a transaction. It is committed before a package is
returned, so nothing was ever sent that the audit log does not have. A stop in between leaves a
record of a package that nobody got: the agent asks again, with another challenge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.keys import CheckValues, Item, KeyPackage, KeyRequest
from schemas.server_event_data import KeyPackageMade
from server.clock import Clock, microseconds
from server.keys.authority import Domain, key_subject, read_domain
from server.keys.esams import admit, known_esam
from server.keys.home import KeyHome, KeysError, Source
from server.keys.homes import Homes
from server.keys.packages import answer, place_of
from server.store import keys as rows
from server.store.announcements import announce_all
from server.store.database import sole_writer


@dataclass(frozen=True)
class Asked:
    """A request, and the agent that signed it in its present session."""

    agent: str
    request: KeyRequest


@dataclass(frozen=True)
class _Grounds:
    """What a package rests on: it is looked at before it is made, and again as it is recorded."""

    domain: Domain
    esam: rows.EsamRow


@dataclass(frozen=True)
class _Made:
    body: bytes
    check_values: CheckValues | None


class Issuer:
    """Makes packages, one batch at a time."""

    def __init__(
        self, *, engine: AsyncEngine, homes: Homes, clock: Clock, announced: Callable[[], None]
    ) -> None:
        self._engine, self._homes = engine, homes
        self._clock, self._announced = clock, announced
        self._issuing = asyncio.Lock()
        self._counter = 0

    async def package(self, request: KeyRequest, agent: str) -> KeyPackage:
        """What `agent` asked for, to be signed by the `keys` role. Raises KeysError."""
        (made,) = await self.packages([Asked(agent, request)])
        if isinstance(made, KeysError):
            raise made
        return made

    async def packages(self, asked: Sequence[Asked]) -> list[KeyPackage | KeysError]:
        """For each what it asked for, to be signed by the `keys` role, or why it gets nothing.

        No two of them are of one ESAM.
        """
        async with self._issuing:
            async with self._engine.connect() as connection:
                grounds = await _grounds(connection, asked)
            made = await self._homes.ask(
                lambda: [self._make(a, on) for a, on in zip(asked, grounds, strict=True)]
            )
            now = self._clock.now()
            async with sole_writer(self._engine) as connection:
                # Another process may have retired a version or withdrawn an ESAM meanwhile.
                again = await _grounds(connection, asked)
                checked = [
                    m if before == after or isinstance(m, KeysError) else _changed(a)
                    for a, m, before, after in zip(asked, made, grounds, again, strict=True)
                ]
                await _record(connection, asked, again, checked, microseconds(now))
            results: list[KeyPackage | KeysError] = []
            for each, result in zip(asked, checked, strict=True):
                if isinstance(result, KeysError):
                    results.append(result)
                    continue
                self._counter = max(self._counter + 1, microseconds(now))
                results.append(
                    answer(
                        each.request,
                        each.agent,
                        result.body,
                        result.check_values,
                        issued=now,
                        counter=self._counter,
                    )
                )
        self._announced()
        return results

    def _make(self, asked: Asked, grounds: _Grounds | KeysError) -> _Made | KeysError:
        """On the thread of the homes."""
        if isinstance(grounds, KeysError):
            return grounds
        try:
            admit(grounds.esam, asked.request, asked.agent)
            if asked.request.item is Item.FLOOR:
                return self._floor(grounds, asked.request)
            return self._keys(grounds, asked.request)
        except KeysError as error:
            return error

    def _floor(self, on: _Grounds, request: KeyRequest) -> _Made:
        domain, esam = on.domain, on.esam
        if request.version > domain.floor:
            raise KeysError(
                f"ESAM {esam.serial} is to have floor {request.version} in key domain"
                f" {domain.name}, whose floor is {domain.floor}"
            )
        home = self._homes.of(esam.home)
        challenge = bytes.fromhex(request.challenge)
        return _Made(home.floor(esam.suite, esam.control, challenge, place_of(request)), None)

    def _keys(self, on: _Grounds, request: KeyRequest) -> _Made:
        domain, esam = on.domain, on.esam
        version = domain.version(request.version)
        name = f"version {version.version} of key domain {domain.name}"
        if version.version < domain.floor or version.destroyed is not None:
            raise KeysError(f"{name} is retired: agent {esam.agent} is not given it any more")
        if esam.home != version.home:
            raise KeysError(
                f"{name} is in {version.home}, the control key of ESAM {esam.serial} in"
                f" {esam.home}: import the ESAM again, or make a new version"
            )
        home: KeyHome = self._homes.of(version.home)
        body, check_values = home.package(
            Source(domain.name, domain.suite, version.version, version.stored),
            esam.control,
            bytes.fromhex(request.challenge),
            place_of(request),
        )
        if check_values != version.check_values:
            raise KeysError(
                f"{name} is not what it was made as: restore it from a backup. Nothing was sent"
            )
        return _Made(body, check_values)


async def _grounds(
    connection: AsyncConnection, asked: Sequence[Asked]
) -> list[_Grounds | KeysError]:
    domains: dict[str, Domain | KeysError] = {}
    for name in {each.request.domain for each in asked}:
        try:
            domains[name] = await read_domain(connection, name)
        except KeysError as error:
            domains[name] = error
    esams = await rows.read_esams(connection, {each.request.esam for each in asked})
    return [_of(each.request, domains[each.request.domain], esams) for each in asked]


def _of(
    request: KeyRequest, domain: Domain | KeysError, esams: Sequence[rows.EsamRow]
) -> _Grounds | KeysError:
    if isinstance(domain, KeysError):
        return domain
    try:
        esam = known_esam(esams, request.esam)
    except KeysError as error:
        return error
    if esam.suite != domain.suite:
        return KeysError(
            f"ESAM {esam.serial} is of suite {esam.suite}, key domain {domain.name} of"
            f" {domain.suite}: it is not given its keys"
        )
    return _Grounds(domain, esam)


def _changed(asked: Asked) -> KeysError:
    return KeysError(
        f"key domain {asked.request.domain} or ESAM {asked.request.esam} was changed as agent"
        f" {asked.agent} asked: it asks again"
    )


async def _record(
    connection: AsyncConnection,
    asked: Sequence[Asked],
    grounds: Sequence[_Grounds | KeysError],
    made: Sequence[_Made | KeysError],
    now_us: int,
) -> None:
    news = []
    for each, on, result in zip(asked, grounds, made, strict=True):
        if isinstance(result, KeysError) or isinstance(on, KeysError):
            continue
        request = each.request
        if on.esam.domains[request.domain] is None:  # the first request fixes the place
            await rows.set_place(connection, request.esam, request.domain, request.index)
        data = KeyPackageMade(
            by=f"agent {each.agent}",
            domain=request.domain,
            version=request.version,
            item=request.item,
            esam=request.esam,
            agent=each.agent,
            check_values=result.check_values,
        )
        news.append(("keys.package_made", key_subject(request.domain), data))
    await announce_all(connection, news, now_us)
