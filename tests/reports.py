"""What an agent with no doors reports."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from schemas.event_data import ClockStatus
from schemas.report import Report
from schemas.versions import LogHead


def report(counter: int = 1, **changes: Any) -> Report:
    values = {
        "site": "demo",
        "audience": "server",
        "issued": datetime(2026, 1, 1, tzinfo=UTC),
        "counter": counter,
        "session": "00" * 8,
        "root": 1,
        "policy": None,
        "revocation": LogHead(),
        "lockdown": 0,
        "command": 0,
        "chain": "aa" * 8,
        "waiting": 0,
        "doors": {},
        "clock": ClockStatus(status="synced"),
        "version": "1",
    }
    return Report(**values | changes)
