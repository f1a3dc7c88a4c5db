"""Who may call a route: each says what scope it needs.

What the live page reads needs none, for the server listens on loopback only: events, doors, health,
metrics. All else without one are the page's own files and the OpenAPI document.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Literal, cast, get_args

from fastapi import Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from server.api.problems import FORBIDDEN, UNAUTHORISED, Problem
from server.clock import microseconds
from server.state import ServerState
from server.store.tokens import find_token, is_used_again, note_use, token_hash

Scope = Literal["read", "manage", "operate", "revoke", "enrol", "keys", "admin"]
"""read: persons, cards and states · manage: the management model · operate: commands and
lockdowns · revoke: the revocation log · enrol: claims, approvals, removals · keys: key
versions and their rotation · admin: tokens, and all of these."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
LOCAL = "local"
"""The name of who shows the token of `run.json`."""


@dataclass(frozen=True)
class Principal:
    """Who is calling: the name goes into events as `by`."""

    name: str
    scopes: frozenset[Scope]


class Needs(SecurityBase):
    """A dependency that lets a request through if its token has `scope` (or `admin`).

    In the OpenAPI document each scope is a security scheme of its own.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.scheme_name = scope
        self.model = HTTPBearer(description=f"a token with the scope `{scope}`, or `admin`")

    async def __call__(self, request: Request) -> Principal:
        """Who is calling. Raises Problem."""
        principal = await _principal(request)
        if not principal.scopes & {self.scope, "admin"}:
            raise Problem(FORBIDDEN, f"the token {principal.name!r} has no scope {self.scope!r}")
        return principal


def needs(scope: Scope) -> Needs:
    """A dependency for a route: its caller must show a token that has `scope` (or `admin`)."""
    return Needs(scope)


async def _principal(request: Request) -> Principal:
    state: ServerState = request.app.state.server
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Problem(UNAUTHORISED, "the request shows no token")
    text = text.strip()
    if state.local_token and hmac.compare_digest(token_hash(text), state.local_token):
        return Principal(LOCAL, frozenset(SCOPES))
    now_us = microseconds(state.clock.now())
    async with state.engine.connect() as connection:
        token = await find_token(connection, text, now_us)
    if token is None:
        raise Problem(UNAUTHORISED, "the token is unknown, was revoked or has expired")
    if is_used_again(token, now_us):
        async with state.engine.begin() as connection:
            await note_use(connection, token.id, now_us)
    return Principal(token.name, cast("frozenset[Scope]", token.scopes))
