"""Which locks are given new keys first, and how many failures are too many. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

SHARES = (0.0, 0.01, 0.1, 1.0)
"""Of all locks, up to and with each wave; the first is a single lock, the canary."""
LAST_WAVE = len(SHARES) - 1
FAILURES_PER_LOCKS = 200
"""More than one failed lock in so many stops a campaign: 0.5 %."""


def waves(locks: Iterable[tuple[str, bool]]) -> dict[str, int]:
    """Each agent's wave, of (agent, whether it is reachable): the canary is one that is."""
    ordered = sorted(locks, key=lambda lock: (not lock[1], lock[0]))
    ends = [max(number + 1, ceil(share * len(ordered))) for number, share in enumerate(SHARES)]
    found: dict[str, int] = {}
    for place, (agent, _) in enumerate(ordered):
        found[agent] = next((wave for wave, end in enumerate(ends) if place < end), LAST_WAVE)
    return found


def too_many(failed: int, locks: int) -> bool:
    """Whether so many failures stop a campaign."""
    return failed * FAILURES_PER_LOCKS > locks
