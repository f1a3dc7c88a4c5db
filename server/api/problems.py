"""Every error is a problem document (RFC 9457) that says what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from server.api.headers import SECURITY_HEADERS
from server.feed.cloudevents import as_json

_log = structlog.get_logger(__name__)

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
    "The reason is in the server's log. Trying again is safe: every request here only reads.",
)
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        INVALID,
        CURSOR_GONE,
        NO_SUCH_EVENT,
        NOT_FOUND,
        METHOD,
        WRONG_HOST,
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
    return problem_response(error.kind, error.detail, members=error.members)


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
    parameter = str(path[0] if path else place)
    detail = str(entry["msg"]).removeprefix("Value error, ")
    if entry["type"] == "extra_forbidden":
        detail = "there is no such parameter here"
    return {"parameter": parameter, "in": str(place), "detail": detail}


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == METHOD.status:
        allow = {"Allow": "GET, HEAD"}
        return problem_response(METHOD, f"{request.method} {path} is not possible", headers=allow)
    if error.status_code == NOT_FOUND.status:
        return problem_response(NOT_FOUND, f"{path} does not exist")
    other = Kind("", error.status_code, HTTPStatus(error.status_code).phrase, "")
    return problem_response(other, str(error.detail), headers=error.headers)


async def _on_failure(request: Request, error: Exception) -> Response:
    # The traceback is for the log alone: a client learns nothing about our insides.
    _log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
    return problem_response(
        INTERNAL, f"{request.method} {request.url.path} failed", headers=SECURITY_HEADERS
    )
