"""Policies made anew: read, compiled, signed and stored, where they say anything new.

Many agents are served together: what they share is read once, cards that are the same for several
are laid out once, and one transaction stores a batch. The model is read on the event loop in small
steps and as one state of the database; all that takes the processor's time is done on the
compiler's own thread. What can't be made for one agent spoils nothing for the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.envelope import Signer, open_envelope, seal_envelope
from schemas.errors import SchemaError
from schemas.policy import Policy, PolicyCard
from schemas.root import Root
from schemas.statement import parse_statement, payload_type
from schemas.suites import Suite
from schemas.versions import Version
from server.clock import Clock, microseconds
from server.core.card_tree import PolicyTooLarge, Tree, change, grow, needed
from server.core.compiler import (
    AgentModel,
    compile_policy,
    content_of,
    lines_of,
    no_doors,
    place_of,
    scope_of,
)
from server.distribution.drafts import Draft, Made, Order, Outcome, Task, lay_down
from server.model.reading import bound_domains, model_revision, read_agents, read_cards
from server.store import policies as rows
from server.store.database import snapshot

POLICY_TYPE = payload_type("policy")
_CARDS_AT_ONCE = 2000
_BYTES_AT_ONCE = 2 * 1024 * 1024
"""Of chunks; then what is there is stored, before more is made."""
_KEPT_BYTES = 64 * 1024 * 1024
"""Of card trees that may serve the next agents too."""
_MANY_SLOTS = 2048
"""Half of all: reading the rest as well is quicker than changing so many leaves."""

P = ParamSpec("P")
T = TypeVar("T")


_Shape = tuple[object, ...]
"""Two agents with the same have the same cards, in the same tree."""


@dataclass
class _Trees:
    """Card trees of one revision of the model, for all agents that come to the same."""

    revision: int
    by_shape: dict[_Shape, Tree] = field(default_factory=dict)
    bytes: int = 0

    def keep(self, shape: _Shape, tree: Tree) -> Tree:
        if shape not in self.by_shape:
            self.bytes += sum(map(len, tree.chunks.values()))
            self.by_shape[shape] = tree
        return tree


class Compiler:
    """Makes policies; one call at a time may work for any one agent."""

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
        self._trees = _Trees(-1)

    async def make(
        self, agent: str, task: Task, *, applied: Version | None, above: int
    ) -> Version | None:
        """The agent's newest policy, durable and announced, made anew if that says anything new.

        None if it never had a door.

        Raises PolicyTooLarge, or what the database raises.
        """
        made = (await self.make_all({agent: Order(task, applied, above)}))[agent]
        if isinstance(made, Exception):
            raise made
        return made

    async def make_all(self, orders: Mapping[str, Order]) -> dict[str, Outcome]:
        """The same for many agents. Nothing is raised: one that fails fails alone."""
        done: dict[str, Outcome] = {}
        try:
            await self._make_all(orders, done)
        except Exception as error:  # of the database, for all of them: who is it?
            left = [agent for agent in orders if agent not in done]
            if len(orders) == 1:
                return dict.fromkeys(left, error) | done
            for agent in left:
                done |= await self.make_all({agent: orders[agent]})
        return done

    async def _make_all(self, orders: Mapping[str, Order], done: dict[str, Outcome]) -> None:
        async with snapshot(self._engine) as connection:
            trees = await self._trees_of_now(connection)
            models = await read_agents(connection, orders, self._suite.name)
            stored = await rows.newest_policies(connection, orders)
            # one without either never had a door
            done |= dict.fromkeys(orders.keys() - models.keys() - stored.keys())
            drafts = await self._run(self._drafts, orders, models, stored)
            domains = {name for draft in drafts for name in draft.model.domains}
            bound = await bound_domains(connection, domains)
            ready: list[tuple[Draft, Tree]] = []
            size = 0
            for draft in drafts:
                try:
                    tree = await self._tree(connection, draft, bound, trees)
                except PolicyTooLarge as error:
                    done[draft.agent] = error
                    continue
                ready.append((draft, tree))
                size += sum(map(len, tree.chunks.values()))
                if size > _BYTES_AT_ONCE:
                    await self._finish(ready, done)
                    ready, size = [], 0
            await self._finish(ready, done)

    async def _trees_of_now(self, connection: AsyncConnection) -> _Trees:
        """Those of the state that the connection sees."""
        revision = await model_revision(connection)
        if revision != self._trees.revision or self._trees.bytes > _KEPT_BYTES:
            self._trees = _Trees(revision)
        return self._trees

    def _drafts(
        self,
        orders: Mapping[str, Order],
        models: Mapping[str, AgentModel],
        stored: Mapping[str, rows.SignedPolicy],
    ) -> list[Draft]:
        drafts = []
        for agent, order in orders.items():
            before, model = stored.get(agent), models.get(agent) or no_doors(agent)
            if before is None and agent not in models:
                continue
            tree = None if before is None else self._tree_of(before)
            scope = scope_of(model, self._suite.digest)
            drafts.append(Draft(agent, order, model, scope, before, tree))
        return drafts

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

    async def _old_tree(self, stored: rows.SignedPolicy) -> Tree | None:
        return await self._run(self._tree_of, stored)

    async def _tree(
        self, connection: AsyncConnection, draft: Draft, bound: Collection[str], trees: _Trees
    ) -> Tree:
        model, tree, slots = draft.model, draft.before_tree, draft.order.task.slots
        if not model.doors:
            return Tree()
        # A domain in which no card is bound decides nothing: each door may have its own.
        cards: _Shape = (model.groups, model.domains.intersection(bound))
        if draft.before is not None and tree is not None and draft.before.scope == draft.scope:
            if slots is not None and not slots:
                return tree
            if slots is not None and len(slots) <= _MANY_SLOTS:
                shape = (*cards, slots, tree.levels, tree.cards, *tree.top.items())
                changed = trees.by_shape.get(shape)
                if changed is None:
                    changed = await self._changed(connection, model, tree, slots)
                if changed is not None:
                    return trees.keep(shape, changed)
        levels = tree.levels if tree else None
        shape = (*cards, levels)
        known = trees.by_shape.get(shape)
        return known or trees.keep(shape, await self._grown(connection, model, levels))

    async def _grown(
        self, connection: AsyncConnection, model: AgentModel, levels: int | None
    ) -> Tree:
        lines: list[bytes] = []
        some: list[PolicyCard] = []
        async for _, cards in read_cards(connection, model):
            some += cards
            if len(some) >= _CARDS_AT_ONCE:
                lines += await self._run(lines_of, some)
                some = []
        lines += await self._run(lines_of, some)
        return await self._run(grow, lines, levels, self._suite.digest)

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

    async def _finish(self, ready: Sequence[tuple[Draft, Tree]], done: dict[str, Outcome]) -> None:
        made = []
        for (draft, _), result in zip(ready, await self._run(self._sign_all, ready), strict=True):
            if isinstance(result, Made):
                made.append(result)
            else:
                done[draft.agent] = result or draft.before_version
        if made:
            await lay_down(self._engine, made, self._old_tree)
        for each in made:
            signed = each.signed
            done[signed.agent] = Version(version=signed.version, hash=signed.hash)

    def _sign_all(self, ready: Sequence[tuple[Draft, Tree]]) -> list[Made | PolicyTooLarge | None]:
        results: list[Made | PolicyTooLarge | None] = []
        for draft, tree in ready:
            try:
                results.append(self._sign(draft, tree))
            except PolicyTooLarge as error:
                results.append(error)
        return results

    def _sign(self, draft: Draft, tree: Tree) -> Made | None:
        """None if it says what the one before says."""
        model, before, order = draft.model, draft.before, draft.order
        own, now = before.version if before else 0, self._clock.now()
        version = max(own, order.above) + 1
        policy = compile_policy(
            model,
            tree,
            site=self._root().site,
            today=now.astimezone(ZoneInfo(model.timezone)).date(),
            version=version,
            issued=now,
        )
        content = content_of(policy, self._suite.digest)
        same = before is not None and before.content == content
        if same and not order.task.anew and order.above <= own:
            return None
        payload = policy.model_dump_json().encode()
        signed = rows.SignedPolicy(
            agent=model.agent,
            version=version,
            hash=self._suite.digest(payload).hex(),
            content=content,
            scope=draft.scope,
            cards=tree.cards,
            issued_us=microseconds(now),
            envelope=seal_envelope(POLICY_TYPE, payload, [self._signer]),
        )
        return Made(draft, tree, signed)

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: work(*args, **kwargs))
