"""Commands: do this at this door now, and say what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from schemas.command import Action
from schemas.errors import first_problem
from schemas.names import AgentId, Name
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
    Kind,
    Problem,
    documented,
)
from server.clock import microseconds
from server.distribution.commands import CommandResult, NoSuchDoor
from server.feed.cloudevents import timestamp
from server.state import ServerState

DoorAction = Literal["pulse", "unlock", "lock", "block", "normal", "identify"]
_PROBLEMS: dict[str, Kind] = {
    "refused": REFUSED,
    "not_sent": NOT_CONNECTED,
    "unconfirmed": UNCONFIRMED,
}


class CommandOrder(BaseModel):
    """What to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: DoorAction = Field(
        description="`pulse`: one passage · `unlock`: until a time · `lock`, `block` (no card is "
        "let in): until `normal` or a time · `normal`: as the policy says · `identify`: blink"
    )
    until: AwareDatetime | None = Field(
        default=None, description="required for unlock (at most 24 h ahead)"
    )


class AgentOrder(BaseModel):
    """What an agent is to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["reboot"]


class CommandAnswer(BaseModel):
    """It was done: the agent has signed that, and the event is stored."""

    state: Literal["executed"]
    command: str = Field(description="its id, in the events `command.sent` and `command.executed`")
    agent: str
    detail: str
    operator_to_strike_ms: float | None = Field(
        description="from this request to the act at the door; null if the door's clock is not "
        "known to be right"
    )


def router(state: ServerState) -> APIRouter:
    """The routes that command doors and agents."""
    routes = APIRouter(prefix="/api/v1", tags=["commands"])
    problems = documented(*REFUSALS, NO_SUCH_OBJECT, REFUSED, NOT_CONNECTED, UNCONFIRMED)

    @routes.post(
        "/doors/{door}/commands",
        summary="Command a door",
        response_model=CommandAnswer,
        responses=problems,
    )
    async def command_door(
        door: Annotated[Name, Path(examples=["front"])],
        order: CommandOrder,
        by: Annotated[Principal, Depends(needs("operate"))],
        _query: Annotated[NoQuery, Query()],
    ) -> Response:
        """Answers when the door has done it, has refused, or has not answered in 7 s.

        Never repeated or queued: a command that comes late is refused by the door.
        """
        try:
            result = await state.commands.send(
                door, Action(order.action), by.name, until=order.until
            )
        except NoSuchDoor as error:
            raise Problem(NO_SUCH_OBJECT, str(error)) from None
        except ValidationError as error:
            raise Problem(INVALID, first_problem(error).removeprefix("Value error, ")) from None
        return json_response(told(result))

    @routes.post(
        "/agents/{agent}/commands",
        summary="Command an agent",
        response_model=CommandAnswer,
        responses=problems,
    )
    async def command_agent(
        agent: Annotated[AgentId, Path(examples=["front-agent"])],
        _order: AgentOrder,
        by: Annotated[Principal, Depends(needs("operate"))],
        _query: Annotated[NoQuery, Query()],
    ) -> Response:
        """Reboot: the agent ends, and its supervisor starts it again. Doors stay locked."""
        return json_response(told(await state.commands.reboot(agent, by.name)))

    return routes


def told(result: CommandResult) -> dict[str, Any]:
    """What is answered if the door has done it. Raises Problem if it has not."""
    if result.state == "executed":
        return {
            "state": result.state,
            "command": result.command,
            "agent": result.agent,
            "detail": result.detail,
            "operator_to_strike_ms": result.operator_to_strike_ms,
        }
    members: dict[str, Any] = {
        "state": result.state,
        "command": result.command,
        "agent": result.agent,
        "reason": result.reason,
        "expires": _time(result.expires),
    }
    raise Problem(_PROBLEMS[result.state], result.detail, **members)


def _time(value: datetime | None) -> str | None:
    return None if value is None else timestamp(microseconds(value))
