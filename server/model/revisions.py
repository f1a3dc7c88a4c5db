"""One counter for all changes of the model, and which agents each may have altered."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.model_tables import model_state, touched

STRUCTURE_ONLY = -1
_MANY = 20_000
"""More rows than this, and every agent is looked at as a whole instead."""

Altered = Mapping[str, set[int] | None]
"""Agent -> slots of cards, or None for all of its cards; `STRUCTURE_ONLY` in place of a slot."""


async def next_revision(connection: AsyncConnection) -> int:
    """Begin a change: take the model's write lock, and with it the number of the change."""
    taken = await connection.execute(
        update(model_state)
        .values(revision=model_state.c.revision + 1)
        .returning(model_state.c.revision)
    )
    return int(taken.scalar_one())


async def touch(connection: AsyncConnection, revision: int, altered: Altered) -> None:
    """Note what the change may alter in the policies of these agents."""
    rows = [
        {"revision": revision, "agent": agent, "slot": slot}
        for agent, slots in altered.items()
        for slot in ((None,) if slots is None else slots)
    ]
    if len(rows) > _MANY:
        await touch_all(connection, revision)
    elif rows:
        await connection.execute(insert(touched), rows)


async def touch_all(connection: AsyncConnection, revision: int) -> None:
    """The change may alter any policy."""
    await connection.execute(insert(touched).values(revision=revision, agent=None, slot=None))
