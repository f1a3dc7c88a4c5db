"""The policies that were signed, and their chunks: the newest of each agent and the applied one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import cast

from sqlalchemy import and_, bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from server.store.distribution_tables import policies, policy_chunks
from server.store.tables import meta

_DAY = "policies.day"
_AT_ONCE = 250
"""Bound parameters a statement may have are limited."""

_FORGET_VERSIONS = delete(policies).where(
    policies.c.agent == bindparam("of"),
    policies.c.version != bindparam("one"),
    policies.c.version != bindparam("other"),
)
_FORGET_CHUNKS = delete(policy_chunks).where(
    policy_chunks.c.agent == bindparam("of"), policy_chunks.c.digest == bindparam("named")
)


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
    return (await newest_policies(connection, [agent])).get(agent)


async def newest_policies(
    connection: AsyncConnection, agents: Iterable[str]
) -> dict[str, SignedPolicy]:
    """The newest policy of each of these agents that has one."""
    found: dict[str, SignedPolicy] = {}
    for some in _some(agents):
        query = select(policies).where(policies.c.agent.in_(some)).order_by(policies.c.version)
        found.update((row.agent, SignedPolicy(*row)) for row in await connection.execute(query))
    return found


async def version_of(connection: AsyncConnection, agent: str, version: int) -> SignedPolicy | None:
    """That version, if it is still kept."""
    query = select(policies).where(policies.c.agent == agent, policies.c.version == version)
    row = (await connection.execute(query)).first()
    return None if row is None else SignedPolicy(*row)


async def read_chunks(
    connection: AsyncConnection, agent: str, digests: Iterable[str]
) -> dict[str, bytes]:
    """Those of these chunks that belong to a policy of the agent."""
    found: dict[str, bytes] = {}
    for some in _some(digests):
        query = select(policy_chunks.c.digest, policy_chunks.c.body).where(
            policy_chunks.c.agent == agent, policy_chunks.c.digest.in_(some)
        )
        found.update((digest, body) for digest, body in await connection.execute(query))
    return found


async def chunk_digests(connection: AsyncConnection, agent: str) -> set[str]:
    """The digests of all chunks that stand there for the agent."""
    return (await all_chunk_digests(connection, [agent]))[agent]


async def all_chunk_digests(
    connection: AsyncConnection, agents: Collection[str]
) -> dict[str, set[str]]:
    """The same for each of these agents."""
    found: dict[str, set[str]] = {agent: set() for agent in agents}
    columns = (policy_chunks.c.agent, policy_chunks.c.digest)
    for some in _some(agents):
        query = select(*columns).where(policy_chunks.c.agent.in_(some))
        for agent, digest in await connection.execute(query):
            found[agent].add(digest)
    return found


async def add_chunks(connection: AsyncConnection, chunks: Iterable[tuple[str, str, bytes]]) -> None:
    """Store chunks that are not there yet: (agent, digest, body) each."""
    rows = [{"agent": agent, "digest": d, "body": b} for agent, d, b in chunks]
    for start in range(0, len(rows), _AT_ONCE):
        await connection.execute(insert(policy_chunks), rows[start : start + _AT_ONCE])


async def add_policies(connection: AsyncConnection, made: Iterable[SignedPolicy]) -> None:
    """Store versions, at least one."""
    await connection.execute(insert(policies), [asdict(policy) for policy in made])


async def forget_versions(
    connection: AsyncConnection, kept: Iterable[tuple[str, int, int]]
) -> None:
    """Of each agent keep these two versions alone: (agent, version, version) each."""
    rows = [{"of": agent, "one": one, "other": other} for agent, one, other in kept]
    await connection.execute(_FORGET_VERSIONS, rows)


async def forget_chunks(connection: AsyncConnection, gone: Iterable[tuple[str, str]]) -> None:
    """Take chunks away: (agent, digest) each."""
    rows = [{"of": agent, "named": digest} for agent, digest in gone]
    if rows:
        await connection.execute(_FORGET_CHUNKS, rows)


async def day_looked_at(connection: AsyncConnection) -> str | None:
    """The day on which all agents' policies were last looked at, as `looked_at` was told."""
    query = select(meta.c.value).where(meta.c.key == _DAY)
    return cast("str | None", await connection.scalar(query))


async def looked_at(connection: AsyncConnection, day: str) -> None:
    """All policies are those of `day`."""
    moved = await connection.execute(update(meta).where(meta.c.key == _DAY).values(value=day))
    if not moved.rowcount:
        await connection.execute(insert(meta).values(key=_DAY, value=day))


def _some(names: Iterable[str]) -> Iterator[list[str]]:
    every = sorted(names)
    for start in range(0, len(every), _AT_ONCE):
        yield every[start : start + _AT_ONCE]
