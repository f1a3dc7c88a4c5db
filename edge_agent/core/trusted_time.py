"""What time it is at least: signed statements give a floor that the wall clock can't go below."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

TOLERANCE = timedelta(minutes=5)
FARTHEST = timedelta(days=366)
"""The longest grace a policy can have: after so much time, no policy would let anyone in."""


@dataclass(frozen=True)
class Judged:
    """The time to decide by, and whether the wall clock agrees with it."""

    now: datetime
    trusted: bool


class TrustedTime:
    """Learns the times at which trusted parties signed; goes forward with the monotonic clock.

    So a clock that is set back revives no expired card, also after a restart.
    """

    def __init__(self) -> None:
        self._floor: tuple[datetime, float] | None = None

    def learn(self, signed: datetime | None, monotonic_s: float) -> None:
        """Something was signed at `signed`, so it is at least as late now."""
        if signed is None:
            return
        estimate = self._estimate(monotonic_s)
        if estimate is None or signed > estimate:
            self._floor = (signed, monotonic_s)

    def hear(self, said: datetime | None, wall: datetime, monotonic_s: float) -> None:
        """Learn from the server's word, unless it makes a leap that can't be true.

        A server whose clock once was decades ahead must not keep everyone out for decades.
        """
        if said is not None and said <= self.judge(wall, monotonic_s).now + FARTHEST:
            self.learn(said, monotonic_s)

    def judge(self, wall: datetime, monotonic_s: float) -> Judged:
        """The later of wall clock and floor; not trusted if the wall clock is clearly behind."""
        estimate = self._estimate(monotonic_s)
        if estimate is None or wall >= estimate:
            return Judged(wall, trusted=True)
        return Judged(estimate, trusted=estimate - wall <= TOLERANCE)

    def _estimate(self, monotonic_s: float) -> datetime | None:
        if self._floor is None:
            return None
        signed, at_s = self._floor
        return signed + timedelta(seconds=monotonic_s - at_s)
