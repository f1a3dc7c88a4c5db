"""Guessing is slow: repeated failures lock a card or a reader out for a while, and longer again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

FAILURES_BEFORE_LOCKOUT = 5
FIRST_LOCKOUT_S = 30.0
LONGEST_LOCKOUT_S = 900.0
FORGET_AFTER_S = 3600.0
REMEMBERED = 4096
"""How many cards and readers are kept; a card claims its own id, so the memory must be bounded."""


@dataclass(frozen=True)
class _Failures:
    count: int
    last_s: float
    until_s: float


class Lockout:
    """Failures by key: a card's id or a reader's name. Times are monotonic seconds passed in."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._remembered = remembered

    def remaining_s(self, key: str, now_s: float) -> float:
        """How long `key` stays locked out; 0 if it is not."""
        failures = self._failures.get(key)
        return 0.0 if failures is None else max(0.0, failures.until_s - now_s)

    def failed(self, key: str, now_s: float) -> None:
        """Count one failed proof. From the fifth on, each locks out for twice as long."""
        before = self._failures.pop(key, None)
        if before is None or now_s - max(before.last_s, before.until_s) > FORGET_AFTER_S:
            before = _Failures(0, now_s, now_s)
        count = before.count + 1
        beyond = count - FAILURES_BEFORE_LOCKOUT
        pause = (
            0.0 if beyond < 0 else min(LONGEST_LOCKOUT_S, FIRST_LOCKOUT_S * 2 ** min(beyond, 16))
        )
        self._failures[key] = _Failures(count, now_s, now_s + pause)
        while len(self._failures) > self._remembered:
            self._failures.popitem(last=False)

    def succeeded(self, key: str) -> None:
        """A good proof forgets the failures before it."""
        self._failures.pop(key, None)

    def __len__(self) -> int:
        return len(self._failures)
