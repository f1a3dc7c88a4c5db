"""Packages for ESAMs: who may have which key, and the record that it was given.

The record is committed before the package is returned, so nothing was ever sent that the audit log
does not have. A stop in between leaves a record of a package that nobody got: the agent asks again,
with another challenge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.keys import Item, KeyPackage, KeyRequest
from schemas.server_event_data import KeyPackageMade
from server.clock import Clock, microseconds
from server.keys.authority import Domain, key_subject, read_domain
from server.keys.esams import admitted
from server.keys.home import KeysError, Source
from server.keys.homes import Homes
from server.keys.packages import answer, place_of
from server.store import keys as rows
from server.store.announcements import announce


class Issuer:
    """Makes one package at a time."""

    def __init__(
        self, *, engine: AsyncEngine, homes: Homes, clock: Clock, announced: Callable[[], None]
    ) -> None:
        self._engine, self._homes = engine, homes
        self._clock, self._announced = clock, announced
        self._issuing = asyncio.Lock()
        self._counter = 0

    async def package(self, request: KeyRequest, agent: str) -> KeyPackage:
        """What `agent` asked for, to be signed by the `keys` role. Raises KeysError.

        The caller has seen that the agent signed the request, in its present session.
        """
        async with self._issuing:
            async with self._engine.begin() as connection:
                domain = await read_domain(connection, request.domain)
                esam = await admitted(connection, request, agent)
                if request.item is Item.FLOOR:
                    body, check = await self._floor(domain, esam, request), None
                else:
                    body, check = await self._key(domain, esam, request)
                now = self._clock.now()
                await _record(connection, request, agent, check, microseconds(now))
            self._counter = max(self._counter + 1, microseconds(now))
        self._announced()
        return answer(request, agent, body, check, issued=now, counter=self._counter)

    async def _floor(self, domain: Domain, esam: rows.EsamRow, request: KeyRequest) -> bytes:
        if request.version > domain.floor:
            raise KeysError(
                f"ESAM {esam.serial} is to have floor {request.version} in key domain"
                f" {domain.name}, whose floor is {domain.floor}"
            )
        home = self._homes.of(esam.home)
        challenge = bytes.fromhex(request.challenge)
        return await self._homes.ask(home.floor, esam.control, challenge, place_of(request))

    async def _key(
        self, domain: Domain, esam: rows.EsamRow, request: KeyRequest
    ) -> tuple[bytes, str]:
        version = domain.version(request.version)
        name = f"version {version.version} of key domain {domain.name}"
        if version.version < domain.floor or version.destroyed is not None:
            raise KeysError(f"{name} is retired: agent {esam.agent} is not given it any more")
        if esam.home != version.home:
            raise KeysError(
                f"{name} is in {version.home}, the control key of ESAM {esam.serial} in"
                f" {esam.home}: import the ESAM again, or make a new version"
            )
        home = self._homes.of(version.home)
        body, check_value = await self._homes.ask(
            home.package,
            Source(domain.name, version.version, version.stored),
            esam.control,
            bytes.fromhex(request.challenge),
            place_of(request),
        )
        if check_value.hex() != getattr(version.check_values, request.item.value):
            raise KeysError(
                f"{name} is not the key it was made as: restore it from a backup. Nothing was sent"
            )
        return body, check_value.hex()


async def _record(
    connection: AsyncConnection, request: KeyRequest, agent: str, check: str | None, now_us: int
) -> None:
    data = KeyPackageMade(
        by=f"agent {agent}",
        domain=request.domain,
        version=request.version,
        item=request.item,
        esam=request.esam,
        agent=agent,
        check_value=check,
    )
    await announce(connection, "keys.package_made", key_subject(request.domain), data, now_us)
