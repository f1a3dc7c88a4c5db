"""The agents as ingest knows them; others may be added while it runs."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.envelope import TrustedKey
from schemas.suites import Suite
from server.clock import Clock
from server.store.agents import event_ring, list_agents, registry_stamp

REFRESH_INTERVAL_S = 1.0


class Registry:
    """The key ring for events, read again when a key is unknown and the table has changed."""

    def __init__(self, engine: AsyncEngine, suite: Suite, clock: Clock) -> None:
        self._engine, self._suite, self._clock = engine, suite, clock
        self._stamp = (0, 0)
        self._read_s = -REFRESH_INTERVAL_S
        self.ring: Mapping[str, TrustedKey] = {}
        self.agents: frozenset[str] = frozenset()

    async def refresh(self) -> bool:
        """Whether there was something new. Looks at most once a second."""
        now = self._clock.monotonic()
        if now - self._read_s < REFRESH_INTERVAL_S:
            return False
        self._read_s = now
        stamp = await registry_stamp(self._engine)
        if stamp == self._stamp:
            return False
        registered = await list_agents(self._engine)
        self.ring = event_ring(registered, self._suite)
        self.agents = frozenset(agent.id for agent in registered)
        self._stamp = stamp
        return True
