"""What the server has to say in its own event chain, kept from the change it tells of.

A change and its announcement are one transaction; the one writer of the chain takes announcements
up in order and removes them in the transaction that stores their event. So no kill at any moment
loses the record of a change, or makes one of a change that did not happen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from sqlalchemy import BigInteger, Column, Integer, String, Table, Text, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.events import EVENT_DATA
from server.store.tables import metadata

announcements = Table(
    "announcements",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("name", String(90), nullable=False),
    Column("subject", String(90), nullable=False),
    Column("data", Text, nullable=False),
    Column("time_us", BigInteger, nullable=False),
)


@dataclass(frozen=True)
class Announcement:
    """One event to be: its name (`revocation.requested`), subject, data, and when it happened."""

    id: int
    name: str
    subject: str
    data: dict[str, Any]
    time_us: int


async def announce(
    connection: AsyncConnection, name: str, subject: str, data: BaseModel, now_us: int
) -> None:
    """Say `data` as event `name`, if and when this connection's transaction commits.

    The caller then wakes the chain's writer with `Pipeline.announced`.
    """
    await announce_all(connection, [(name, subject, data)], now_us)


async def announce_all(
    connection: AsyncConnection, news: Sequence[tuple[str, str, BaseModel]], now_us: int
) -> None:
    """As `announce`, for many at once: (name, subject, data) each."""
    for name, _, data in news:
        if not isinstance(data, EVENT_DATA[name]):
            raise TypeError(f"{name} has data of type {EVENT_DATA[name].__name__}")
    if news:
        await connection.execute(
            insert(announcements),
            [
                {"name": name, "subject": subject, "data": d.model_dump_json(), "time_us": now_us}
                for name, subject, d in news
            ],
        )


async def waiting(db: AsyncEngine, limit: int) -> list[Announcement]:
    """The oldest announcements that no event tells of yet."""
    query = select(announcements).order_by(announcements.c.id).limit(limit)
    async with db.connect() as connection:
        return [
            Announcement(row.id, row.name, row.subject, json.loads(row.data), row.time_us)
            for row in await connection.execute(query)
        ]


async def told(connection: AsyncConnection, ids: Iterable[int]) -> None:
    """They are events now: forget them in the same transaction."""
    await connection.execute(delete(announcements).where(announcements.c.id.in_(list(ids))))
