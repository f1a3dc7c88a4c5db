"""The agents as the server knows them; they come and go while it runs."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.envelope import TrustedKey
from schemas.suites import Suite
from server.clock import Clock
from server.store.agents import agent_ring, announced, list_agents, registry_stamp

REFRESH_INTERVAL_S = 1.0

log = structlog.get_logger(__name__)


class Registry:
    """The key ring for what agents sign, as the database has it.

    It is read again when a key is unknown, and every second by `watch`: whoever else changes the
    table is heeded too. A removal in this very process counts at once (`expel`).
    """

    def __init__(self, engine: AsyncEngine, suite: Suite, clock: Clock) -> None:
        self._engine, self._suite, self._clock = engine, suite, clock
        self._stamp = (0, 0, 0)
        self._read_s = -REFRESH_INTERVAL_S
        self._expulsions = 0
        self.ring: Mapping[str, TrustedKey] = {}
        self.agents: frozenset[str] = frozenset()
        self.announced: frozenset[tuple[str, str]] = frozenset()
        """(agent, chain) of the chains whose beginning is no surprise."""

    async def refresh(self, *, now: bool = False) -> bool:
        """Whether there was something new. Looks at most once a second, or `now`."""
        moment = self._clock.monotonic()
        if not now and moment - self._read_s < REFRESH_INTERVAL_S:
            return False
        self._read_s = moment
        while True:
            expulsions = self._expulsions
            stamp = await registry_stamp(self._engine)
            if stamp == self._stamp:
                return False
            registered = await list_agents(self._engine)
            foretold = await announced(self._engine)
            if expulsions == self._expulsions:  # else what was read may still name who is gone
                break
        self.ring = agent_ring(registered, self._suite)
        self.agents = frozenset(agent.id for agent in registered)
        self.announced = foretold
        self._stamp = stamp
        return True

    def expel(self, agent: str) -> None:
        """Believe nothing more of `agent`; its removal is committed."""
        self._expulsions += 1
        self.ring = {k: trust for k, trust in self.ring.items() if trust.holder != agent}
        self.agents -= {agent}

    async def watch(self) -> None:
        """Look every second, until cancelled."""
        failing = False
        while True:
            await asyncio.sleep(REFRESH_INTERVAL_S)
            try:
                await self.refresh()
                failing = False
            except (SQLAlchemyError, sqlite3.Error, OSError) as error:
                if not failing:
                    log.error(
                        "agents_not_read",
                        why=str(error)[:500],
                        next_step="check the database; removals by other programs wait so long",
                    )
                failing = True
