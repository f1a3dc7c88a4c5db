"""Which locks are given a new version first: one, one in a hundred, one in ten, all. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from server.core.rotation import LAST_WAVE
from server.core.rotation_locks import Lock

_SHARES = (0.0, 0.01, 0.1)
"""How much of all locks the first waves have together; at least one each."""


def waves(campaign: str, locks: Iterable[Lock]) -> dict[str, int]:
    """The wave of each agent: drawn from the campaign's id, so that it is another lock's turn each
    time, and those that are reachable first: a canary that can't sing is none."""
    drawn = sorted(
        locks,
        key=lambda lock: (
            not lock.reachable,
            sha256(f"{campaign}/{lock.agent}".encode()).digest(),
        ),
    )
    ends, end = [], 0
    for share in _SHARES:
        end = max(end + 1, int(len(drawn) * share))
        ends.append(end)
    return {
        lock.agent: next((wave for wave, end in enumerate(ends) if place < end), LAST_WAVE)
        for place, lock in enumerate(drawn)
    }
