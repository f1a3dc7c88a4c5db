"""Agents: who is one, who may become one, and who is one no longer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from schemas.enrolment import fingerprint
from schemas.names import DigestHex
from server.api.events import json_response
from server.api.models import NoQuery
from server.api.permission import Principal, needs
from server.api.problems import INVALID, NO_SUCH_OBJECT, REFUSED, Problem, documented
from server.clock import microseconds
from server.enrolment.enrolments import NoSuchAgent, NotPossible
from server.feed.cloudevents import timestamp
from server.state import ServerState
from server.store.agents import Agent, list_agents
from server.store.enrolments import Issued, Standing, newest_certificates

State = Literal["enrolled", "claimed", "pending", "refused", "lapsed"]
Operator = Annotated[Principal, Depends(needs("enrol"))]
AgentName = Annotated[str, Path(max_length=63, description="the agent's id")]


class ClaimItem(BaseModel):
    """A claim, and what came of it."""

    state: Literal["open", "pending", "refused", "lapsed"] = Field(
        description="`open`: no device has used it yet; `pending`: one waits for approval; "
        "`lapsed`: nobody used or approved it in time"
    )
    by: str = Field(description="who made it")
    expires: datetime = Field(description="until when a device may use it")
    keyid: str | None = Field(description="of the device that waits; name it to approve")
    fingerprint: str | None = Field(description="the same for people: compare with the device")
    rival: str | None = Field(
        description="fingerprint of a second device that came with the same claim: one of the two "
        "is not yours"
    )


class AgentItem(BaseModel):
    """One agent, or one that may become one."""

    agent: str
    enrolled: bool = Field(description="what its key signs counts")
    fingerprint: str | None = Field(description="of the key that counts")
    added: datetime | None = Field(description="since when")
    certificate_until: datetime | None = Field(description="end of its TLS certificate")
    claim: ClaimItem | None = Field(description="the newest claim, unless it has led to this agent")


class Agents(BaseModel):
    """All of them, by name."""

    items: list[AgentItem]
    next: None = Field(default=None, description="there is no other page")


class AgentsQuery(BaseModel):
    """Which agents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pending: bool = Field(default=False, description="only devices that wait for approval")


class ClaimOrder(BaseModel):
    """What the claim is for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    re_enrol: bool = Field(
        default=False, description="give new keys to an agent that is enrolled already"
    )


class ClaimCode(BaseModel):
    """To be carried to the device, by hand or as a QR code. It is shown only once."""

    agent: str
    code: str = Field(repr=False, examples=["ostiary://10.0.0.5:8443/front/AAAA-BBBB?root=..."])
    expires: datetime


class Approval(BaseModel):
    """Which device is approved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keyid: DigestHex = Field(description="of the device whose fingerprint was compared")


def router(state: ServerState) -> APIRouter:
    """The routes under `/api/v1/agents`."""
    routes = APIRouter(prefix="/api/v1/agents", tags=["agents"])
    problems = documented(INVALID, NO_SUCH_OBJECT, REFUSED)

    @routes.get("", summary="See all agents", response_model=Agents, responses=documented(INVALID))
    async def read_agents(query: Annotated[AgentsQuery, Query()], _by: Operator) -> Response:
        """Those that are enrolled, and those that were claimed."""
        registered = {each.id: each for each in await list_agents(state.engine)}
        claims = {each.agent: each for each in await state.enrolments.standings()}
        certificates = await newest_certificates(state.engine)
        now = state.clock.now()
        items = [
            _item(name, registered.get(name), claims.get(name), certificates.get(name), now)
            for name in sorted({*registered, *claims})
        ]
        if query.pending:
            items = [each for each in items if (each["claim"] or {}).get("state") == "pending"]
        return json_response({"items": items, "next": None})

    @routes.post(
        "/{agent}/claim",
        summary="Make a claim code for a device",
        status_code=201,
        response_model=ClaimCode,
        responses=problems,
    )
    async def claim(
        agent: AgentName, order: ClaimOrder, by: Operator, _query: Annotated[NoQuery, Query()]
    ) -> Response:
        """Good for ten minutes and one device. An earlier claim for the agent is void."""
        try:
            made = await state.enrolments.claim(agent, by.name, again=order.re_enrol)
        except NotPossible as error:
            raise _problem(error) from None
        expires = timestamp(microseconds(made.expires))
        body = {"agent": agent, "code": made.claim.code, "expires": expires}
        return json_response(body, status=201)

    @routes.post(
        "/{agent}/approve", summary="Approve a device", status_code=204, responses=problems
    )
    async def approve(
        agent: AgentName, approval: Approval, by: Operator, _query: Annotated[NoQuery, Query()]
    ) -> Response:
        """Make the device with this key the agent; one that had the name loses its key."""
        try:
            await state.enrolments.approve(agent, approval.keyid, by.name)
        except NotPossible as error:
            raise _problem(error) from None
        return Response(status_code=204)

    @routes.post(
        "/{agent}/refuse", summary="Turn a device away", status_code=204, responses=problems
    )
    async def refuse(
        agent: AgentName, by: Operator, _query: Annotated[NoQuery, Query()]
    ) -> Response:
        """The device that waits is told so; the claim is used up."""
        try:
            await state.enrolments.refuse(agent, by.name)
        except NotPossible as error:
            raise _problem(error) from None
        return Response(status_code=204)

    @routes.delete("/{agent}", summary="Remove an agent", status_code=204, responses=problems)
    async def remove(
        agent: AgentName, by: Operator, _query: Annotated[NoQuery, Query()]
    ) -> Response:
        """Cut it off at once, and make any claim for its name void."""
        try:
            await state.enrolments.remove(agent, by.name)
        except NotPossible as error:
            raise _problem(error) from None
        return Response(status_code=204)

    return routes


def _problem(error: NotPossible) -> Problem:
    missing = isinstance(error, NoSuchAgent)
    return Problem(NO_SUCH_OBJECT if missing else REFUSED, str(error))


def _item(
    name: str,
    agent: Agent | None,
    claim: Standing | None,
    certificate: Issued | None,
    now: datetime,
) -> dict[str, Any]:
    return {
        "agent": name,
        "enrolled": agent is not None,
        "fingerprint": fingerprint(agent.keyid) if agent else None,
        "added": timestamp(agent.added_us) if agent else None,
        "certificate_until": timestamp(certificate.until_us) if certificate else None,
        "claim": _claim(claim, now) if claim and claim.state != "approved" else None,
    }


def _claim(claim: Standing, now: datetime) -> dict[str, Any]:
    return {
        "state": "lapsed" if claim.lapsed(now) else claim.state,
        "by": claim.claimed_by,
        "expires": timestamp(claim.expires_us),
        "keyid": claim.keyid,
        "fingerprint": fingerprint(claim.keyid) if claim.keyid else None,
        "rival": fingerprint(claim.rival) if claim.rival else None,
    }
