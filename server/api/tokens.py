"""API tokens: made once, shown once."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from schemas.names import DOTTED_PATTERN, SERVER
from schemas.server_event_data import TokenChanged
from server.api.events import json_response
from server.api.model_routes import REFUSALS
from server.api.models import NoQuery
from server.api.permission import LOCAL, Principal, Scope, needs
from server.api.problems import INVALID, NO_SUCH_OBJECT, Problem, documented
from server.clock import microseconds
from server.feed.cloudevents import timestamp
from server.model.bodies import Moment
from server.state import ServerState
from server.store.announcements import announce
from server.store.tokens import Token, create_token, list_tokens, revoke_token

TokenName = Annotated[str, StringConstraints(pattern=DOTTED_PATTERN)]


class NewToken(BaseModel):
    """What a token is for, what it may do, and until when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: TokenName = Field(description="who or what will use it; stands in events as `by`")
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    expires: Moment | None = Field(default=None, description="null: when it is revoked")


class TokenItem(BaseModel):
    """A token, without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    created: datetime
    created_by: str
    expires: datetime | None
    last_used: datetime | None = Field(description="to the minute")


class TokenMade(TokenItem):
    """A new token. `token` is shown here and never again."""

    token: str = Field(repr=False)


class TokenList(BaseModel):
    """All tokens, oldest first."""

    items: list[TokenItem]


def router(state: ServerState) -> APIRouter:
    """`/api/v1/tokens`."""
    routes = APIRouter(prefix="/api/v1/tokens", tags=["tokens"])

    @routes.get(
        "",
        summary="List tokens",
        response_model=TokenList,
        responses=documented(*REFUSALS),
    )
    async def read_tokens(
        _query: Annotated[NoQuery, Query()], _who: Annotated[Principal, Depends(needs("admin"))]
    ) -> Response:
        """Expired ones too. Their secrets are kept nowhere."""
        async with state.engine.connect() as connection:
            found = await list_tokens(connection)
        return json_response({"items": [_shown(token) for token in found]})

    @routes.post(
        "",
        summary="Make a token",
        status_code=201,
        response_model=TokenMade,
        responses=documented(*REFUSALS),
    )
    async def make_token(
        body: NewToken,
        _query: Annotated[NoQuery, Query()],
        who: Annotated[Principal, Depends(needs("admin"))],
    ) -> Response:
        """The answer holds the token; keep it, it can't be read again."""
        now_us = microseconds(state.clock.now())
        expires_us = None if body.expires is None else microseconds(body.expires)
        if expires_us is not None and expires_us <= now_us:
            raise _invalid("expires", "has passed already")
        if body.name == LOCAL:
            raise _invalid("name", f"{LOCAL!r} is who works on the server's own machine")
        if body.name == SERVER:
            raise _invalid("name", f"{SERVER!r} stands in events for what nobody asked for")
        async with state.engine.begin() as connection:
            if any(token.name == body.name for token in await list_tokens(connection)):
                raise _invalid("name", f"there is a token {body.name!r} already: revoke it first")
            token = Token("", body.name, body.scopes, now_us, who.name, expires_us, None)
            text = await create_token(connection, token, secrets.token_bytes)
            made = next(t for t in await list_tokens(connection) if t.name == body.name)
            data = TokenChanged(by=who.name, token=body.name, action="created")
            await announce(connection, "token.changed", f"tokens/{made.id}", data, now_us)
        state.announced()
        response = json_response({**_shown(made), "token": text})
        response.status_code = 201
        return response

    @routes.delete(
        "/{key}",
        summary="Revoke a token",
        status_code=204,
        response_class=Response,
        responses=documented(*REFUSALS, NO_SUCH_OBJECT),
    )
    async def delete_token(
        key: Annotated[str, Path(pattern=r"^[0-9a-f]{16}$", description="the token's id")],
        _query: Annotated[NoQuery, Query()],
        who: Annotated[Principal, Depends(needs("admin"))],
    ) -> Response:
        """It is refused from the next request on."""
        async with state.engine.begin() as connection:
            found = [token for token in await list_tokens(connection) if token.id == key]
            if not found or not await revoke_token(connection, key):
                raise Problem(NO_SUCH_OBJECT, f"there is no token with the id {key}")
            data = TokenChanged(by=who.name, token=found[0].name, action="revoked")
            now_us = microseconds(state.clock.now())
            await announce(connection, "token.changed", f"tokens/{key}", data, now_us)
        state.announced()
        return Response(status_code=204)

    return routes


def _shown(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "scopes": sorted(token.scopes),
        "created": timestamp(token.created_us),
        "created_by": token.created_by,
        "expires": None if token.expires_us is None else timestamp(token.expires_us),
        "last_used": None if token.last_used_us is None else timestamp(token.last_used_us),
    }


def _invalid(field: str, detail: str) -> Problem:
    errors = [{"parameter": field, "in": "body", "detail": detail}]
    return Problem(INVALID, f"{field}: {detail}", errors=errors)
