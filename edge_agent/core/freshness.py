"""How old the server's newest word is, and what that means at a door."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from schemas.heartbeat import FRESH_S

Freshness = Literal["fresh", "stale", "expired", "none"]


@dataclass(frozen=True)
class Heard:
    """When the newest heartbeat was signed, and how old it was when the agent took it.

    Ages are in seconds, `at_s` in monotonic seconds; times are aware.
    """

    issued: datetime
    at_s: float
    age_then_s: float

    @classmethod
    def of(cls, issued: datetime, now: datetime, monotonic_s: float) -> Heard:
        """What was signed at `issued` and is taken now."""
        return cls(issued, monotonic_s, max(0.0, (now - issued).total_seconds()))

    def age_s(self, now: datetime, monotonic_s: float) -> float:
        """Its age, never negative. A clock that is set back makes nothing younger."""
        by_clock = (now - self.issued).total_seconds()
        return max(0.0, by_clock, self.age_then_s + monotonic_s - self.at_s)


def freshness(age_s: float | None, grace_s: float) -> Freshness:
    """What a door with this grace makes of a heartbeat's age; None: there never was one.

    `expired` comes first: a grace may be shorter than what counts as fresh elsewhere.
    """
    if age_s is None:
        return "none"
    if age_s > grace_s:
        return "expired"
    return "fresh" if age_s <= FRESH_S else "stale"
