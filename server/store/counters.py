"""Counters that no restart may take back."""

from __future__ import annotations

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from server.store.distribution_tables import command_counters
from server.store.tables import meta

_RESERVED = "heartbeat_reserved"
_BELIEVED_LEAP = 10_000
"""An agent that claims to have taken commands farther ahead than this is not believed."""


async def next_command(connection: AsyncConnection, agent: str, reported: int) -> int:
    """The counter of the agent's next command: beyond the last one, and beyond what it reports.

    Unless it lies: whoever has its key could make a number that the agent itself must refuse.
    """
    ours = command_counters.c.agent == agent
    last = (
        await connection.execute(select(command_counters.c.counter).where(ours))
    ).scalar_one_or_none()
    believed = reported if reported <= (last or 0) + _BELIEVED_LEAP else 0
    counter = max(last or 0, believed) + 1
    if last is None:
        await connection.execute(insert(command_counters).values(agent=agent, counter=counter))
    else:
        await connection.execute(update(command_counters).where(ours).values(counter=counter))
    return counter


async def forget_commands(connection: AsyncConnection, agent: str) -> None:
    """Another device has the agent's name: it has taken none, and what the last one said of them
    says nothing.
    """
    await connection.execute(delete(command_counters).where(command_counters.c.agent == agent))


async def read_reserved(db: AsyncEngine) -> int:
    """No heartbeat has a counter above this one, in microseconds; 0 before the first."""
    async with db.connect() as connection:
        query = select(meta.c.value).where(meta.c.key == _RESERVED)
        return int((await connection.execute(query)).scalar_one_or_none() or 0)


async def reserve(db: AsyncEngine, counter: int) -> None:
    """From now on heartbeats may have counters up to this one."""
    async with db.begin() as connection:
        query = update(meta).where(meta.c.key == _RESERVED).values(value=str(counter))
        if not (await connection.execute(query)).rowcount:
            await connection.execute(insert(meta).values(key=_RESERVED, value=str(counter)))
