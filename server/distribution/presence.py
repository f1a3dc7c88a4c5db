"""Which agents are heard: the newest report of each, and the events that tell of coming and going.

Written down before they are told, and told in the server's own chain: a restart of the server
neither forgets who was away nor tells of it twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.events import agent_subject
from schemas.report import Report
from schemas.server_event_data import AgentPresence
from server.clock import Clock, microseconds
from server.core.clones import Clones, Sighting
from server.core.presence import Change, Watch
from server.ingest.verify import AlarmKind, Refusal
from server.link_status import LinkStatus
from server.store.announcements import announce_all
from server.store.receipt_tables import presence

LOOK_S = 1.0
SKEW = timedelta(minutes=2)
"""A report by an agent whose clock is right is no older: an older one was kept and played again."""
SETTLE_S = 5.0
"""After the server's own connection came back, agents need a moment to be heard again."""
_AT_ONCE = 500


class Presence:
    """Takes verified reports and looks at the time; `load` first, then `run`."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        link: LinkStatus,
        clock: Clock,
        alarm: Callable[[Refusal], None],
        announced: Callable[[], None],
        new_session: Callable[[str], None],
    ) -> None:
        self._engine, self._link, self._clock = engine, link, clock
        self._alarm, self._announced = alarm, announced
        self._new_session = new_session
        self._watch = Watch()
        self._clones = Clones()
        self._heard_at: dict[str, datetime] = {}
        self._changed: dict[str, tuple[bool, str]] = {}
        """agent -> (online, why), not written down yet."""
        self._written: dict[str, bool] = {}
        """agent -> whether it was online, as the database has it."""
        self._wake = asyncio.Event()

    async def load(self) -> None:
        """Expect those to report whom an earlier run heard last."""
        now_s = self._clock.monotonic()
        async with self._engine.connect() as connection:
            for row in await connection.execute(select(presence)):
                self._written[row.agent] = row.online
                if row.online:
                    self._watch.expect(row.agent, now_s)

    def report(self, agent: str) -> Report | None:
        """The newest report of the agent that this run has heard."""
        seen = self._watch.seen.get(agent)
        return None if seen is None else seen.report

    def live(self) -> Collection[str]:
        """The agents that are there."""
        return {a for a, s in self._watch.seen.items() if s.online and s.report is not None}

    def session(self, agent: str) -> str | None:
        """The session commands must name; None if the agent is not there."""
        seen = self._watch.seen.get(agent)
        return seen.report.session if seen and seen.online and seen.report else None

    def state(self, agent: str) -> str:
        """`online`, `offline`, or `unknown`: never heard, or the server itself hears nobody."""
        seen = self._watch.seen.get(agent)
        if seen is None or not self._link.connected:
            return "unknown"
        if seen.report is None and seen.online:
            return "unknown"
        return "online" if seen.online else "offline"

    def last_heard(self, agent: str) -> datetime | None:
        """When this run heard the agent last."""
        return self._heard_at.get(agent)

    def heard(self, agent: str, report: Report) -> bool:
        """Take a verified report of `agent`; False if it was kept and played again."""
        now = self._clock.now()
        if report.clock.status == "synced" and abs(now - report.issued) > SKEW:
            detail = f"report of {report.issued.isoformat()} came at {now.isoformat()}"
            self._alarm(Refusal(AlarmKind.STALE_REPORT, agent, detail))
            return False
        match self._clones.seen(agent, report.session, report.counter):
            case Sighting.REPLAY:
                detail = f"report {report.counter} of session {report.session} came again"
                self._alarm(Refusal(AlarmKind.REPLAYED, agent, detail))
                return False
            case Sighting.CLONE:
                detail = f"session {report.session} goes on beside another: two devices, one name"
                self._alarm(Refusal(AlarmKind.IDENTITY_CLONED, agent, detail))
            case Sighting.NEW:
                self._new_session(agent)
            case Sighting.KNOWN:
                pass
        self._heard_at[agent] = now
        change = self._watch.heard(agent, report, self._clock.monotonic())
        if change is Change.CAME:
            self._note(agent, True, "it reports")
        elif change is Change.WENT:
            self._note(agent, False, "it was stopped")
        return True

    def broken(self, agent: str) -> None:
        """The broker's word that the agent's connection broke: a hint."""
        self._watch.broken(agent, self._clock.monotonic())

    def forget(self, agent: str) -> None:
        """The agent was removed, or another device has its name now."""
        self._watch.forget(agent)
        self._clones.forget(agent)
        self._heard_at.pop(agent, None)
        self._changed.pop(agent, None)
        if self._written.get(agent):
            self._note(agent, False, "it was removed, or has new keys")

    async def run(self) -> None:
        """Look for the silent, and write down who came and went, until cancelled."""
        before_s = self._clock.monotonic()
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass  # time to look
            self._wake.clear()
            now_s = self._clock.monotonic()
            self._forgive(now_s - before_s)
            before_s = now_s
            for agent in self._watch.gone(now_s):
                self._note(agent, False, "it is silent")
            if self._changed:
                await self._write()

    def _forgive(self, elapsed_s: float) -> None:
        now = self._clock.now()
        since = self._link.since
        settling = since is not None and now - since < timedelta(seconds=SETTLE_S)
        if not self._link.connected or settling:
            self._watch.deaf_for(elapsed_s)

    def _note(self, agent: str, online: bool, why: str) -> None:
        self._changed[agent] = (online, why)
        self._wake.set()

    async def _write(self) -> None:
        changed, self._changed = self._changed, {}
        new = {a: c for a, c in changed.items() if self._written.get(a) is not c[0]}
        now_us = microseconds(self._clock.now())
        try:
            async with self._engine.begin() as connection:
                await self._write_all(connection, new, now_us)
        except BaseException:
            self._changed = changed | self._changed  # to be written at the next look
            raise
        self._written.update({agent: online for agent, (online, _) in new.items()})
        self._announced()

    async def _write_all(
        self, connection: AsyncConnection, new: dict[str, tuple[bool, str]], now_us: int
    ) -> None:
        agents = list(new)
        for start in range(0, len(agents), _AT_ONCE):
            some = agents[start : start + _AT_ONCE]
            await connection.execute(delete(presence).where(presence.c.agent.in_(some)))
            rows = [{"agent": a, "online": new[a][0], "changed_us": now_us} for a in some]
            await connection.execute(insert(presence), rows)
        await announce_all(
            connection,
            [
                (
                    "agent.online" if online else "agent.offline",
                    agent_subject(agent),
                    AgentPresence(
                        by="server", agent=agent, last_heard=self.last_heard(agent), why=why
                    ),
                )
                for agent, (online, why) in new.items()
            ],
            now_us,
        )
