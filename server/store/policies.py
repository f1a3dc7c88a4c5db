"""The policies that were signed, and their chunks: the newest of each agent and the applied one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import cast

from sqlalchemy import and_, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from server.store.distribution_tables import policies, policy_chunks
from server.store.tables import meta

_DAY = "policies.day"
_AT_ONCE = 250
"""Bound parameters a statement may have are limited."""


@dataclass(frozen=True)
class SignedPolicy:
    """One version of one agent's policy, as the table has it."""

    agent: str
    version: int
    hash: str
    content: str
    scope: str
    cards: int
    issued_us: int
    envelope: bytes


@dataclass(frozen=True)
class NewestPolicy:
    """What there is to know of an agent's newest policy without opening it."""

    agent: str
    version: int
    hash: str
    cards: int
    issued_us: int


async def list_policies(db: AsyncEngine) -> list[NewestPolicy]:
    """The newest policy of every agent that has one, by agent."""
    newest = (
        select(policies.c.agent, func.max(policies.c.version).label("version"))
        .group_by(policies.c.agent)
        .subquery()
    )
    of = policies.c
    query = (
        select(of.agent, of.version, of.hash, of.cards, of.issued_us)
        .join(newest, and_(of.agent == newest.c.agent, of.version == newest.c.version))
        .order_by(of.agent)
    )
    async with db.connect() as connection:
        return [NewestPolicy(*row) for row in await connection.execute(query)]


async def newest_policy(connection: AsyncConnection, agent: str) -> SignedPolicy | None:
    """The newest policy of an agent."""
    query = select(policies).where(policies.c.agent == agent).order_by(policies.c.version.desc())
    row = (await connection.execute(query.limit(1))).first()
    return None if row is None else SignedPolicy(*row)


async def version_of(connection: AsyncConnection, agent: str, version: int) -> SignedPolicy | None:
    """That version, if it is still kept."""
    query = select(policies).where(policies.c.agent == agent, policies.c.version == version)
    row = (await connection.execute(query)).first()
    return None if row is None else SignedPolicy(*row)


async def read_chunks(
    connection: AsyncConnection, agent: str, digests: Iterable[str]
) -> dict[str, bytes]:
    """Those of these chunks that belong to a policy of the agent."""
    wanted = sorted(digests)
    found: dict[str, bytes] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        query = select(policy_chunks.c.digest, policy_chunks.c.body).where(
            policy_chunks.c.agent == agent,
            policy_chunks.c.digest.in_(wanted[start : start + _AT_ONCE]),
        )
        found.update((digest, body) for digest, body in await connection.execute(query))
    return found


async def chunk_digests(connection: AsyncConnection, agent: str) -> set[str]:
    """The digests of all chunks that stand there for the agent."""
    query = select(policy_chunks.c.digest).where(policy_chunks.c.agent == agent)
    return set(await connection.scalars(query))


async def add_chunks(connection: AsyncConnection, agent: str, chunks: Mapping[str, bytes]) -> None:
    """Store chunks that are not there yet."""
    rows = [{"agent": agent, "digest": d, "body": b} for d, b in sorted(chunks.items())]
    for start in range(0, len(rows), _AT_ONCE):
        await connection.execute(insert(policy_chunks), rows[start : start + _AT_ONCE])


async def add_policy(connection: AsyncConnection, policy: SignedPolicy) -> None:
    """Store a version."""
    await connection.execute(insert(policies).values(asdict(policy)))


async def forget(
    connection: AsyncConnection, agent: str, versions: Collection[int], chunks: Collection[str]
) -> None:
    """Keep these versions of the agent alone, and take these chunks away."""
    await connection.execute(
        delete(policies).where(policies.c.agent == agent, policies.c.version.not_in(versions))
    )
    names = sorted(chunks)
    for start in range(0, len(names), _AT_ONCE):
        await connection.execute(
            delete(policy_chunks).where(
                policy_chunks.c.agent == agent,
                policy_chunks.c.digest.in_(names[start : start + _AT_ONCE]),
            )
        )


async def day_looked_at(connection: AsyncConnection) -> str | None:
    """The day on which all agents' policies were last looked at, as `looked_at` was told."""
    query = select(meta.c.value).where(meta.c.key == _DAY)
    return cast("str | None", await connection.scalar(query))


async def looked_at(connection: AsyncConnection, day: str) -> None:
    """All policies are those of `day`."""
    moved = await connection.execute(update(meta).where(meta.c.key == _DAY).values(value=day))
    if not moved.rowcount:
        await connection.execute(insert(meta).values(key=_DAY, value=day))
