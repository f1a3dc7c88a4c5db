"""Time as the agent sees it. Pure code takes times as arguments; only this module asks for them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from schemas.event_data import ClockStatus

SYNCHRONISED = Path("/run/systemd/timesync/synchronized")


class Clock(Protocol):
    """Wall time, and time that only goes forward."""

    def now(self) -> datetime:
        """The wall clock, in UTC, aware."""

    def monotonic(self) -> float:
        """Seconds that never jump; only differences mean anything."""

    def status(self) -> ClockStatus:
        """How far `now` can be trusted."""


class SystemClock:
    """The operating system's clocks."""

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """CLOCK_MONOTONIC."""
        return time.monotonic()

    def status(self) -> ClockStatus:
        """`synced` where systemd-timesyncd says so; otherwise the clock runs on its own."""
        return ClockStatus(status="synced" if SYNCHRONISED.exists() else "holdover")
