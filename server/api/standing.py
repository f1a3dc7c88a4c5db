"""What each door should enforce, says it enforces, and has confirmed: kept apart."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from schemas.versions import LogHead, Version
from server.api.events import json_response
from server.api.models import NoQuery
from server.api.permission import needs
from server.api.problems import INVALID, documented
from server.clock import microseconds
from server.core.standing import Part, behind
from server.feed.cloudevents import timestamp
from server.state import ServerState

_AT_ONCE = 200


class Desired(BaseModel):
    """The newest of everything, as the agent's heartbeat names it."""

    root: int
    policy: Version | None
    revocation: LogHead
    lockdown: int


class Reported(BaseModel):
    """What the agent says of itself in its newest report; believed for nothing."""

    root: int
    policy: Version | None
    revocation: LogHead
    lockdown: int
    contact: str
    mode: str
    freshness: str
    waiting: int = Field(description="events it has not handed over")
    clock: str
    software: str
    certificate_until: str | None


class Confirmed(BaseModel):
    """What it has signed receipts for, and when it signed the last."""

    root: int
    policy: int
    policy_hash: str
    revocation: int
    revocation_hash: str
    lockdown: int
    at: str


class DoorStanding(BaseModel):
    """One door. `state` is `converged`, `behind`, `offline` or `unknown`."""

    door: str
    agent: str
    state: Literal["converged", "behind", "offline", "unknown"]
    behind: list[Part] = Field(description="parts without a receipt for the newest version")
    overdue: bool = Field(description="a revocation has been waiting for over 30 s")
    last_heard: str | None
    desired: Desired
    reported: Reported | None
    applied: Confirmed | None


class Standings(BaseModel):
    """All doors that the model knows, by name."""

    doors: list[DoorStanding]


def router(state: ServerState) -> APIRouter:
    """The route `/api/v1/doors/status`."""
    routes = APIRouter(prefix="/api/v1/doors", tags=["doors"])

    @routes.get(
        "/status",
        summary="See what each door enforces",
        response_model=Standings,
        responses=documented(INVALID),
        dependencies=[Depends(needs("read"))],
    )
    async def read_status(_query: Annotated[NoQuery, Query()]) -> Response:
        """Desired, reported and applied versions of every door; nothing waits for a door."""
        served = sorted(await state.served_doors())
        overdue = state.convergence.overdue
        doors: list[dict[str, Any]] = []
        for start in range(0, len(served), _AT_ONCE):
            doors += [_standing(state, d, a, overdue) for d, a in served[start : start + _AT_ONCE]]
            await asyncio.sleep(0)  # others may wait for the event loop
        return await asyncio.to_thread(json_response, {"doors": doors})

    return routes


def _standing(
    state: ServerState, door: str, agent: str, overdue: Collection[str]
) -> dict[str, Any]:
    desired = state.convergence.desired(agent)
    done = state.convergence.applied().get(agent)
    late = behind(desired, done)
    presence = state.presence.state(agent)
    heard = state.presence.last_heard(agent)
    return {
        "door": door,
        "agent": agent,
        "state": presence if presence != "online" else ("behind" if late else "converged"),
        "behind": list(late),
        "overdue": agent in overdue,
        "last_heard": timestamp(microseconds(heard)) if heard else None,
        "desired": {
            "root": desired.root,
            "policy": desired.policy.model_dump() if desired.policy else None,
            "revocation": desired.revocation.model_dump(),
            "lockdown": desired.lockdown,
        },
        "reported": _reported(state, door, agent),
        "applied": None
        if done is None
        else {
            "root": done.root,
            "policy": done.policy,
            "policy_hash": done.policy_hash,
            "revocation": done.revocation,
            "revocation_hash": done.revocation_hash,
            "lockdown": done.lockdown,
            "at": timestamp(done.time_us),
        },
    }


def _reported(state: ServerState, door: str, agent: str) -> dict[str, Any] | None:
    report = state.presence.report(agent)
    if report is None:
        return None
    of_door = report.doors.get(door)
    until = report.certificate_until
    return {
        "root": report.root,
        "policy": report.policy.model_dump() if report.policy else None,
        "revocation": report.revocation.model_dump(),
        "lockdown": report.lockdown,
        "contact": of_door.contact if of_door else "unknown",
        "mode": of_door.mode if of_door else "unknown",
        "freshness": of_door.freshness if of_door else "none",
        "waiting": report.waiting,
        "clock": report.clock.status,
        "software": report.version,
        "certificate_until": timestamp(microseconds(until)) if until else None,
    }
