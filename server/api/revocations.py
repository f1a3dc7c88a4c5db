"""Revocations: denials that beat everything, and how far each has come."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from schemas.revocation import Denied, RevocationEntry, RevocationReason, RevokedKind
from schemas.versions import LogHead
from server.api.events import json_response
from server.api.model_routes import REFUSALS
from server.api.models import NoQuery
from server.api.permission import Principal, needs
from server.api.problems import NO_SUCH_OBJECT, Problem, documented
from server.clock import microseconds
from server.core.residual_risk import Exposure, answered
from server.distribution.revocations import Revoked, Subject
from server.distribution.risk import residual_risk
from server.feed.cloudevents import timestamp
from server.feed.hub import HubClosed
from server.ingest.receipts import Applied
from server.state import ServerState
from server.store.model_questions import grace_of, known
from server.store.revocations import find_entries, read_entries

MOST = 1000
MOST_WAIT_S = 25.0
CREATED = 201
_KIND = Field(description="`card`, `person` or `key-version`", examples=["card"])
_SUBJECT = Field(
    description="card id, person, or `<key domain>/<version>`", examples=["0102030405060708"]
)


class Order(BaseModel):
    """Who or what is to be denied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Annotated[RevokedKind, _KIND]
    subject: Annotated[str, _SUBJECT]
    reason: RevocationReason = Field(description="the doors give the matching denial reason")

    @model_validator(mode="after")
    def _names_one_of_its_kind(self) -> Order:
        Denied(kind=self.kind, subject=self.subject, sequence=1, reason=self.reason)
        return self


class Orders(BaseModel):
    """One revocation, or many that become durable together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    revocations: list[Order] = Field(min_length=1, max_length=MOST)


class Entry(BaseModel):
    """One entry of the log."""

    sequence: int
    kind: Annotated[RevokedKind, _KIND]
    subject: Annotated[str, _SUBJECT]
    reason: RevocationReason
    time: datetime = Field(description="when it was added")


class Ordered(Entry):
    """The entry that denies."""

    new: bool = Field(description="false: it stood there already")
    known: bool = Field(description="false: there is no such card, person or key version")


class OrderedEntries(BaseModel):
    """In the order of the request."""

    items: list[Ordered]


class LogPage(BaseModel):
    """Some entries, oldest first, and where to go on."""

    items: list[Entry]
    next: str | None = Field(description="`after` of the next page; null: this was the last")
    head: LogHead = Field(description="the newest entry, and the hash over all of the log")


class LogQuery(BaseModel):
    """Which entries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: Annotated[int, Field(ge=0, lt=2**63, description="Entries beyond this sequence.")] = 0
    limit: Annotated[int, Field(ge=1, le=MOST)] = 100
    kind: RevokedKind | None = None
    subject: Annotated[str | None, Field(max_length=67)] = None


class ProgressQuery(BaseModel):
    """Whether to wait for news."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wait: Annotated[
        float, Field(ge=0, le=MOST_WAIT_S, description="Most seconds to wait (long-poll).")
    ] = 0
    confirmed: Annotated[
        int | None,
        Field(ge=0, description="With `wait`: answer once another number of agents has confirmed."),
    ] = None


class AgentProgress(BaseModel):
    """One agent with its doors."""

    agent: str
    doors: list[str]
    state: str = Field(description="`online`, `offline` or `unknown`")
    confirmed: bool = Field(description="there is a signed receipt for this entry")
    applied: int = Field(description="the last sequence it has given a receipt for")
    receipt: AwareDatetime | None = Field(description="when it signed its newest receipt")
    admits_until: AwareDatetime | None = Field(
        description="not confirmed: its doors let the card in until then at most, online or not, "
        "but for cards that their policy lets in offline"
    )


class Risk(BaseModel):
    """One door that still lets in one revoked card."""

    agent: str
    door: str
    card: str
    sequence: int = Field(description="the entry that denies it, which the door has not confirmed")
    until: AwareDatetime | None = Field(
        description="at the latest; null: there is no end, for the card is admitted offline"
    )


class Risks(BaseModel):
    """What the revocation log has not reached yet. Empty: every door has confirmed everything."""

    items: list[Risk]
    doors: int = Field(description="how many doors are at risk")
    cards: int = Field(description="how many cards can still be used somewhere")
    until: AwareDatetime | None = Field(
        description="when the last of them ends; null: none is there, or one has no end"
    )


class Progress(BaseModel):
    """How far one entry has come. Only signed receipts count."""

    entry: Entry
    agents: list[AgentProgress]
    confirmed: int = Field(description="agents with a receipt")
    waiting: int = Field(description="agents that are online and have not confirmed")
    unreachable: int = Field(description="agents that are not online and have not confirmed")


def router(state: ServerState) -> APIRouter:
    """The routes under `/api/v1/revocations`."""
    routes = APIRouter(prefix="/api/v1/revocations", tags=["revocations"])

    @routes.post(
        "",
        summary="Revoke cards, persons or key versions",
        status_code=CREATED,
        response_model=OrderedEntries,
        responses=documented(*REFUSALS),
    )
    async def revoke(
        orders: Orders,
        by: Annotated[Principal, Depends(needs("revoke"))],
        _query: Annotated[NoQuery, Query()],
    ) -> Response:
        """Durable, and on its way to every door, when this answers.

        Repeating it is safe: what is revoked already for the same reason gets no second entry. It
        can't be taken back: let the card or person in again by changing the management model.
        """
        wanted = [Subject(o.kind, o.subject, o.reason) for o in orders.revocations]
        revoked = await state.revocations.revoke_all(wanted, by.name)
        async with state.engine.connect() as connection:
            there = await known(connection, [(r.entry.kind, r.entry.subject) for r in revoked])
        return json_response({"items": [_ordered(each, there) for each in revoked]}, CREATED)

    @routes.get(
        "",
        summary="Read the revocation log",
        response_model=LogPage,
        responses=documented(*REFUSALS),
        dependencies=[Depends(needs("read"))],
    )
    async def read_log(query: Annotated[LogQuery, Query()]) -> Response:
        """Entries are never changed or taken away."""
        async with state.engine.connect() as connection:
            found = await find_entries(
                connection,
                after=query.after,
                limit=query.limit,
                kind=query.kind,
                subject=query.subject,
            )
        more = len(found) == query.limit
        return json_response(
            {
                "items": [_entry(entry) for entry in found],
                "next": str(found[-1].sequence) if more else None,
                "head": state.revocations.head.model_dump(),
            }
        )

    @routes.get(
        "/risk",
        summary="See which doors still let in whom",
        response_model=Risks,
        responses=documented(*REFUSALS),
        dependencies=[Depends(needs("read"))],
    )
    async def read_risk(_query: Annotated[NoQuery, Query()]) -> Response:
        """Doors that have not confirmed a revocation of a card that their policy lets in."""
        return json_response(_risks(await residual_risk(state)))

    @routes.get(
        "/{sequence}/progress",
        summary="See how far a revocation has come",
        response_model=Progress,
        responses=documented(*REFUSALS, NO_SUCH_OBJECT),
        dependencies=[Depends(needs("read"))],
    )
    async def read_progress(
        sequence: Annotated[int, Path(ge=1, lt=2**63)],
        query: Annotated[ProgressQuery, Query()],
    ) -> Response:
        """Each agent that serves a door: whether it has confirmed, or until when it is a risk."""
        async with state.engine.connect() as connection:
            entries = await read_entries(connection, sequence, sequence)
        if not entries:
            raise Problem(NO_SUCH_OBJECT, f"there is no revocation {sequence}")
        return json_response(await _awaited(state, entries[0], query))

    return routes


def _risks(found: list[Exposure]) -> dict[str, Any]:
    ends = [each.until for each in found]
    last = max((end for end in ends if end is not None), default=None)
    return {
        "items": [
            {
                "agent": each.agent,
                "door": each.door,
                "card": each.card,
                "sequence": each.sequence,
                "until": timestamp(microseconds(each.until)) if each.until else None,
            }
            for each in found
        ],
        "doors": len({each.door for each in found}),
        "cards": len({each.card for each in found}),
        "until": timestamp(microseconds(last)) if last and None not in ends else None,
    }


async def _awaited(
    state: ServerState, entry: RevocationEntry, query: ProgressQuery
) -> dict[str, Any]:
    known = query.confirmed
    try:
        async with asyncio.timeout(query.wait):
            while True:
                position = state.hub.position
                progress = await _progress(state, entry)
                if known is None or progress["confirmed"] != known or not progress["waiting"]:
                    return progress
                await state.hub.wait_beyond(position)
    except (TimeoutError, HubClosed):
        return await _progress(state, entry)


async def _progress(state: ServerState, entry: RevocationEntry) -> dict[str, Any]:
    doors: dict[str, list[str]] = {}
    for door, agent in sorted(await state.served_doors()):
        doors.setdefault(agent, []).append(door)
    applied = state.convergence.applied()
    agents = [
        _agent(state, agent, served, applied.get(agent), entry) for agent, served in doors.items()
    ]
    late = [each for each in agents if not each["confirmed"]]
    async with state.engine.connect() as connection:
        grace_s = await grace_of(connection, [door for each in late for door in each["doors"]])
    for each in late:
        issued = answered(state.heartbeats.issued(each["agent"]), entry.sequence)
        longest = max((grace_s.get(door, 0.0) for door in each["doors"]), default=0.0)
        if issued is not None:
            until = issued + timedelta(seconds=longest)
            each["admits_until"] = timestamp(microseconds(until))
    unreachable = sum(each["state"] != "online" for each in late)
    return {
        "entry": _entry(entry),
        "agents": agents,
        "confirmed": len(agents) - len(late),
        "waiting": len(late) - unreachable,
        "unreachable": unreachable,
    }


def _agent(
    state: ServerState, agent: str, doors: list[str], done: Applied | None, entry: RevocationEntry
) -> dict[str, Any]:
    return {
        "agent": agent,
        "doors": doors,
        "state": state.presence.state(agent),
        "confirmed": done is not None and done.revocation >= entry.sequence,
        "applied": done.revocation if done else 0,
        "receipt": timestamp(done.time_us) if done else None,
        "admits_until": None,
    }


def _entry(entry: RevocationEntry) -> dict[str, Any]:
    return {
        "sequence": entry.sequence,
        "kind": entry.kind,
        "subject": entry.subject,
        "reason": entry.reason,
        "time": timestamp(microseconds(entry.time)),
    }


def _ordered(revoked: Revoked, there: set[tuple[str, str]]) -> dict[str, Any]:
    entry = revoked.entry
    return {**_entry(entry), "new": revoked.new, "known": (entry.kind, entry.subject) in there}
