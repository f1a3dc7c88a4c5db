"""Time as the server sees it. Pure code takes times as arguments; only here are they asked for."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """Wall time, and time that only goes forward."""

    def now(self) -> datetime:
        """The wall clock, in UTC, aware."""

    def monotonic(self) -> float:
        """Seconds that never jump; only differences mean anything."""


class SystemClock:
    """The operating system's clocks."""

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """CLOCK_MONOTONIC."""
        return time.monotonic()


def microseconds(moment: datetime) -> int:
    """Whole microseconds since 1970, as the store keeps time; exact, unlike a float."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The inverse of `microseconds`."""
    return _EPOCH + timedelta(microseconds=value)
