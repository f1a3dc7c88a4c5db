"""Two devices under one identity: pure, fed with the sessions and counters of verified reports.

Each connection of an agent is a session of its own, and one that another followed is over. So a
session that goes on after that is a second device with the same key. An old report that is played
again does not look like one: its counter was seen.

Two copies that take turns, as a broker makes them do that knows each name once, show elsewhere:
both write the same chain of events, and the second one to say anything is a fork.
"""

from __future__ import annotations

from enum import StrEnum

MOST_SESSIONS = 32
"""Remembered of each agent: who makes more of them between two looks has made noise enough."""


class Sighting(StrEnum):
    """What a report says of the session it is of."""

    NEW = "new"
    KNOWN = "known"
    REPLAY = "replay"
    CLONE = "clone"


class Clones:
    """The sessions of every agent, the one heard last at the end."""

    def __init__(self) -> None:
        self._sessions: dict[str, dict[str, int]] = {}
        """agent -> session -> the highest counter that was seen in it."""

    def seen(self, agent: str, session: str, counter: int) -> Sighting:
        """Take a verified report in."""
        sessions = self._sessions.setdefault(agent, {})
        before = sessions.get(session)
        if before is not None and counter <= before:
            return Sighting.REPLAY
        current = next(reversed(sessions), None)
        sessions.pop(session, None)
        sessions[session] = counter
        if before is not None:
            return Sighting.KNOWN if session == current else Sighting.CLONE
        while len(sessions) > MOST_SESSIONS:
            del sessions[next(iter(sessions))]
        return Sighting.NEW

    def forget(self, agent: str) -> None:
        """The agent was removed, or has new keys."""
        self._sessions.pop(agent, None)
