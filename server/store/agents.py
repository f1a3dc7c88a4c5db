"""The agents of the site: whose events are believed, by which key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.chain import EVENTS_TYPE
from schemas.envelope import TrustedKey
from schemas.errors import SchemaError
from schemas.names import SERVER, AgentId
from schemas.suites import PublicKey, Suite, keyid
from server.store.database import DatabaseUnavailable
from server.store.tables import agents


class AgentsChanged(DatabaseUnavailable):
    """Someone else than this program has written into the table of agents."""


class AgentExists(Exception):
    """The id or the key is already registered."""


@dataclass(frozen=True)
class Agent:
    """A registered agent: its id and public key."""

    id: str
    suite: str
    point: bytes
    keyid: str
    added_us: int


async def add_agent(db: AsyncEngine, agent: str, suite: Suite, point: bytes, now_us: int) -> Agent:
    """Register an agent. Raises AgentExists, MalformedKey, or ValueError for a reserved name."""
    if agent == SERVER:
        raise ValueError(f"{SERVER!r} is the server's own name; call the agent something else")
    row = Agent(agent, suite.name, point, keyid(suite.public_key(point)), now_us)
    try:
        async with db.begin() as connection:
            await connection.execute(insert(agents).values(vars(row)))
    except IntegrityError:
        raise AgentExists(
            f"agent {agent} or its key {row.keyid[:16]}... is already registered"
        ) from None
    return row


async def list_agents(db: AsyncEngine) -> list[Agent]:
    """All agents, by id."""
    async with db.connect() as connection:
        return [Agent(*row) for row in await connection.execute(select(agents).order_by("id"))]


async def registry_stamp(db: AsyncEngine) -> tuple[int, int]:
    """A value that changes whenever an agent is added."""
    async with db.connect() as connection:
        row = (await connection.execute(select(func.count(), func.max(agents.c.added_us)))).one()
        return int(row[0]), int(row[1] or 0)


def event_ring(registered: Iterable[Agent], suite: Suite) -> dict[str, TrustedKey]:
    """What the server trusts for events: each agent's key, for events alone.

    Raises AgentsChanged.
    """
    types = frozenset({EVENTS_TYPE})
    return {
        a.keyid: TrustedKey(_key(a, suite), a.id, types)
        for a in registered
        if a.suite == suite.name
    }


def _key(agent: Agent, suite: Suite) -> PublicKey:
    """The agent's key, if this is a row that `add_agent` could have made.

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
