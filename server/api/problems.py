"""Every error is a problem document (RFC 9457) that says what to do next."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from schemas.names import DOTTED_PATTERN, NAME_PATTERN
from server.api.headers import SECURITY_HEADERS
from server.feed.cloudevents import as_json

_log = structlog.get_logger(__name__)

_HEX = re.compile(r"\^\[0-9a-f\]\{([0-9]+)\}\$")
_NAMES = {
    NAME_PATTERN: "lower-case letters, digits and hyphens",
    DOTTED_PATTERN: "lower-case letters, digits, dots and hyphens",
}
MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Kind:
    """One kind of problem; one without a name says no more than its HTTP status."""

    name: str
    status: int
    title: str
    advice: str

    @property
    def type(self) -> str:
        """The address that explains it, or what RFC 9457 4.2.1 has for no explanation."""
        return f"/problems/{self.name}" if self.name else "about:blank"


INVALID = Kind(
    "invalid-request",
    422,
    "A parameter is not valid",
    "See `errors`: each names the parameter, what is wrong with it and what is known.",
)
CURSOR_GONE = Kind(
    "cursor-gone",
    410,
    "The cursor belongs to another event store",
    "Read the current state again, then go on from `GET /api/v1/events?last=0`, or from the "
    "beginning without a cursor.",
)
NO_SUCH_EVENT = Kind(
    "no-such-event",
    404,
    "There is no event with this id",
    "Use an `id` as an event carries it. An event of a door that is offline arrives later.",
)
NOT_FOUND = Kind(
    "not-found", 404, "There is nothing at this address", "See `/api/v1/openapi.json` for what is."
)
UNAUTHORISED = Kind(
    "unauthorised",
    401,
    "This needs a token that is known",
    "Send `Authorization: Bearer TOKEN`. `ostiary tokens create` makes one; on the server's "
    "machine the commands find one in the site directory.",
)
FORBIDDEN = Kind(
    "forbidden",
    403,
    "The token may not do this",
    "Use a token that has the scope. `ostiary tokens list` shows what each may do.",
)
NO_SUCH_OBJECT = Kind(
    "no-such-object",
    404,
    "There is no object with this id",
    "List what there is at the address without the id. Names are case-sensitive.",
)
STILL_NAMED = Kind(
    "still-named",
    409,
    "Something else names what is to be deleted",
    "Change or delete what names it first.",
)
CHANGED_MEANWHILE = Kind(
    "changed-meanwhile",
    412,
    "It is not as you have seen it",
    "Read it again, make your change to what it is now, and send it with the new `ETag`.",
)
TOO_LARGE = Kind(
    "too-large", 413, "The request is too large", "Send it in several parts: each is a change."
)
METHOD = Kind(
    "method-not-allowed",
    405,
    "This address can't be used with this method",
    "Use one of the methods in the `Allow` header.",
)
WRONG_HOST = Kind(
    "wrong-host",
    421,
    "This server doesn't answer to that host name",
    "Use `localhost`, `127.0.0.1` or `[::1]`: it refuses other names so that a web page elsewhere "
    "can't reach it through a name of its own (DNS rebinding).",
)
REFUSED = Kind(
    "refused",
    409,
    "It was refused as things stand",
    "See `detail`, and `reason` if a door refused: nothing was changed or done.",
)
NOT_NOW = Kind(
    "not-now",
    409,
    "That can't be done in this state",
    "`detail` says what is in the way and what to do about it.",
)
NOT_CONNECTED = Kind(
    "not-connected",
    503,
    "The door can't be reached",
    "Nothing was sent. See `GET /api/v1/doors/status` for when the door was heard last.",
)
UNCONFIRMED = Kind(
    "unconfirmed",
    504,
    "The door has not said what became of the command",
    "It may have been carried out, and may be until `expires`. Look at the door before you send it "
    "again.",
)
NOT_READY = Kind(
    "not-ready",
    503,
    "The server is not ready",
    "See `checks` for what is missing. Doors go on deciding meanwhile, and keep their events.",
)
INTERNAL = Kind(
    "internal-error",
    500,
    "The server failed",
    "The reason is in the server's log. A change is made whole or not at all: see what is there "
    "before you try again.",
)
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        INVALID,
        CURSOR_GONE,
        NO_SUCH_EVENT,
        NOT_FOUND,
        UNAUTHORISED,
        FORBIDDEN,
        NO_SUCH_OBJECT,
        STILL_NAMED,
        CHANGED_MEANWHILE,
        TOO_LARGE,
        METHOD,
        WRONG_HOST,
        REFUSED,
        NOT_NOW,
        NOT_CONNECTED,
        UNCONFIRMED,
        NOT_READY,
        INTERNAL,
    )
}


class Problem(Exception):
    """Raise it in a route; the client gets the document."""

    def __init__(self, kind: Kind, detail: str, **members: object) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.members = members


class ProblemDocument(BaseModel):
    """RFC 9457 problem details. Some kinds carry more members: `errors`, `checks`."""

    model_config = ConfigDict(title="Problem", extra="allow")

    type: str = Field(description="what kind of problem: an address that explains it")
    title: str = Field(description="the kind of problem in a few words; never changes")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="what happened this time")
    advice: str = Field(description="what to do")


def problem_response(
    kind: Kind,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
) -> Response:
    """The document as a response."""
    body = {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "advice": kind.advice,
        **(members or {}),
    }
    return Response(
        as_json(body),
        status_code=kind.status,
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def documented(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of a route that may answer with these problems."""
    return {
        kind.status: {
            "description": kind.title,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": {
                        "type": kind.type,
                        "title": kind.title,
                        "status": kind.status,
                        "detail": "...",
                        "advice": kind.advice,
                    },
                }
            },
        }
        for kind in kinds
    }


def install(app: FastAPI) -> None:
    """Turn every error of `app` into a problem document."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_failure)


async def _on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    headers = {"WWW-Authenticate": "Bearer"} if error.kind is UNAUTHORISED else None
    return problem_response(error.kind, error.detail, headers=headers, members=error.members)


def named_errors(error: ValidationError) -> Problem:
    """What a body that was read by hand is refused with, each field by its path."""
    errors = [_named({**entry, "loc": ("body", *entry["loc"])}) for entry in error.errors()]
    first = errors[0]
    return Problem(INVALID, f"{first['parameter']}: {first['detail']}", errors=errors)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [_named(entry) for entry in error.errors()]
    first = errors[0]
    return problem_response(
        INVALID, f"{first['parameter']}: {first['detail']}", members={"errors": errors}
    )


def _named(entry: Mapping[str, Any]) -> dict[str, object]:
    """One validation error, without the internals of the validator that found it."""
    place, *path = entry["loc"]
    # of a query it is the parameter that is named, of a body the way to the field
    path = path if place == "body" else path[:1]
    parameter = ".".join(str(part) for part in path) or str(place)
    detail = str(entry["msg"]).removeprefix("Value error, ")
    if entry["type"] == "string_pattern_mismatch":
        detail = _form(entry["ctx"]["pattern"]) or detail
    if entry["type"] == "extra_forbidden":
        detail = f"there is no such {'field' if place == 'body' else 'parameter'} here"
    return {"parameter": parameter, "in": str(place), "detail": detail}


def _form(pattern: str) -> str | None:
    """What a pattern asks for, in words, if it is one of those that people meet."""
    if pattern in _NAMES:
        return f"a name has up to 63 {_NAMES[pattern]}, and begins and ends with a letter or digit"
    digits = _HEX.fullmatch(pattern)
    return f"it is {digits[1]} hex digits, in lower case" if digits else None


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == METHOD.status:
        allow = {"Allow": ", ".join(sorted(_allowed(request)))}
        return problem_response(METHOD, f"{request.method} {path} is not possible", headers=allow)
    if error.status_code == TOO_LARGE.status:
        return problem_response(TOO_LARGE, str(error.detail))
    if error.status_code == NOT_FOUND.status:
        return problem_response(NOT_FOUND, f"{path} does not exist")
    other = Kind("", error.status_code, HTTPStatus(error.status_code).phrase, "")
    return problem_response(other, str(error.detail), headers=error.headers)


def _allowed(request: Request) -> set[str]:
    """Every method there is a route for at this path: the router names those of the first alone."""
    methods = {
        method
        for method in ("GET", "PUT", "POST", "PATCH", "DELETE")
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }
    return methods | ({"HEAD"} if "GET" in methods else set())


async def _on_failure(request: Request, error: Exception) -> Response:
    # The traceback is for the log alone: a client learns nothing about our insides.
    _log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
    return problem_response(
        INTERNAL, f"{request.method} {request.url.path} failed", headers=SECURITY_HEADERS
    )
