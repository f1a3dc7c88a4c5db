"""The ESAMs that may be given keys: whose each is, and of which domains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.keys import MAX_DOMAIN_INDEX, EsamSerial, KeyRequest
from schemas.names import AgentId, Name
from schemas.server_event_data import EsamChanged
from schemas.suites.suite import KEY_BYTES
from server.clock import Clock, microseconds
from server.keys.home import KeysError
from server.keys.homes import Homes
from server.store import keys as rows
from server.store.announcements import announce


class EsamState(StrEnum):
    """Whether an ESAM is given keys."""

    IN_SERVICE = "in-service"
    WITHDRAWN = "withdrawn"
    """Lost, worn out or taken away: it is given nothing more."""


class NewEsam(BaseModel):
    """An ESAM as it was issued (`schemas.esam_issued`), whose it is, and for which domains."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    serial: EsamSerial
    control_key: bytes = Field(repr=False, min_length=KEY_BYTES, max_length=KEY_BYTES)
    agent: AgentId
    domains: tuple[Name, ...] = Field(min_length=1, max_length=MAX_DOMAIN_INDEX)


@dataclass(frozen=True)
class Esams:
    """The register of a site's ESAMs."""

    engine: AsyncEngine
    homes: Homes
    clock: Clock
    announced: Callable[[], None]

    async def listed(self) -> list[rows.EsamRow]:
        """All of them, by serial."""
        async with self.engine.connect() as connection:
            return await rows.read_esams(connection)

    async def take(self, new: NewEsam, by: str) -> None:
        """Make it known, or change what is known of it. Raises KeysError.

        What an ESAM keeps where is not forgotten: its places stay.
        """
        home = self.homes.first
        control = await self.homes.ask(
            home.keep_control_key, bytes.fromhex(new.serial), new.control_key
        )
        now = self.clock.now()
        now_us = microseconds(now)
        async with self.engine.begin() as connection:
            for domain in new.domains:
                if await rows.read_domain(connection, domain) is None:
                    raise KeysError(
                        f"ESAM {new.serial}: there is no key domain {domain}:"
                        f" `ostiary keys create {domain}` makes it"
                    )
            known = await rows.read_esams(connection, new.serial)
            places = known[0].domains if known else {}
            row = rows.EsamRow(
                new.serial,
                new.agent,
                EsamState.IN_SERVICE,
                home.name,
                control,
                {domain: places.get(domain) for domain in new.domains},
                now,
            )
            await rows.put_esam(connection, row)
            await _announce(connection, new, EsamState.IN_SERVICE, by, now_us)
        self.announced()
        for old in known:  # only now: a stop before this leaves one key too many, not one too few
            await self.homes.ask(self.homes.of(old.home).forget_control_key, old.control)

    async def withdraw(self, serial: str, by: str) -> None:
        """Give it nothing more; again is no error. Raises KeysError."""
        now_us = microseconds(self.clock.now())
        async with self.engine.begin() as connection:
            esam = await _esam(connection, serial)
            if esam.state == EsamState.WITHDRAWN:
                return
            await rows.set_esam_state(connection, serial, EsamState.WITHDRAWN)
            await _announce(connection, esam, EsamState.WITHDRAWN, by, now_us)
        self.announced()


async def admitted(connection: AsyncConnection, request: KeyRequest, agent: str) -> rows.EsamRow:
    """The ESAM of a request, if this agent may have this domain in it at this place.

    The first request fixes the place. Raises KeysError.
    """
    esam = await _esam(connection, request.esam)
    if esam.agent != agent:
        raise KeysError(f"agent {agent} asked for keys in ESAM {esam.serial} of {esam.agent}")
    if esam.state != EsamState.IN_SERVICE:
        raise KeysError(f"ESAM {esam.serial} of agent {agent} is {esam.state}: it gets no keys")
    if request.domain not in esam.domains:
        raise KeysError(
            f"agent {agent} asked for keys of {request.domain}, which ESAM {esam.serial} is not"
            " for: import it again with that domain if it is to be"
        )
    places = {place: domain for domain, place in esam.domains.items() if place is not None}
    holder = places.get(request.index, request.domain)
    if esam.domains[request.domain] not in (None, request.index) or holder != request.domain:
        raise KeysError(
            f"agent {agent} asked to put {request.domain} at place {request.index} of ESAM"
            f" {esam.serial}, which keeps {places}: its `domains` must stay in their order"
        )
    if esam.domains[request.domain] is None:
        await rows.set_place(connection, esam.serial, request.domain, request.index)
    return esam


async def _esam(connection: AsyncConnection, serial: str) -> rows.EsamRow:
    found = await rows.read_esams(connection, serial)
    if not found:
        raise KeysError(f"ESAM {serial} is not known: `ostiary keys esams import` makes it known")
    return found[0]


async def _announce(
    connection: AsyncConnection,
    esam: NewEsam | rows.EsamRow,
    state: EsamState,
    by: str,
    now_us: int,
) -> None:
    data = EsamChanged(
        by=by, esam=esam.serial, agent=esam.agent, state=state, domains=tuple(sorted(esam.domains))
    )
    await announce(connection, "keys.esam_changed", f"esams/{esam.serial}", data, now_us)
