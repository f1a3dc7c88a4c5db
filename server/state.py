"""What the parts of a running server share."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.suites import Suite
from server.clock import Clock, SystemClock
from server.feed.hub import Hub


@dataclass
class LinkStatus:
    """Whether the server has the broker, for health checks and the page."""

    broker: str
    connected: bool = False
    since: datetime | None = None
    """When `connected` last changed."""
    last_error: str | None = None


@dataclass
class ServerState:
    """Made once by `server.app.serve`, handed to the API."""

    engine: AsyncEngine
    hub: Hub
    site: str
    suite: Suite
    link: LinkStatus
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    clock: Clock = field(default_factory=SystemClock)
