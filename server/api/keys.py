"""Key domains, their versions, and ESAMs. No body that goes in or out has a key in it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.responses import Response

from schemas.keys import CheckValues
from schemas.names import Name
from schemas.suites import SuiteName
from server.api.events import json_response
from server.api.model_routes import REFUSALS
from server.api.models import NoQuery
from server.api.permission import Principal, needs
from server.api.problems import NO_SUCH_OBJECT, NOT_NOW, Problem, documented
from server.clock import microseconds
from server.feed.cloudevents import timestamp
from server.keys.authority import Domain
from server.keys.home import KeysError
from server.state import ServerState
from server.store.keys import EsamRow, VersionRow

_STRICT = ConfigDict(frozen=True, extra="forbid")
T = TypeVar("T")
Operator = Annotated[Principal, Depends(needs("keys"))]
Nothing = Annotated[NoQuery, Query()]
DomainName = Annotated[str, Path(pattern=r"^[a-z0-9-]{1,63}$", examples=["zone-a"])]
Serial = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$", examples=["0123456789abcdef"])]


class NewDomain(BaseModel):
    """A key domain to be made, with version 1 of its keys."""

    model_config = _STRICT

    domain: Name
    suite: SuiteName | None = Field(default=None, description="of its cards; null: the site's")


class NewKeys(BaseModel):
    """Nothing more to say."""

    model_config = _STRICT


class KeyVersionState(BaseModel):
    """One version of a domain's keys; a check value says which key it is and not the key."""

    version: int
    state: str = Field(description="ready, retired or destroyed")
    home: str = Field(description="where the keys are: sealed in the database, or in a token")
    check_values: CheckValues
    created: AwareDatetime


class KeyDomainState(BaseModel):
    """A key domain under the key authority."""

    domain: str
    suite: SuiteName
    floor: int = Field(description="versions below are given to no lock again")
    versions: list[KeyVersionState]


class KeyDomainList(BaseModel):
    """All key domains, by name."""

    items: list[KeyDomainState]
    next: None = None


class EsamStanding(BaseModel):
    """An ESAM that the key authority knows."""

    serial: str
    suite: SuiteName
    agent: str
    state: str = Field(description="in-service or withdrawn")
    domains: dict[str, int | None] = Field(description="that it may be given -> their place in it")
    added: AwareDatetime


class EsamList(BaseModel):
    """All ESAMs, by serial."""

    items: list[EsamStanding]
    next: None = None


def router(state: ServerState) -> APIRouter:
    """The routes under `/api/v1/keys`."""
    routes = APIRouter(prefix="/api/v1/keys", tags=["keys"])
    problems = documented(*REFUSALS, NO_SUCH_OBJECT, NOT_NOW)
    reading = [Depends(needs("read"))]

    @routes.get(
        "/domains",
        summary="See all key domains",
        response_model=KeyDomainList,
        responses=documented(*REFUSALS),
        dependencies=reading,
    )
    async def read_domains(_query: Nothing) -> Response:
        """Those whose keys the key authority makes; other doors draw a secret of their own."""
        found = await state.keys.domains()
        return json_response({"items": [_domain(each) for each in found], "next": None})

    @routes.get(
        "/domains/{domain}",
        summary="See a key domain",
        response_model=KeyDomainState,
        responses=problems,
        dependencies=reading,
    )
    async def read_domain(domain: DomainName, _query: Nothing) -> Response:
        """With every version that it ever had."""
        return json_response(_domain(await _known(state, domain)))

    @routes.post(
        "/domains",
        status_code=201,
        summary="Make a key domain",
        response_model=KeyDomainState,
        responses=problems,
    )
    async def create(order: NewDomain, by: Operator, _query: Nothing) -> Response:
        """Locks with an ESAM for it are given its keys as soon as a door is in the domain."""
        suite = order.suite or state.suite.name
        await _done(state.keys.create_domain(order.domain, suite, by.name))
        state.model_changed()
        return json_response(_domain(await _known(state, order.domain)), 201)

    @routes.post(
        "/domains/{domain}/versions",
        status_code=201,
        summary="Make the next version of a domain's keys",
        response_model=KeyDomainState,
        responses=problems,
    )
    async def new_version(
        domain: DomainName, _order: NewKeys, by: Operator, _query: Nothing
    ) -> Response:
        """No lock uses it before it is rotated in: `POST /api/v1/rotations`."""
        await _known(state, domain)
        await _done(state.keys.new_version(domain, by.name))
        return json_response(_domain(await _known(state, domain)), 201)

    @routes.get(
        "/esams",
        summary="See all ESAMs",
        response_model=EsamList,
        responses=documented(*REFUSALS),
        dependencies=reading,
    )
    async def read_esams(_query: Nothing) -> Response:
        """They are made known on the server itself: `ostiary keys esams import`."""
        found = await state.esams.listed()
        return json_response({"items": [_esam(each) for each in found], "next": None})

    @routes.post(
        "/esams/{serial}/withdraw",
        summary="Give an ESAM no more keys",
        response_model=EsamStanding,
        responses=problems,
    )
    async def withdraw(serial: Serial, _order: NewKeys, by: Operator, _query: Nothing) -> Response:
        """What it holds, it holds: rotate its domains if it may be in wrong hands."""
        await _known_esam(state, serial)
        await _done(state.esams.withdraw(serial, by.name))
        return json_response(_esam(await _known_esam(state, serial)))

    return routes


async def _done(work: Awaitable[T]) -> T:
    try:
        return await work
    except KeysError as error:
        raise Problem(NOT_NOW, str(error)) from None


async def _known(state: ServerState, name: str) -> Domain:
    for domain in await state.keys.domains():
        if domain.name == name:
            return domain
    raise Problem(NO_SUCH_OBJECT, f"there is no key domain {name}")


async def _known_esam(state: ServerState, serial: str) -> EsamRow:
    for esam in await state.esams.listed():
        if esam.serial == serial:
            return esam
    raise Problem(NO_SUCH_OBJECT, f"ESAM {serial} is not known")


def _domain(domain: Domain) -> dict[str, Any]:
    return {
        "domain": domain.name,
        "suite": domain.suite,
        "floor": domain.floor,
        "versions": [_version(each, domain.floor) for each in domain.versions],
    }


def _version(version: VersionRow, floor: int) -> dict[str, Any]:
    state = "ready" if version.version >= floor else "retired"
    return {
        "version": version.version,
        "state": state if version.destroyed is None else "destroyed",
        "home": version.home,
        "check_values": version.check_values.model_dump(),
        "created": timestamp(microseconds(version.created)),
    }


def _esam(esam: EsamRow) -> dict[str, Any]:
    return {
        "serial": esam.serial,
        "suite": esam.suite,
        "agent": esam.agent,
        "state": esam.state,
        "domains": esam.domains,
        "added": timestamp(microseconds(esam.added)),
    }
