"""The API over what gives orders, and agents that confirm when a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select

from server.clock import microseconds
from server.ingest.receipts import Applied
from server.store.model_tables import areas, doors, groups
from tests.orders_rig import MOMENT, Orders, running
from tests.sample_site import Site, open_site
from tests.site_keys import SiteKeys


@dataclass
class Heard:
    """Stands for presence and receipts: what each agent is, and what it has confirmed."""

    states: dict[str, str] = field(default_factory=dict)
    receipts: dict[str, Applied] = field(default_factory=dict)

    def state(self, agent: str) -> str:
        return self.states.get(agent, "unknown")

    def live(self) -> Collection[str]:
        return {agent for agent, state in self.states.items() if state == "online"}

    def last_heard(self, _agent: str) -> datetime | None:
        return None

    def applied(self) -> dict[str, Applied]:
        return self.receipts


@dataclass
class Served:
    """A site whose API is there, with the parts behind it."""

    site: Site
    orders: Orders
    heard: Heard

    async def confirm(self, agent: str, sequence: int) -> None:
        """The agent's receipt is committed."""
        time_us = microseconds(MOMENT)
        self.heard.receipts[agent] = Applied(agent, revocation=sequence, time_us=time_us)
        self.site.hub.committed(self.site.hub.position + 1)


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[Served]:
    """Two doors of two agents that are online, an area and a group."""
    async with open_site(path / "ostiary.db") as site:
        with ThreadPoolExecutor(1, "sign") as executor:
            orders = Orders(site.engine, executor, SiteKeys())
            orders.clock.wall = MOMENT
            await orders.load()
            heard = Heard({"front-agent": "online", "back-agent": "online"})
            await orders.add_door("front", "front-agent")
            await orders.add_door("back", "back-agent", behaviour='{"grace_s":900}')
            async with site.engine.begin() as connection:
                row = {"name": "x", "revision": 1}
                await connection.execute(insert(areas).values(id="lab", **row))
                await connection.execute(insert(groups).values(id="guards", **row))
            state: Any = site.state
            state.revocations, state.lockdowns = orders.revocations, orders.lockdowns
            state.commands, state.heartbeats = orders.commands, orders.heartbeats
            state.presence = state.convergence = heard

            async def served_doors() -> list[tuple[str, str]]:
                async with site.engine.connect() as connection:
                    query = select(doors.c.id, doors.c.agent).where(doors.c.agent.is_not(None))
                    return [(row.id, row.agent) for row in await connection.execute(query)]

            state.served_doors = served_doors
            async with running(orders.revocations.run, orders.heartbeats.run):
                yield Served(site, orders, heard)


@pytest.fixture(name="site")
async def site_fixture(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as made:
        yield made


@pytest.fixture
async def api(site: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with site.site.client() as client:
        yield client
