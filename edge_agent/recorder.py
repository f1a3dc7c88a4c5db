"""Turns what happens into events: stamps them, stores them, and says when that failed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from edge_agent.clock import Clock
from edge_agent.core.trusted_time import TrustedTime
from edge_agent.log import log
from edge_agent.outbox import Draft, Outbox, OutboxFailed
from edge_agent.outbox_tables import StoredLine
from schemas.event_data import ClockStatus
from schemas.events import EVENT_DATA, agent_subject, door_subject

DURABLE_WITHIN_S = 0.1
"""A disk that takes longer to store an event does not hold the door."""


class Recorder:
    """The way into the outbox for the whole agent. It never raises for a full or failing disk."""

    def __init__(
        self, outbox: Outbox, clock: Clock, time: TrustedTime, agent: str, version: str
    ) -> None:
        self.outbox = outbox
        self.clock = clock
        self.time = time
        self.agent = agent
        self.version = version
        self._late: set[asyncio.Task[list[StoredLine]]] = set()

    def judge_time(self) -> tuple[datetime, ClockStatus]:
        """The time to decide by, and how far it can be trusted."""
        monotonic_s = self.clock.monotonic()
        wall = self.clock.now()
        self.time.hear(self.outbox.state.server_time, wall, monotonic_s)
        judged = self.time.judge(wall, monotonic_s)
        if not judged.trusted:
            return judged.now, ClockStatus(status="untrusted")
        return judged.now, self.clock.status()

    def about_door(self, name: str, door: str, **data: Any) -> Draft:
        """An event at a door, now."""
        return self._draft(name, door_subject(door), {"door": door, **data})

    def about_agent(self, name: str, **data: Any) -> Draft:
        """An event of the agent itself, now."""
        return self._draft(name, agent_subject(self.agent), data)

    def _draft(self, name: str, subject: str, data: dict[str, Any]) -> Draft:
        _, status = self.judge_time()
        model = EVENT_DATA[name].model_validate({"clock": status, **data})
        return Draft(name, subject, model, self.clock.now())

    async def record(self, drafts: Sequence[Draft]) -> list[StoredLine]:
        """Store the events; none if that failed: they are counted, and declared lost later."""
        if not drafts:
            return []
        try:
            return await self.outbox.append_all(drafts)
        except OutboxFailed as error:
            log.error("event_lost", names=[draft.name for draft in drafts], why=str(error))
            return []

    async def record_soon(self, drafts: Sequence[Draft]) -> list[StoredLine] | None:
        """As `record`, but after 100 ms return None: then they are stored later, in their order."""
        if not drafts:
            return []
        task = asyncio.create_task(self.record(drafts))
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        done, _ = await asyncio.wait({task}, timeout=DURABLE_WITHIN_S)
        if done:
            return task.result()
        log.warning("store_slow", names=[draft.name for draft in drafts])
        return None
