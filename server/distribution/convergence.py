"""Whether the doors enforce what was decided: desired against applied, per agent, all the time.

An agent that has not confirmed a revocation in time raises `revocation.overdue` for its doors, and
one whose receipt contradicts what was signed raises an alarm. Nobody waits for anybody: one dead
door holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.events import agent_subject
from schemas.server_event_data import RevocationOverdue
from schemas.versions import LogHead, Version
from server.clock import Clock, microseconds
from server.core.overdue import Late, Overdue
from server.core.standing import Desired, contradicts
from server.ingest.receipts import Applied
from server.ingest.verify import AlarmKind, Refusal
from server.store.announcements import announce_all

LOOK_S = 1.0
_AT_ONCE = 500
MOST_DOORS = 64
"""Named in one event; an agent has a few."""


class Convergence:
    """Compares; `run` raises the alarms."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        clock: Clock,
        root: Callable[[], int],
        policy: Callable[[str], Version | None],
        revocation: Callable[[], LogHead],
        lockdown: Callable[[], int],
        applied: Callable[[], Mapping[str, Applied]],
        agents: Callable[[], Collection[str]],
        doors: Callable[[str], Sequence[str]],
        alarm: Callable[[Refusal], None],
        announced: Callable[[], None],
    ) -> None:
        self._engine, self._clock = engine, clock
        self._root, self._policy = root, policy
        self._revocation, self._lockdown = revocation, lockdown
        self.applied, self._agents, self._doors = applied, agents, doors
        self._alarm, self._announced = alarm, announced
        self._overdue = Overdue()
        self._contradicted: dict[str, str] = {}
        self._compared: dict[str, tuple[Applied | None, Version | None, LogHead]] = {}

    def desired(self, agent: str) -> Desired:
        """What the agent's heartbeat names."""
        return Desired(self._root(), self._policy(agent), self._revocation(), self._lockdown())

    @property
    def overdue(self) -> frozenset[str]:
        """The agents that have not confirmed the revocation log in time."""
        return frozenset(self._overdue.alarmed)

    async def run(self) -> None:
        """Look each second, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Raise what is to be raised now."""
        agents, applied = self._agents(), self.applied()
        for number, agent in enumerate(agents, 1):
            self._compare(agent, applied.get(agent))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # others may wait for the event loop
        began, ended = self._overdue.look(
            self._revocation().sequence,
            {agent: done.revocation for agent, done in applied.items()},
            agents,
            self._clock.monotonic(),
        )
        if not began and not ended:
            return
        now_us = microseconds(self._clock.now())
        news = [("revocation.overdue", late) for late in began]
        news += [("revocation.overdue.cleared", late) for late in ended]
        async with self._engine.begin() as connection:
            await announce_all(
                connection,
                [(name, agent_subject(late.agent), self._data(late)) for name, late in news],
                now_us,
            )
        self._announced()

    def _data(self, late: Late) -> RevocationOverdue:
        return RevocationOverdue(
            by="server",
            agent=late.agent,
            doors=tuple(self._doors(late.agent)[:MOST_DOORS]),
            sequence=self._revocation().sequence,
            applied=late.applied,
            waiting_s=round(late.waiting_s, 1),
        )

    def _compare(self, agent: str, applied: Applied | None) -> None:
        said = (applied, self._policy(agent), self._revocation())
        before = self._compared.get(agent)
        if (
            before is not None
            and before[0] is applied
            and before[1] is said[1]
            and before[2] is said[2]
        ):
            return  # nothing new to compare
        self._compared[agent] = said
        wrong = None if applied is None else contradicts(self.desired(agent), applied)
        if wrong is None:
            self._contradicted.pop(agent, None)
        elif self._contradicted.get(agent) != wrong:
            self._contradicted[agent] = wrong
            self._alarm(Refusal(AlarmKind.RECEIPT_MISMATCH, agent, wrong))
