"""Windows: for a moment, a reader binds the next card to a person, or unbinds one card."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from schemas.command import LONGEST_WINDOW, Action, CommandId
from schemas.errors import first_problem
from schemas.names import CardId, Name
from server.api.commands import told
from server.api.events import json_response
from server.api.model_routes import REFUSALS
from server.api.models import NoQuery
from server.api.permission import Principal, needs
from server.api.problems import (
    INVALID,
    NO_SUCH_OBJECT,
    NOT_CONNECTED,
    REFUSED,
    UNCONFIRMED,
    Problem,
    documented,
)
from server.clock import microseconds
from server.distribution.commands import NoSuchDoor
from server.distribution.windows import LATE, standing
from server.feed.cloudevents import timestamp
from server.feed.hub import HubClosed
from server.state import ServerState
from server.store.model_questions import known
from server.store.model_tables import bindings, doors
from server.store.windows import Window, read_window

ACCEPTED = 202
SHORTEST_S, LONGEST_S = 5, int(LONGEST_WINDOW.total_seconds())
MOST_WAIT_S = 25.0
_ACTIONS = {"bind": Action.BINDING_WINDOW, "unbind": Action.UNBINDING_WINDOW}


class WindowOrder(BaseModel):
    """What the reader is to do with the next card that is not bound there, or with one card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["bind", "unbind"]
    person: Name | None = Field(default=None, description="bind: whose card it is to be")
    card: CardId | None = Field(
        default=None, description="unbind: which card; bind: no other card than this"
    )
    direction: Literal["in", "out"] = Field(default="in", description="at which reader")
    seconds: int = Field(default=LONGEST_S, ge=SHORTEST_S, le=LONGEST_S)

    @model_validator(mode="after")
    def _names_what_it_is_for(self) -> WindowOrder:
        if self.kind == "bind" and self.person is None:
            raise ValueError("a card is bound to a person: say `person`")
        if self.kind == "unbind" and (self.card is None or self.person is not None):
            raise ValueError("a window to unbind is for one card: say `card`, and no `person`")
        return self


class WindowOpened(BaseModel):
    """The door has opened it."""

    command: str = Field(description="its name in `GET /api/v1/windows/{command}` and in events")
    until: AwareDatetime = Field(description="when it closes by itself")


class WindowStanding(WindowOpened):
    """What has come of it."""

    state: Literal["open", "bound", "unbound", "not_bound", "ended", "refused"] = Field(
        description="`not_bound`: its time is over, see `outcome` · `ended`: the same, and the "
        "door has said nothing, or another window took its place · `refused`: it was never open"
    )
    kind: Literal["bind", "unbind"]
    door: str
    direction: Literal["in", "out"]
    domain: str = Field(description="the key domain of the door")
    agent: str
    person: str | None
    card: str | None = Field(description="the one card it is for")
    came: str | None = Field(description="the card that the door told of last")
    outcome: str | None = Field(description="what came of that card, such as `unknown_key`")
    detail: str
    opened: AwareDatetime
    opened_by: str
    news: int = Field(description="how many times the door told of it; for `seen`")


class WindowQuery(BaseModel):
    """Whether to wait for news."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wait: Annotated[float, Field(ge=0, le=MOST_WAIT_S, description="Most seconds (long-poll).")] = 0
    seen: Annotated[
        int, Field(ge=0, description="With `wait`: answer once `news` is another number.")
    ] = 0


def router(state: ServerState) -> APIRouter:
    """The routes that open windows and tell of them."""
    routes = APIRouter(prefix="/api/v1", tags=["cards"])

    @routes.post(
        "/doors/{door}/windows",
        summary="Open a window to bind or unbind a card",
        status_code=ACCEPTED,
        response_model=WindowOpened,
        responses=documented(*REFUSALS, NO_SUCH_OBJECT, REFUSED, NOT_CONNECTED, UNCONFIRMED),
    )
    async def open_window(
        door: Annotated[Name, Path(examples=["front"])],
        order: WindowOrder,
        by: Annotated[Principal, Depends(needs("operate"))],
        _query: Annotated[NoQuery, Query()],
    ) -> Response:
        """Answers when the reader blinks. Cards that open the door go on to do so meanwhile.

        It takes the place of one that is open at the same reader, and can't be closed: it closes by
        itself, after one card or at `until`.
        """
        async with state.engine.connect() as connection:
            await _check(connection, door, order)
        until = state.clock.now() + timedelta(seconds=order.seconds)
        try:
            result = await state.commands.send(
                door,
                _ACTIONS[order.kind],
                by.name,
                until=until,
                person=order.person,
                card=order.card,
                direction=order.direction,
            )
        except NoSuchDoor as error:
            raise Problem(NO_SUCH_OBJECT, str(error)) from None
        except ValidationError as error:
            raise Problem(INVALID, first_problem(error).removeprefix("Value error, ")) from None
        return json_response({"command": told(result)["command"], "until": _time(until)}, ACCEPTED)

    @routes.get(
        "/windows/{command}",
        summary="See what has come of a window",
        response_model=WindowStanding,
        responses=documented(*REFUSALS, NO_SUCH_OBJECT),
        dependencies=[Depends(needs("read"))],
    )
    async def read_one(
        command: Annotated[CommandId, Path()], query: Annotated[WindowQuery, Query()]
    ) -> Response:
        """As its door has signed it; a card that was refused does not end a window."""
        return json_response(await _awaited(state, command, query))

    return routes


async def _check(connection: AsyncConnection, door: str, order: WindowOrder) -> None:
    """Whether what the order names is there: a slip shows now, not at the door. Raises Problem."""
    query = select(doors.c.domain, doors.c.readers).where(doors.c.id == door)
    there = (await connection.execute(query)).one_or_none()
    if there is None:
        raise Problem(NO_SUCH_OBJECT, f"there is no door {door}")
    if order.direction not in there.readers.split(","):
        detail = f"door {door} has no reader {order.direction!r}, it has {there.readers}"
        raise Problem(INVALID, detail, errors=[])
    if order.person is not None and not await known(connection, [("person", order.person)]):
        raise Problem(NO_SUCH_OBJECT, f"there is no person {order.person}")
    if order.kind == "unbind" and not await known(connection, [("card", str(order.card))]):
        bound = select(bindings.c.card).where(
            bindings.c.card == order.card, bindings.c.domain == there.domain
        )
        if await connection.scalar(bound) is None:
            raise Problem(NO_SUCH_OBJECT, f"there is no card {order.card}")


async def _awaited(state: ServerState, command: str, query: WindowQuery) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    end_s = loop.time() + query.wait
    while True:
        position = state.hub.position
        async with state.engine.connect() as connection:
            window = await read_window(connection, command)
        if window is None:
            raise Problem(NO_SUCH_OBJECT, f"there was no window {command}")
        now = state.clock.now()
        shown = _shown(window, now)
        left_s = min(end_s - loop.time(), (window.until + LATE - now).total_seconds() + 0.01)
        if shown["state"] != "open" or window.news != query.seen or end_s <= loop.time():
            return shown
        try:
            async with asyncio.timeout(max(left_s, 0)):
                await state.hub.wait_beyond(position)
        except TimeoutError:
            continue  # its time may be over, or ours
        except HubClosed:
            return shown


def _shown(window: Window, now: datetime) -> dict[str, Any]:
    return {
        "command": window.command,
        "until": _time(window.until),
        "state": standing(window, now),
        "kind": window.kind,
        "door": window.door,
        "direction": window.direction,
        "domain": window.domain,
        "agent": window.agent,
        "person": window.person,
        "card": window.card,
        "came": window.came,
        "outcome": window.outcome,
        "detail": window.detail,
        "opened": _time(window.opened),
        "opened_by": window.opened_by,
        "news": window.news,
    }


def _time(value: datetime) -> str:
    return timestamp(microseconds(value))
