"""The ESAMs that may be given keys: whose each is, and of which domains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.keys import MAX_DOMAIN_INDEX, EsamSerial
from schemas.names import AgentId, Name
from schemas.server_event_data import EsamChanged
from schemas.suites import SuiteName
from schemas.suites.suite import KEY_BYTES
from server.clock import Clock, microseconds
from server.keys.home import KeysError
from server.keys.homes import Homes
from server.store import keys as rows
from server.store.announcements import announce_all
from server.store.database import sole_writer


class EsamState(StrEnum):
    """Whether an ESAM is given keys."""

    IN_SERVICE = "in-service"
    WITHDRAWN = "withdrawn"
    """Lost, worn out or taken away: it is given nothing more."""


class Placed(Protocol):
    """A domain's place in an ESAM, as an agent names it."""

    @property
    def domain(self) -> str: ...

    @property
    def index(self) -> int: ...


class NewEsam(BaseModel):
    """An ESAM as it was issued (`schemas.esam_issued`), whose it is, and for which domains."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    serial: EsamSerial
    suite: SuiteName
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

    async def take(self, new: Sequence[NewEsam], by: str) -> None:
        """Make them known, or change what is known of them: all or none. Raises KeysError.

        What an ESAM keeps where is not forgotten: its places stay.
        """
        home = self.homes.first
        controls = await self.homes.ask(
            lambda: [
                home.keep_control_key(each.suite, bytes.fromhex(each.serial), each.control_key)
                for each in new
            ]
        )
        now = self.clock.now()
        async with sole_writer(self.engine) as connection:
            domains = {each.name: each for each in await rows.read_domains(connection)}
            known = {
                each.serial: each
                for each in await rows.read_esams(connection)
                if each.serial in {wanted.serial for wanted in new}
            }
            for each, control in zip(new, controls, strict=True):
                for domain in each.domains:
                    _refuse_other_suite(domains.get(domain), domain, each)
                places = known[each.serial].domains if each.serial in known else {}
                row = rows.EsamRow(
                    each.serial,
                    each.suite,
                    each.agent,
                    EsamState.IN_SERVICE,
                    home.name,
                    control,
                    {domain: places.get(domain) for domain in each.domains},
                    now,
                )
                await rows.put_esam(connection, row)
            changed = [_changed(each, EsamState.IN_SERVICE, by) for each in new]
            await announce_all(connection, changed, microseconds(now))
        self.announced()
        for old in known.values():  # only now: a stop leaves one key too many, not one too few
            await self.homes.ask(self.homes.of(old.home).forget_control_key, old.control)

    async def withdraw(self, serial: str, by: str) -> None:
        """Give it nothing more; again is no error. Raises KeysError."""
        async with sole_writer(self.engine) as connection:
            esam = known_esam(await rows.read_esams(connection, [serial]), serial)
            if esam.state == EsamState.WITHDRAWN:
                return
            await rows.set_esam_state(connection, serial, EsamState.WITHDRAWN)
            changed = _changed(esam, EsamState.WITHDRAWN, by)
            await announce_all(connection, [changed], microseconds(self.clock.now()))
        self.announced()


def admit(esam: rows.EsamRow, asked: Placed, agent: str) -> None:
    """Raise KeysError unless this agent may have this domain in its ESAM at this place."""
    if esam.agent != agent:
        raise KeysError(f"agent {agent} asked for keys in ESAM {esam.serial} of {esam.agent}")
    if esam.state != EsamState.IN_SERVICE:
        raise KeysError(f"ESAM {esam.serial} of agent {agent} is {esam.state}: it gets no keys")
    if asked.domain not in esam.domains:
        raise KeysError(
            f"agent {agent} asked for keys of {asked.domain}, which ESAM {esam.serial} is not"
            " for: import it again with that domain if it is to be"
        )
    places = {place: domain for domain, place in esam.domains.items() if place is not None}
    holder = places.get(asked.index, asked.domain)
    if esam.domains[asked.domain] not in (None, asked.index) or holder != asked.domain:
        raise KeysError(
            f"agent {agent} asked to put {asked.domain} at place {asked.index} of ESAM"
            f" {esam.serial}, which keeps {places}: its `domains` must stay in their order"
        )


def known_esam(found: Iterable[rows.EsamRow], serial: str) -> rows.EsamRow:
    """The one of this serial. Raises KeysError."""
    for esam in found:
        if esam.serial == serial:
            return esam
    raise KeysError(f"ESAM {serial} is not known: `ostiary keys esams import` makes it known")


def _refuse_other_suite(domain: rows.DomainRow | None, name: str, esam: NewEsam) -> None:
    if domain is None:
        raise KeysError(
            f"ESAM {esam.serial}: there is no key domain {name}: `ostiary keys create {name}`"
            " makes it"
        )
    if domain.suite != esam.suite:
        raise KeysError(
            f"ESAM {esam.serial} is of suite {esam.suite}, key domain {name} of {domain.suite}:"
            " it can't keep its keys"
        )


def _changed(
    esam: NewEsam | rows.EsamRow, state: EsamState, by: str
) -> tuple[str, str, EsamChanged]:
    data = EsamChanged(
        by=by, esam=esam.serial, agent=esam.agent, state=state, domains=tuple(sorted(esam.domains))
    )
    return "keys.esam_changed", f"esams/{esam.serial}", data
