"""What the parts of a running server share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.suites import Suite
from server.clock import Clock, SystemClock
from server.feed.hub import Hub
from server.link_status import LinkStatus

if TYPE_CHECKING:  # the API needs few of them, and its tests fewer
    from server.distribution.commands import Commands
    from server.distribution.convergence import Convergence
    from server.distribution.heartbeats import Heartbeats
    from server.distribution.lockdowns import Lockdowns
    from server.distribution.policies import Policies
    from server.distribution.presence import Presence
    from server.distribution.revocations import Revocations
    from server.distribution.rotations import Rotations
    from server.enrolment.enrolments import Enrolments
    from server.keys.authority import KeyAuthority
    from server.keys.esams import Esams
    from server.site import Site


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

    # What distributes trust, policy and commands; set by `server.app` before anything is served.
    the_site: Site = field(init=False)
    environ: Mapping[str, str] = field(init=False)
    presence: Presence = field(init=False)
    policies: Policies = field(init=False)
    revocations: Revocations = field(init=False)
    lockdowns: Lockdowns = field(init=False)
    commands: Commands = field(init=False)
    heartbeats: Heartbeats = field(init=False)
    rotations: Rotations = field(init=False)
    enrolments: Enrolments = field(init=False)
    keys: KeyAuthority = field(init=False)
    esams: Esams = field(init=False)
    convergence: Convergence = field(init=False)
    announced: Callable[[], None] = field(init=False)
    """Wakes the writer of the server's own events: call it after a commit that announced."""
    model_changed: Callable[[], None] = field(init=False)
    """Wakes the compiler of policies: call it after a commit that changed the model."""
    local_token: str = field(default="", repr=False)
    """SHA-256 in hex of the admin token in `run.json`; empty: there is none."""
    served_doors: Callable[[], Awaitable[list[tuple[str, str]]]] = field(init=False)
    """All doors of the model, each with the agent that serves it."""
