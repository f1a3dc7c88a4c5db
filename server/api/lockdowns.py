"""Lockdowns: entry refused at many doors at once, until someone ends it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from schemas.lockdown import Lockdown
from schemas.names import Name
from server.api.events import json_response
from server.api.model_routes import REFUSALS
from server.api.models import NoQuery
from server.api.permission import Principal, needs
from server.api.problems import INVALID, NO_SUCH_OBJECT, REFUSED, Problem, documented
from server.clock import microseconds
from server.distribution.lockdowns import LockdownExists, NoSuchLockdown, TooManyLockdowns
from server.feed.cloudevents import timestamp
from server.state import ServerState
from server.store.lockdowns import LockdownRecord, find_lockdowns, read_lockdowns
from server.store.model_questions import known

CREATED = 201
MOST = 1000
"""Of one page."""


class LockdownOrder(BaseModel):
    """What to lock down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: Literal["site", "area", "door"]
    name: Name | None = Field(default=None, description="of the area or door; none for the site")
    exempt: list[Name] = Field(default=[], max_length=16, description="groups that may pass")
    id: Name | None = Field(default=None, description="yours, if a repeated request is to fail")


class LockdownState(BaseModel):
    """One lockdown."""

    id: str
    scope: Literal["site", "area", "door"]
    name: str
    exempt: list[str]
    since: datetime
    started_by: str
    ended: datetime | None = Field(description="null: it is in force")
    ended_by: str | None


class LockdownList(BaseModel):
    """Lockdowns, newest first."""

    items: list[LockdownState]
    next: str | None = Field(description="go on after this; null: this was the last page")
    counter: int = Field(description="of the signed statement that says what is in force")


class LockdownQuery(BaseModel):
    """Which lockdowns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: Annotated[Name | None, Field(description="`next` of the page before")] = None
    limit: Annotated[int, Field(ge=1, le=MOST, description="all in force fit in one page")] = MOST
    ended: Annotated[bool, Field(description="Also those that have ended.")] = False


def router(state: ServerState) -> APIRouter:
    """The routes under `/api/v1/lockdowns`."""
    routes = APIRouter(prefix="/api/v1/lockdowns", tags=["lockdowns"])

    @routes.get(
        "",
        summary="See what is locked down",
        response_model=LockdownList,
        responses=documented(*REFUSALS),
        dependencies=[Depends(needs("read"))],
    )
    async def read_all(query: Annotated[LockdownQuery, Query()]) -> Response:
        """Those in force, or all there ever were. Go on with `after` = `next` until it is null."""
        async with state.engine.connect() as connection:
            before = None
            if query.after is not None:
                before = next(iter(await find_lockdowns(connection, [query.after])), None)
                if before is None:
                    raise _invalid("after", "it is not what a page gave as `next`", "query")
            found = await read_lockdowns(
                connection, active=not query.ended, after=before, limit=query.limit
            )
        more = found[-1].lockdown.id if len(found) == query.limit else None
        return _list(state, found, more)

    @routes.post(
        "",
        summary="Lock down the site, an area or a door",
        status_code=CREATED,
        response_model=LockdownState,
        responses=documented(*REFUSALS, REFUSED),
    )
    async def start(
        order: LockdownOrder,
        by: Annotated[Principal, Depends(needs("operate"))],
        _query: Annotated[NoQuery, Query()],
    ) -> Response:
        """Entry by card is refused at every door in scope; exit never is.

        It is in force, over restarts of everything, until it is ended here.
        """
        name = _name(state, order)
        await _check_names(state, order, name)
        try:
            began = await state.lockdowns.start(
                order.scope, name, order.exempt, by.name, id=order.id
            )
        except (LockdownExists, TooManyLockdowns) as error:
            raise Problem(REFUSED, str(error)) from None
        return json_response(_shown(LockdownRecord(began, by.name, None, None)), CREATED)

    @routes.delete(
        "/{id}",
        summary="End a lockdown",
        response_model=LockdownState,
        responses=documented(*REFUSALS, NO_SUCH_OBJECT),
    )
    async def end(
        id: Annotated[Name, Path(examples=["lockdown-5f0c1a2b"])],
        by: Annotated[Principal, Depends(needs("operate"))],
        _query: Annotated[NoQuery, Query()],
    ) -> Response:
        """Its doors go back to what their policy says, unless another lockdown has them."""
        try:
            await state.lockdowns.end(id, by.name)
        except NoSuchLockdown as error:
            raise Problem(NO_SUCH_OBJECT, str(error)) from None
        async with state.engine.connect() as connection:
            (ended,) = await find_lockdowns(connection, [id])
        return json_response(_shown(ended))

    @routes.delete(
        "",
        summary="End every lockdown",
        response_model=LockdownList,
        responses=documented(*REFUSALS),
    )
    async def end_all(
        by: Annotated[Principal, Depends(needs("operate"))],
        _query: Annotated[NoQuery, Query()],
    ) -> Response:
        """Also those that doors hold and this server has forgotten, after a restored backup."""
        ended = await state.lockdowns.end_all(by.name)
        async with state.engine.connect() as connection:
            found = await find_lockdowns(connection, [each.id for each in ended])
        return _list(state, found, None)

    return routes


def _name(state: ServerState, order: LockdownOrder) -> str:
    if order.scope == "site":
        if order.name not in (None, state.site):
            raise _invalid("name", f"the site is {state.site}: leave the name out")
        return state.site
    if order.name is None:
        raise _invalid("name", f"say which {order.scope}")
    return order.name


async def _check_names(state: ServerState, order: LockdownOrder, name: str) -> None:
    """A lockdown of what is not there would shut nothing, and seem to."""
    wanted = [("group", group) for group in order.exempt]
    if order.scope != "site":
        wanted.append((order.scope, name))
    async with state.engine.connect() as connection:
        there = await known(connection, wanted)
    for kind, missing in wanted:
        if (kind, missing) not in there:
            parameter = "exempt" if kind == "group" else "name"
            raise _invalid(parameter, f"there is no {kind} {missing}")


def _invalid(parameter: str, detail: str, where: Literal["body", "query"] = "body") -> Problem:
    errors = [{"parameter": parameter, "in": where, "detail": detail}]
    return Problem(INVALID, f"{parameter}: {detail}", errors=errors)


def _list(state: ServerState, found: Sequence[LockdownRecord], more: str | None) -> Response:
    items = [_shown(each) for each in found]
    return json_response({"items": items, "next": more, "counter": state.lockdowns.counter})


def _shown(record: LockdownRecord) -> dict[str, Any]:
    lockdown: Lockdown = record.lockdown
    return {
        "id": lockdown.id,
        "scope": lockdown.scope,
        "name": lockdown.name,
        "exempt": list(lockdown.exempt),
        "since": timestamp(microseconds(lockdown.since)),
        "started_by": record.started_by,
        "ended": timestamp(microseconds(record.ended)) if record.ended else None,
        "ended_by": record.ended_by,
    }
