"""One agent's policy made anew: read, compiled, signed and stored, if it says anything new.

The model is read on the event loop in small steps and as one state of the database; all that takes
the processor's time is done on the compiler's own thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import ParamSpec, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.envelope import Signer, open_envelope, seal_envelope
from schemas.errors import SchemaError
from schemas.events import agent_subject
from schemas.policy import Policy, PolicyCard
from schemas.root import Root
from schemas.server_event_data import PolicyPublished
from schemas.statement import parse_statement, payload_type
from schemas.suites import Suite
from schemas.versions import Version
from server.clock import Clock, microseconds
from server.core.card_tree import Tree, change, grow, indexes, needed, references
from server.core.compiler import (
    AgentModel,
    compile_policy,
    content_of,
    lines_of,
    no_doors,
    place_of,
    scope_of,
)
from server.model.reading import read_agent, read_cards
from server.store import policies as rows
from server.store.announcements import announce
from server.store.database import snapshot

POLICY_TYPE = payload_type("policy")
_CARDS_AT_ONCE = 2000
_CHUNKS_AT_ONCE = 64
"""Some 1.6 MB a transaction: other writers wait no longer than for one of these."""
_MANY_SLOTS = 2048
"""Half of all: reading the rest as well is quicker than changing so many leaves."""

P = ParamSpec("P")
T = TypeVar("T")


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


class Compiler:
    """Makes policies; one task at a time may work for any one agent."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        root: Callable[[], Root],
        suite: Suite,
        signer: Signer,
        executor: ThreadPoolExecutor,
        clock: Clock,
    ) -> None:
        self._engine, self._root, self._suite = engine, root, suite
        self._signer, self._executor, self._clock = signer, executor, clock

    async def make(
        self, agent: str, task: Task, *, applied: Version | None, above: int
    ) -> Version | None:
        """The agent's new policy, durable and announced; None if it says nothing new.

        `applied` is the version to keep beside it; its own is above `above`. Raises PolicyTooLarge,
        or what the database raises.
        """
        async with snapshot(self._engine) as connection:
            model = await read_agent(connection, agent, self._suite.name)
            before = await rows.newest_policy(connection, agent)
            if model is None and before is None:
                return None  # it never had a door
            model = model or no_doors(agent)
            scope = scope_of(model, self._suite.digest)
            tree = await self._tree(connection, model, task, before, scope)
        own = before.version if before else 0
        version, now = max(own, above) + 1, self._clock.now()
        today = now.astimezone(ZoneInfo(model.timezone)).date()
        made = await self._run(self._sign, model, tree, today, version, scope)
        if before is not None and before.content == made.content and not task.anew and above <= own:
            return None
        await self._store(made, tree, applied.version if applied else 0)
        return Version(version=version, hash=made.hash)

    async def is_ours(self, stored: rows.SignedPolicy) -> bool:
        """Whether a stored policy is signed by the key the site's root document names now."""
        return await self._run(self._opened, stored) is not None

    def _opened(self, stored: rows.SignedPolicy) -> Policy | None:
        root = self._root()
        try:
            opened = open_envelope(stored.envelope, root.key_ring(), POLICY_TYPE)
            policy = parse_statement(opened.payload, Policy)
        except SchemaError:
            return None
        same = (policy.site, policy.audience, policy.counter) == (
            root.site,
            stored.agent,
            stored.version,
        )
        return policy if same and self._suite.digest(opened.payload).hex() == stored.hash else None

    def _tree_of(self, stored: rows.SignedPolicy) -> Tree | None:
        policy = self._opened(stored)
        return None if policy is None else Tree(policy.levels, policy.cards, stored.cards)

    async def _tree(
        self,
        connection: AsyncConnection,
        model: AgentModel,
        task: Task,
        before: rows.SignedPolicy | None,
        scope: str,
    ) -> Tree:
        if not model.doors:
            return Tree()
        tree = None if before is None else await self._run(self._tree_of, before)
        if before is not None and tree is not None and before.scope == scope:
            if task.slots is not None and not task.slots:
                return tree
            if task.slots is not None and len(task.slots) <= _MANY_SLOTS:
                changed = await self._changed(connection, model, tree, task.slots)
                if changed is not None:
                    return changed
        lines: list[bytes] = []
        some: list[PolicyCard] = []
        async for _, cards in read_cards(connection, model):
            some += cards
            if len(some) >= _CARDS_AT_ONCE:
                lines += await self._run(lines_of, some)
                some = []
        lines += await self._run(lines_of, some)
        return await self._run(grow, lines, tree.levels if tree else None, self._suite.digest)

    async def _changed(
        self, connection: AsyncConnection, model: AgentModel, tree: Tree, slots: Collection[int]
    ) -> Tree | None:
        places = {}
        async for slot, cards in read_cards(connection, model, slots):
            places[place_of(slot)] = await self._run(lines_of, cards)
        bodies: dict[str, bytes] = {}
        while names := needed(tree, places, bodies):
            found = await rows.read_chunks(connection, model.agent, names)
            if found.keys() != names:
                return None  # a damaged database: all is made anew
            bodies |= found
        return await self._run(change, tree, places, bodies, self._suite.digest)

    def _sign(
        self, model: AgentModel, tree: Tree, today: date, version: int, scope: str
    ) -> rows.SignedPolicy:
        now = self._clock.now()
        policy = compile_policy(
            model, tree, site=self._root().site, today=today, version=version, issued=now
        )
        payload = policy.model_dump_json().encode()
        return rows.SignedPolicy(
            agent=model.agent,
            version=version,
            hash=self._suite.digest(payload).hex(),
            content=content_of(policy, self._suite.digest),
            scope=scope,
            cards=tree.cards,
            issued_us=microseconds(now),
            envelope=seal_envelope(POLICY_TYPE, payload, [self._signer]),
        )

    async def _store(self, made: rows.SignedPolicy, tree: Tree, applied: int) -> None:
        """Chunks first, then what names them: a policy that can be read is whole."""
        agent = made.agent
        async with self._engine.connect() as connection:
            there = await rows.chunk_digests(connection, agent)
        new = sorted(tree.chunks.keys() - there)
        for start in range(0, len(new), _CHUNKS_AT_ONCE):
            some = {name: tree.chunks[name] for name in new[start : start + _CHUNKS_AT_ONCE]}
            async with self._engine.begin() as connection:
                await rows.add_chunks(connection, agent, some)
        async with self._engine.begin() as connection:
            kept = await self._references(connection, agent, tree)
            old = await rows.version_of(connection, agent, applied)
            old_tree = None if old is None else await self._run(self._tree_of, old)
            if old_tree is not None:
                kept |= await self._references(connection, agent, old_tree)
            await rows.add_policy(connection, made)
            await rows.forget(connection, agent, [made.version, applied], there - kept)
            data = PolicyPublished(
                by="server",
                agent=agent,
                policy_version=made.version,
                hash=made.hash,
                cards=made.cards,
                chunks=len(new),
            )
            await announce(
                connection, "policy.published", agent_subject(agent), data, made.issued_us
            )

    async def _references(self, connection: AsyncConnection, agent: str, tree: Tree) -> set[str]:
        return references(tree, await rows.read_chunks(connection, agent, indexes(tree)))

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: work(*args, **kwargs))
