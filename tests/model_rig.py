"""A management model in a database of its own, and the policies that are compiled from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.envelope import open_envelope
from schemas.policy import Policy
from schemas.statement import parse_statement
from server.distribution.compiling import POLICY_TYPE, Compiler
from server.distribution.policies import Policies
from server.feed.hub import Hub
from server.ingest.verify import Refusal
from server.link_status import LinkStatus
from server.model.bindings import bind
from server.model.document import Outcome, SiteDocument, apply
from server.state import ServerState
from server.store import policies as rows
from server.store.database import open_database
from tests.site_keys import SiteKeys

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
"""A Tuesday."""


@dataclass
class HandClock:
    """A clock that a test sets."""

    at: datetime = NOON
    seconds: float = 1000.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class ModelRig:
    """The model, and who compiles it. `told` is what went to agents: (topic, payload)."""

    engine: AsyncEngine
    keys: SiteKeys
    clock: HandClock
    executor: ThreadPoolExecutor
    told: asyncio.Queue[tuple[str, bytes]] = field(default_factory=asyncio.Queue)
    beats: list[str] = field(default_factory=list)
    alarms: list[Refusal] = field(default_factory=list)
    live: Collection[str] = ()
    broker: bool = True

    def __post_init__(self) -> None:
        self.root = self.keys.root
        self.state = ServerState(
            self.engine, Hub(), self.keys.site, self.keys.suite, LinkStatus(""), clock=self.clock
        )
        self.state.announced = lambda: None
        self.state.model_changed = lambda: None

    async def apply(self, document: dict[str, Any], *, prune: bool = True) -> Outcome:
        """Make the model what the document says."""
        whole = SiteDocument.model_validate(document)
        return await apply(self.state, "test", whole, prune=prune, dry_run=False)

    async def bind(self, card: str, domain: str) -> None:
        """A door says that it has bound the card."""
        async with self.engine.begin() as connection:
            await bind(connection, card, domain, 1, "0" * 16 + "-1", NOON)
        self.state.model_changed()

    def compiler(self) -> Compiler:
        return Compiler(
            engine=self.engine,
            root=lambda: self.root,
            suite=self.keys.suite,
            signer=self.keys.signer("policy"),
            executor=self.executor,
            clock=self.clock,
        )

    def policies(self) -> Policies:
        """As a server has them; the model wakes the ones that were made last."""
        made = Policies(
            engine=self.engine,
            root=lambda: self.root,
            suite=self.keys.suite,
            signer=self.keys.signer("policy"),
            executor=self.executor,
            clock=self.clock,
            metrics=CollectorRegistry(),
            publish=self.publish,
            live=lambda agent: agent in self.live,
            beat=self.beats.append,
            announced=lambda: None,
            alarm=self.alarms.append,
        )
        self.state.model_changed = made.model_changed
        return made

    async def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        assert not retain
        if not self.broker:
            raise ConnectionError("there is no broker")
        self.told.put_nowait((topic, payload))

    async def stored(self, agent: str) -> rows.SignedPolicy | None:
        async with self.engine.connect() as connection:
            return await rows.newest_policy(connection, agent)

    async def policy(self, agent: str) -> Policy:
        """The newest policy of an agent, verified."""
        stored = await self.stored(agent)
        assert stored is not None
        opened = open_envelope(stored.envelope, self.root.key_ring(), POLICY_TYPE)
        return parse_statement(opened.payload, Policy)

    async def chunks(self, agent: str) -> dict[str, bytes]:
        """All chunks that the agent may read."""
        async with self.engine.connect() as connection:
            names = await rows.chunk_digests(connection, agent)
            return await rows.read_chunks(connection, agent, names)


@asynccontextmanager
async def model_rig(folder: Path, keys: SiteKeys | None = None) -> AsyncIterator[ModelRig]:
    engine = await open_database(folder / "ostiary.db")
    with ThreadPoolExecutor(1, "compile") as executor:
        try:
            yield ModelRig(engine, keys or SiteKeys(), HandClock(), executor)
        finally:
            await engine.dispose()
