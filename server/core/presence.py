"""Who is there: pure, fed with verified reports, broken connections and the time.

Only a signed report is a sign of life. The broker's word that a connection broke (the last will)
is a hint: it shortens the wait for the next report, and proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from schemas.report import OFFLINE_AFTER_S, Report

HINTED_AFTER_S = 4.0
"""After a broken connection: an agent that is well comes back and reports within two seconds."""


class Change(StrEnum):
    """What a report or the time makes of an agent."""

    CAME = "came"
    WENT = "went"
    NOTHING = "nothing"


@dataclass
class Seen:
    """One agent as it was last heard."""

    report: Report | None
    """None: heard by an earlier run of the server alone."""
    online: bool
    deadline_s: float


class Watch:
    """The agents of a site. Monotonic seconds come from the caller."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}

    def heard(self, agent: str, report: Report, now_s: float) -> Change:
        """Take a report in that is newer than the one before."""
        before = self.seen.get(agent)
        online = not report.leaving
        self.seen[agent] = Seen(report, online, now_s + OFFLINE_AFTER_S)
        was = before is not None and before.online
        if online and not was:
            return Change.CAME
        return Change.WENT if was and not online else Change.NOTHING

    def expect(self, agent: str, now_s: float) -> None:
        """An earlier run of the server heard this agent: give it the usual time to report."""
        self.seen.setdefault(agent, Seen(None, True, now_s + OFFLINE_AFTER_S))

    def broken(self, agent: str, now_s: float) -> None:
        """The broker says that the agent's connection broke."""
        seen = self.seen.get(agent)
        if seen is not None and seen.online:
            seen.deadline_s = min(seen.deadline_s, now_s + HINTED_AFTER_S)

    def deaf_for(self, seconds: float) -> None:
        """Nobody could be heard for so long: that is not their silence."""
        for seen in self.seen.values():
            seen.deadline_s += seconds

    def gone(self, now_s: float) -> list[str]:
        """The agents that have been silent for too long since the last look."""
        silent = [a for a, s in self.seen.items() if s.online and now_s >= s.deadline_s]
        for agent in silent:
            self.seen[agent].online = False
        return silent

    def forget(self, agent: str) -> None:
        """The agent was removed."""
        self.seen.pop(agent, None)
