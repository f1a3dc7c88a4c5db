"""Who may call a route: every route says what scope it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import Request

Scope = Literal["read", "manage", "operate", "revoke", "enrol", "admin"]
"""read: persons, cards and states · manage: the management model · operate: commands and lockdowns ·
revoke: the revocation log · enrol: claims, approvals, removals · admin: tokens, and all of these."""


@dataclass(frozen=True)
class Principal:
    """Who is calling: the name goes into events as `by`."""

    name: str
    scopes: frozenset[Scope]


def needs(scope: Scope) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency that lets a request through if its token has `scope` (or `admin`)."""

    async def authorised(request: Request) -> Principal:
        raise NotImplementedError(scope, request)

    return authorised
