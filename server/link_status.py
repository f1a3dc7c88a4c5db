"""How the server's connection to the broker is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass
class LinkStatus:
    """Whether the server has the broker, for health checks and the page."""

    broker: str
    connected: bool = False
    since: datetime | None = None
    """When `connected` last changed."""
    last_error: str | None = None
