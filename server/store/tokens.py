"""API tokens: what a program or a person shows to be let in. Only their hashes are kept.

A token is `ost_<id>_<secret>`: the id finds the row, the secret is 32 random bytes, so a plain
SHA-256 of it can't be searched back, and no slow hash is needed.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.model_tables import tokens

SECRET_BYTES = 32
_TOKEN = re.compile(r"ost_([0-9a-f]{16})_([0-9a-f]{64})\Z")
_USED_EVERY_US = 60_000_000
"""`last_used` is noted once a minute: not a write for each request."""


@dataclass(frozen=True)
class Token:
    """What is known of a token; not the token itself."""

    id: str
    name: str
    scopes: frozenset[str]
    created_us: int
    created_by: str
    expires_us: int | None
    last_used_us: int | None


_COLUMNS = [tokens.c[name] for name in Token.__annotations__]


async def create_token(
    connection: AsyncConnection,
    token: Token,
    random: Callable[[int], bytes],
) -> str:
    """Keep a new token (its `id` is chosen here); returns its text, which can't be read again."""
    secret = random(SECRET_BYTES).hex()
    key = random(8).hex()
    values = {**vars(token), "id": key, "scopes": " ".join(sorted(token.scopes))}
    await connection.execute(insert(tokens).values(**values, hash=token_hash(secret)))
    return f"ost_{key}_{secret}"


async def list_tokens(connection: AsyncConnection) -> list[Token]:
    """All tokens, expired ones too, oldest first."""
    rows = await connection.execute(select(*_COLUMNS).order_by(tokens.c.created_us, tokens.c.id))
    return [_token(row) for row in rows]


async def revoke_token(connection: AsyncConnection, key: str) -> bool:
    """Forget a token; from the next request on it is nothing. False: there is none of this id."""
    return bool((await connection.execute(delete(tokens).where(tokens.c.id == key))).rowcount)


async def find_token(connection: AsyncConnection, text: str, now_us: int) -> Token | None:
    """The token that `text` is, unless it is unknown or has expired."""
    shape = _TOKEN.match(text)
    if shape is None:
        return None
    row = (
        await connection.execute(
            select(*_COLUMNS, tokens.c.hash).where(tokens.c.id == shape.group(1))
        )
    ).first()
    known = row.hash if row else "0" * 64
    if not hmac.compare_digest(known, token_hash(shape.group(2))) or row is None:
        return None
    found = _token(row)
    return None if found.expires_us is not None and found.expires_us <= now_us else found


def is_used_again(token: Token, now_us: int) -> bool:
    """Whether this use is to be noted."""
    return token.last_used_us is None or token.last_used_us + _USED_EVERY_US <= now_us


async def note_use(connection: AsyncConnection, key: str, now_us: int) -> None:
    """The token was used now."""
    await connection.execute(update(tokens).where(tokens.c.id == key).values(last_used_us=now_us))


def token_hash(secret: str) -> str:
    """How a secret is kept: SHA-256 in hex."""
    return sha256(secret.encode()).hexdigest()


def _token(row: Any) -> Token:
    values = {name: row._mapping[name] for name in Token.__annotations__}
    return Token(**{**values, "scopes": frozenset(row.scopes.split())})
