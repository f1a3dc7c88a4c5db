"""Rotations: give the locks and cards of a key domain new keys, and see how far that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from schemas.names import AgentId, Name
from server.api.events import json_response
from server.api.model_routes import REFUSALS
from server.api.models import NoQuery
from server.api.permission import Principal, needs
from server.api.problems import NO_SUCH_OBJECT, NOT_NOW, Problem, documented
from server.clock import microseconds
from server.core.rotation import Campaign, Lock, NotNow
from server.core.rotation_view import version_state, waits_for
from server.distribution.key_standing import Standing, UnknownDomain, UnknownRotation
from server.feed.cloudevents import timestamp
from server.keys.home import KeysError
from server.state import ServerState
from server.store import rotations as rows

LISTED = 200
"""So many locks that wait, and cards that are behind, are listed; all are counted."""
_STRICT = ConfigDict(frozen=True, extra="forbid")
T = TypeVar("T")
Id = Annotated[str, Path(pattern=r"^[0-9a-f]{8}$", examples=["0123abcd"])]

Operator = Annotated[Principal, Depends(needs("keys"))]
Nothing = Annotated[NoQuery, Query()]


class RotationPlan(BaseModel):
    """What to rotate."""

    model_config = _STRICT

    domain: Name
    to_version: int | None = Field(
        default=None, ge=2, le=255, description="a version that is made already; none: a new one"
    )
    overlap_days: float = Field(
        default=30.0, gt=0, le=3650, description="after it, cards that did not come may be left"
    )


class RotationStart(BaseModel):
    """How to start."""

    model_config = _STRICT

    hold: bool = Field(default=False, description="wait for `activate` once all locks are staged")


class RotationRetirement(BaseModel):
    """How to end the old version."""

    model_config = _STRICT

    leave_behind: bool = Field(
        default=False, description="though live cards have no new keys: they are bound again later"
    )
    destroy: bool = Field(default=False, description="destroy the old keys at the authority too")


class RotationQuarantine(BaseModel):
    """Which locks to go on without."""

    model_config = _STRICT

    agents: tuple[AgentId, ...] = Field(
        default=(), max_length=20_000, description="none: all that can't be reached now"
    )
    release: bool = Field(default=False, description="count on them again")


class NoOrder(BaseModel):
    """Nothing more to say."""

    model_config = _STRICT


class RotationSummary(BaseModel):
    """A campaign."""

    id: str
    domain: str
    from_version: int
    to_version: int
    state: str
    paused_in: str | None
    reason: str = Field(description="why it is paused")
    wave: int = Field(description="0 to 3: one lock, 1 %, 10 %, all")
    hold: bool
    lockouts: int = Field(description="good cards that were refused because of their key version")
    deadline: datetime
    created: datetime
    changed: datetime


class RotationList(BaseModel):
    """Campaigns, newest first."""

    items: list[RotationSummary]
    next: None = None


class WaitingLock(BaseModel):
    """A lock that the campaign waits for, or that is in quarantine."""

    agent: str
    wave: int
    why: str
    reachable: bool
    quarantined: bool


class RotationLocks(BaseModel):
    """The locks, counted."""

    total: int
    new: dict[str, int] = Field(description="state of the new version -> how many")
    old: dict[str, int] = Field(description="state of the old version -> how many")
    waves: list[dict[str, int]]
    quarantined: int
    unreachable: int


class RotationCards(BaseModel):
    """The live cards of the domain."""

    versions: dict[int, int] = Field(description="newest version on the card -> how many")
    behind: int = Field(description="that don't have the version it moves to")
    some_behind: list[str]


class RotationState(RotationSummary):
    """A campaign, its locks and cards."""

    locks: RotationLocks
    waiting: list[WaitingLock]
    cards: RotationCards


def router(state: ServerState) -> APIRouter:
    """The routes under `/api/v1/rotations`."""
    routes = APIRouter(prefix="/api/v1/rotations", tags=["rotations"])
    problems = documented(*REFUSALS, NO_SUCH_OBJECT, NOT_NOW)

    @routes.get(
        "",
        summary="See all rotations",
        response_model=RotationList,
        responses=documented(*REFUSALS),
        dependencies=[Depends(needs("read"))],
    )
    async def read_all(_query: Nothing) -> Response:
        """Newest first."""
        async with state.engine.connect() as connection:
            found = await rows.read_rotations(connection)
        return json_response({"items": [_summary(*each) for each in found], "next": None})

    @routes.get(
        "/{id}",
        summary="See how far a rotation is",
        response_model=RotationState,
        responses=problems,
        dependencies=[Depends(needs("read"))],
    )
    async def read(id: Id, _query: Nothing) -> Response:
        """What locks have is what they have signed; nothing is assumed."""
        return json_response(await _whole(state, id))

    @routes.post(
        "",
        status_code=201,
        summary="Plan a rotation",
        response_model=RotationState,
        responses=problems,
    )
    async def plan(order: RotationPlan, by: Operator, _query: Nothing) -> Response:
        """Makes the next key version; no lock and no door changes by that."""
        overlap = timedelta(days=order.overlap_days)
        campaign = await _asked(
            state.rotations.plan(order.domain, by.name, to=order.to_version, overlap=overlap)
        )
        return json_response(await _whole(state, campaign.id), 201)

    @routes.post(
        "/{id}/start", summary="Start it", response_model=RotationState, responses=problems
    )
    async def start(id: Id, order: RotationStart, by: Operator, _query: Nothing) -> Response:
        """Gives the locks the new keys, wave after wave, and then prefers them."""
        return await _done(state, state.rotations.start(id, by.name, hold=order.hold))

    @routes.post(
        "/{id}/retire",
        summary="End the old version",
        response_model=RotationState,
        responses=problems,
    )
    async def retire(id: Id, order: RotationRetirement, by: Operator, _query: Nothing) -> Response:
        """It can't be undone."""
        options = order.model_dump()
        return await _done(state, state.rotations.retire(id, by.name, **options))

    @routes.post(
        "/{id}/quarantine",
        summary="Go on without some locks",
        response_model=RotationState,
        responses=problems,
    )
    async def quarantine(
        id: Id, order: RotationQuarantine, by: Operator, _query: Nothing
    ) -> Response:
        """They are given what they lack when they are back, and then leave it by themselves."""
        agents = order.agents
        if not agents and not order.release:
            _, _, locks = await _asked(state.rotations.standing(id))
            agents = tuple(k.agent for k in locks if not (k.reachable or k.quarantined))
        return await _done(
            state, state.rotations.quarantine(id, by.name, agents, release=order.release)
        )

    @routes.post(
        "/{id}/pause",
        summary="Stop it where it is",
        response_model=RotationState,
        responses=problems,
    )
    async def pause(id: Id, _order: NoOrder, by: Operator, _query: Nothing) -> Response:
        """Nothing changes at any door."""
        return await _done(state, state.rotations.pause(id, by.name))

    @routes.post("/{id}/resume", summary="Go on", response_model=RotationState, responses=problems)
    async def resume(id: Id, _order: NoOrder, by: Operator, _query: Nothing) -> Response:
        """What failed before is tried again."""
        return await _done(state, state.rotations.resume(id, by.name))

    @routes.post(
        "/{id}/activate",
        summary="Prefer the new version",
        response_model=RotationState,
        responses=problems,
    )
    async def activate(id: Id, _order: NoOrder, by: Operator, _query: Nothing) -> Response:
        """Refused while a lock in service lacks it."""
        return await _done(state, state.rotations.activate(id, by.name))

    @routes.post(
        "/{id}/rollback", summary="Undo it", response_model=RotationState, responses=problems
    )
    async def rollback(id: Id, _order: NoOrder, by: Operator, _query: Nothing) -> Response:
        """Before activation it is forgotten; in the overlap another goes the other way."""
        return await _done(state, state.rotations.roll_back(id, by.name))

    return routes


async def _done(state: ServerState, work: Awaitable[Campaign]) -> Response:
    campaign = await _asked(work)
    return json_response(await _whole(state, campaign.id))


async def _asked(work: Awaitable[T]) -> T:
    try:
        return await work
    except (UnknownRotation, UnknownDomain) as error:
        raise Problem(NO_SUCH_OBJECT, str(error)) from None
    except (NotNow, KeysError) as error:
        raise Problem(NOT_NOW, str(error)) from None


async def _whole(state: ServerState, id: str) -> dict[str, Any]:
    standing, campaign, locks = await _asked(state.rotations.standing(id))
    now = state.clock.now()
    async with state.engine.connect() as connection:
        (found,) = await rows.read_rotations(connection, id=campaign.id)
        name, version = campaign.domain, campaign.to_version
        versions = await rows.cards_by_version(connection, name, now)
        behind, some = await rows.cards_behind(connection, name, version, now, LISTED)
    return _summary(*found) | {
        "locks": _counted(campaign, locks, standing),
        "waiting": _waiting(campaign, locks, standing),
        "cards": {"versions": versions, "behind": behind, "some_behind": some},
    }


def _summary(campaign: Campaign, created: datetime, changed: datetime) -> dict[str, Any]:
    return {
        "id": campaign.id,
        "domain": campaign.domain,
        "from_version": campaign.from_version,
        "to_version": campaign.to_version,
        "state": campaign.state,
        "paused_in": campaign.resumes,
        "reason": campaign.reason,
        "wave": campaign.wave,
        "hold": campaign.hold,
        "lockouts": campaign.lockouts,
        "deadline": timestamp(microseconds(campaign.deadline)),
        "created": timestamp(microseconds(created)),
        "changed": timestamp(microseconds(changed)),
    }


def _counted(campaign: Campaign, locks: list[Lock], standing: Standing) -> dict[str, Any]:
    domain, new, old = standing.domain, campaign.to_version, campaign.from_version
    destroyed = old not in domain.checks
    in_waves = Counter(lock.wave for lock in locks)
    staged = Counter(lock.wave for lock in locks if lock.has(new, domain.checks.get(new)))
    return {
        "total": len(locks),
        "new": dict(Counter(version_state(lock, new, domain) for lock in locks)),
        "old": dict(
            Counter(version_state(lock, old, domain, destroyed=destroyed) for lock in locks)
        ),
        "waves": [
            {"wave": wave, "locks": count, "staged": staged[wave]}
            for wave, count in sorted(in_waves.items())
        ],
        "quarantined": sum(lock.quarantined for lock in locks),
        "unreachable": sum(not lock.reachable for lock in locks),
    }


def _waiting(campaign: Campaign, locks: list[Lock], standing: Standing) -> list[dict[str, Any]]:
    waiting = []
    for lock in locks:
        why = waits_for(campaign, lock, standing.domain)
        if not why and not (lock.quarantined and not campaign.ended):
            continue
        waiting.append(
            {
                "agent": lock.agent,
                "wave": lock.wave,
                "why": why or lock.refusal or "in quarantine",
                "reachable": lock.reachable,
                "quarantined": lock.quarantined,
            }
        )
        if len(waiting) == LISTED:
            break
    return waiting
