"""Counters that no restart may take back."""

from __future__ import annotations

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from server.store.distribution_tables import command_counters
from server.store.tables import meta

_RESERVED = "heartbeat_reserved"


async def next_command(connection: AsyncConnection, agent: str, above: int) -> int:
    """The counter of the agent's next command: beyond the last one, and beyond `above`."""
    ours = command_counters.c.agent == agent
    last = (
        await connection.execute(select(command_counters.c.counter).where(ours))
    ).scalar_one_or_none()
    counter = max(last or 0, above) + 1
    if last is None:
        await connection.execute(insert(command_counters).values(agent=agent, counter=counter))
    else:
        await connection.execute(update(command_counters).where(ours).values(counter=counter))
    return counter


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
