"""The agents of the site: whose word counts, by which key, and whose once did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.chain import EVENTS_TYPE
from schemas.envelope import TrustedKey
from schemas.errors import SchemaError
from schemas.names import SERVER, AgentId
from schemas.root import AGENT_PURPOSES
from schemas.suites import PublicKey, Suite, keyid
from server.store.database import DatabaseUnavailable
from server.store.identity_tables import announced_chains, retired_keys
from server.store.receipt_tables import applied
from server.store.tables import agents


class AgentsChanged(DatabaseUnavailable):
    """Someone else than this program has written into the table of agents."""


class AgentExists(Exception):
    """The id or the key is already registered, or the key was once."""


@dataclass(frozen=True)
class Agent:
    """An agent: its id and public key."""

    id: str
    suite: str
    point: bytes
    keyid: str
    added_us: int


async def insert_agent(
    connection: AsyncConnection, agent: str, suite: Suite, point: bytes, now_us: int
) -> Agent:
    """Make the key count. Raises AgentExists, MalformedKey, or ValueError for a reserved name."""
    if agent == SERVER:
        raise ValueError(f"{SERVER!r} is the server's own name; call the agent something else")
    row = Agent(agent, suite.name, point, keyid(suite.public_key(point)), now_us)
    taken = AgentExists(f"agent {agent} or its key {row.keyid[:16]}... is already registered")
    # a key that was retired may be known to whoever made that necessary
    once = select(retired_keys.c.keyid).where(retired_keys.c.keyid == row.keyid)
    if await connection.scalar(once):
        raise taken
    try:
        await connection.execute(insert(agents).values(vars(row)))
    except IntegrityError:
        raise taken from None
    return row


async def retire_agent(connection: AsyncConnection, agent: str) -> Agent | None:
    """Let the agent's key count for its old events alone; None if there is no such agent.

    What its device confirmed goes with it: the next one of this name begins with nothing.
    """
    ours = agents.c.id == agent
    row = (await connection.execute(select(agents).where(ours))).one_or_none()
    if row is None:
        return None
    found = Agent(*row)
    await connection.execute(
        insert(retired_keys).values(
            keyid=found.keyid,
            agent=found.id,
            suite=found.suite,
            point=found.point,
            added_us=found.added_us,
        )
    )
    await connection.execute(delete(agents).where(ours))
    await connection.execute(delete(applied).where(applied.c.agent == agent))
    return found


async def is_agent(connection: AsyncConnection, agent: str) -> bool:
    """Whether it is one now."""
    return bool(await connection.scalar(select(agents.c.id).where(agents.c.id == agent)))


async def list_agents(db: AsyncEngine) -> list[Agent]:
    """All agents of now, by id."""
    async with db.connect() as connection:
        return [Agent(*row) for row in await connection.execute(select(agents).order_by("id"))]


async def list_retired(db: AsyncEngine) -> list[Agent]:
    """Whose keys counted once: an agent may be there several times, and among those of now."""
    table = retired_keys.c
    query = select(table.agent, table.suite, table.point, table.keyid, table.added_us)
    async with db.connect() as connection:
        return [Agent(*row) for row in await connection.execute(query)]


async def announced(db: AsyncEngine) -> frozenset[tuple[str, str]]:
    """(agent, chain) of each chain that an enrolment foretold."""
    async with db.connect() as connection:
        rows = await connection.execute(select(announced_chains.c.agent, announced_chains.c.chain))
        return frozenset((row.agent, row.chain) for row in rows)


async def registry_stamp(db: AsyncEngine) -> tuple[int, int, int]:
    """A value that changes whenever an agent is added, removed or has another key."""
    retired = select(func.count()).select_from(retired_keys).scalar_subquery()
    query = select(func.count(), func.max(agents.c.added_us), retired)
    async with db.connect() as connection:
        row = (await connection.execute(query)).one()
        return int(row[0]), int(row[1] or 0), int(row[2])


def agent_ring(registered: Iterable[Agent], suite: Suite) -> dict[str, TrustedKey]:
    """What the server takes from agents: each one's key, for what an agent may sign.

    Raises AgentsChanged.
    """
    return _ring(registered, suite, AGENT_PURPOSES)


def event_ring(registered: Iterable[Agent], suite: Suite) -> dict[str, TrustedKey]:
    """The same for stored events alone, of agents of now or of once. Raises AgentsChanged."""
    return _ring(registered, suite, frozenset({EVENTS_TYPE}))


def _ring(
    registered: Iterable[Agent], suite: Suite, purposes: frozenset[str]
) -> dict[str, TrustedKey]:
    return {
        a.keyid: TrustedKey(_key(a, suite), a.id, purposes)
        for a in registered
        if a.suite == suite.name
    }


def _key(agent: Agent, suite: Suite) -> PublicKey:
    """The agent's key, if this is a row that `insert_agent` could have made.

    Else who can write into the database could have a key of his own sign for the server itself, or
    under the fingerprint of another.
    """
    try:
        TypeAdapter(AgentId).validate_python(agent.id)
        key = suite.public_key(agent.point)
    except (ValidationError, SchemaError):
        key = None
    if key is None or keyid(key) != agent.keyid:
        raise AgentsChanged(
            f"the database's row of agent {agent.id[:63]!r} is not as it was registered: restore"
            " the database from a backup"
        )
    return key
