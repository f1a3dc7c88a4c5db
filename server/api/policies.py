"""The policies that are signed for the agents, and how far each has come."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from schemas.names import AgentId
from server.api.events import json_response
from server.api.models import NoQuery
from server.api.permission import needs
from server.api.problems import INVALID, NO_SUCH_OBJECT, Problem, documented
from server.feed.cloudevents import timestamp
from server.state import ServerState
from server.store.policies import list_policies


class PolicyStatus(BaseModel):
    """One agent's newest policy."""

    agent: str
    version: int | None = Field(description="null: none could be made yet")
    hash: str | None = Field(description="digest of the signed bytes, in the site's suite")
    cards: int | None = Field(description="how many cards it knows")
    issued: datetime | None
    applied: int | None = Field(description="what the agent's newest receipt says it enforces")
    failure: str | None = Field(
        description="why the model's newest state could not be made a policy; null: it was"
    )


class PolicyStatuses(BaseModel):
    """Of every agent that has a door, or had one."""

    items: list[PolicyStatus]


class SignedEnvelope(BaseModel):
    """A DSSE v1 envelope."""

    payloadType: str  # noqa: N815 the envelope's word
    payload: str = Field(description="base64; the exact bytes that were signed")
    signatures: list[dict[str, str]] = Field(description="`keyid` and `sig` of each")


def router(state: ServerState) -> APIRouter:
    """The routes under `/api/v1/policies`."""
    routes = APIRouter(
        prefix="/api/v1/policies", tags=["doors"], dependencies=[Depends(needs("read"))]
    )

    @routes.get(
        "",
        summary="See the newest policy of every agent",
        response_model=PolicyStatuses,
        responses=documented(INVALID),
    )
    async def read_policies(_query: Annotated[NoQuery, Query()]) -> Response:
        """What is signed, and what each agent has confirmed; nothing waits for an agent."""
        failures, applied = state.policies.failures, state.convergence.applied()
        items: dict[str, dict[str, Any]] = {
            agent: dict.fromkeys(PolicyStatus.model_fields) | {"agent": agent} for agent in failures
        }
        for stored in await list_policies(state.engine):
            items[stored.agent] = {
                "agent": stored.agent,
                "version": stored.version,
                "hash": stored.hash,
                "cards": stored.cards,
                "issued": timestamp(stored.issued_us),
            }
        for agent, item in items.items():
            item["applied"] = (applied[agent].policy or None) if agent in applied else None
            item["failure"] = failures.get(agent)
        return json_response({"items": [items[agent] for agent in sorted(items)]})

    @routes.get(
        "/{agent}",
        summary="Download the signed policy of an agent",
        response_model=SignedEnvelope,
        responses=documented(NO_SUCH_OBJECT, INVALID),
    )
    async def read_policy(agent: AgentId, _query: Annotated[NoQuery, Query()]) -> Response:
        """The exact envelope that the agent gets: doors, rules, schedules, and digests of cards."""
        envelope = await state.policies.envelope(agent)
        if envelope is None:
            raise Problem(NO_SUCH_OBJECT, f"there is no policy for an agent {agent!r}")
        return Response(
            envelope, media_type="application/json", headers={"Cache-Control": "no-store"}
        )

    return routes
