"""Policies on their way from the model into the store: what is asked for, made, and laid down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.events import agent_subject
from schemas.server_event_data import PolicyPublished
from schemas.versions import Version
from server.core.card_tree import Tree, indexes, references
from server.core.compiler import AgentModel
from server.store import policies as rows
from server.store.announcements import announce_all

_BYTES_AT_ONCE = 2 * 1024 * 1024
"""Of chunks in a transaction: other writers wait no longer than for one of these."""


@dataclass(frozen=True)
class Task:
    """What may be new for an agent: these slots of its cards, or all of them (None).

    Doors, rules and schedules are looked at in every case. `anew`: to be signed again even if it
    says what it said before.
    """

    slots: frozenset[int] | None = frozenset()
    anew: bool = False

    def with_(self, other: Task) -> Task:
        """What is to be done if both are."""
        whole = self.slots is None or other.slots is None
        slots = None if whole else (self.slots or frozenset()) | (other.slots or frozenset())
        return Task(slots, self.anew or other.anew)


WHOLE = Task(None)


@dataclass(frozen=True)
class Order:
    """What to make for one agent.

    `applied` is the version to keep beside the new one; the new one is above `above`.
    """

    task: Task
    applied: Version | None = None
    above: int = 0


@dataclass(frozen=True)
class Draft:
    """One agent's policy before its cards are known, and what it has now."""

    agent: str
    order: Order
    model: AgentModel
    scope: str
    before: rows.SignedPolicy | None
    before_tree: Tree | None
    """None also if what is stored is not signed by the present key."""

    @property
    def before_version(self) -> Version | None:
        """The policy that the agent has now."""
        before = self.before
        return None if before is None else Version(version=before.version, hash=before.hash)


@dataclass(frozen=True)
class Made:
    """A signed policy, and what hangs on it."""

    draft: Draft
    tree: Tree
    signed: rows.SignedPolicy


Outcome = Version | None | Exception
"""The newest version, new or not; None: it never had a door; or why it could not be made."""


async def lay_down(
    engine: AsyncEngine,
    made: Sequence[Made],
    tree_of: Callable[[rows.SignedPolicy], Awaitable[Tree | None]],
) -> None:
    """Store policies, chunks first, then what names them: one that can be read is whole.

    `tree_of` opens a stored policy. Raises what the database raises; nothing can be read then
    that could not before.
    """
    async with engine.connect() as connection:
        there = await rows.all_chunk_digests(connection, [m.signed.agent for m in made])
    new = {m.signed.agent: m.tree.chunks.keys() - there[m.signed.agent] for m in made}
    some: list[tuple[str, str, bytes]] = []
    size = 0
    for each in made:
        for name in sorted(new[each.signed.agent]):
            body = each.tree.chunks[name]
            some.append((each.signed.agent, name, body))
            size += len(body)
            if size > _BYTES_AT_ONCE:
                async with engine.begin() as connection:
                    await rows.add_chunks(connection, some)
                some, size = [], 0
    async with engine.begin() as connection:
        await rows.add_chunks(connection, some)
        gone = []
        for each in made:
            kept = await _kept(connection, each, tree_of)
            gone += [(each.signed.agent, d) for d in there[each.signed.agent] - kept]
        await rows.add_policies(connection, [each.signed for each in made])
        await rows.forget_versions(
            connection,
            [(m.signed.agent, m.signed.version, _applied(m.draft)) for m in made],
        )
        await rows.forget_chunks(connection, gone)
        await announce_all(
            connection,
            [_published(each.signed, len(new[each.signed.agent])) for each in made],
            max(each.signed.issued_us for each in made),
        )


async def _kept(
    connection: AsyncConnection,
    made: Made,
    tree_of: Callable[[rows.SignedPolicy], Awaitable[Tree | None]],
) -> set[str]:
    """The chunks of the new policy, and of the one that the agent goes by."""
    agent, before, applied = made.signed.agent, made.draft.before, _applied(made.draft)
    kept = await _references(connection, agent, made.tree)
    if before is not None and before.version == applied:
        old_tree = made.draft.before_tree
    else:
        old = await rows.version_of(connection, agent, applied) if applied else None
        old_tree = None if old is None else await tree_of(old)
    if old_tree is not None:
        kept |= await _references(connection, agent, old_tree)
    return kept


async def _references(connection: AsyncConnection, agent: str, tree: Tree) -> set[str]:
    return references(tree, await rows.read_chunks(connection, agent, indexes(tree)))


def _applied(draft: Draft) -> int:
    return draft.order.applied.version if draft.order.applied else 0


def _published(signed: rows.SignedPolicy, chunks: int) -> tuple[str, str, PolicyPublished]:
    data = PolicyPublished(
        by="server",
        agent=signed.agent,
        policy_version=signed.version,
        hash=signed.hash,
        cards=signed.cards,
        chunks=chunks,
    )
    return "policy.published", agent_subject(signed.agent), data
