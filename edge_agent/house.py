"""What all doors of one agent share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from edge_agent.card.application import UnlockQuestion
from edge_agent.config import Door
from edge_agent.core.applied import Applied
from edge_agent.core.decision import Circumstances, Direction, DoorView
from edge_agent.core.door import Cause
from edge_agent.core.door_mode import effective_mode, exempt_groups, standing_mode
from edge_agent.core.freshness import Freshness, freshness
from edge_agent.core.lockout import Lockout
from edge_agent.core.mode_change import source_of
from edge_agent.door_io.port import DoorIo
from edge_agent.elements import Elements
from edge_agent.readers.port import Reader
from edge_agent.recorder import Recorder
from edge_agent.transport_keys import TransportKeys
from edge_agent.trust_store import TrustStore
from schemas.event_data import ClockStatus
from schemas.policy import DoorMode, DoorSettings
from schemas.suites import RandomBytes


@dataclass(frozen=True)
class Ruling:
    """How a door is to behave, in which mode, and what gives it that mode."""

    settings: DoorSettings
    mode: DoorMode
    source: Cause


@dataclass(frozen=True)
class House:
    """The shared parts, and how a door gets its own hardware."""

    site: str
    recorder: Recorder
    store: TrustStore
    elements: Elements
    transport_keys: TransportKeys
    lockout: Lockout
    random: RandomBytes
    default_view: Callable[[str], DoorView]
    """What a door goes by while no policy speaks of it."""
    open_io: Callable[[Door], DoorIo]
    open_reader: Callable[[Door, Direction], Reader]

    def view(self, door: str) -> DoorView:
        """What the policy in force says of a door."""
        return self.view_of(self.store.applied, door)

    def view_of(self, applied: Applied | None, door: str) -> DoorView:
        """What one policy says of a door."""
        view = None if applied is None else applied.doors.get(door)
        return self.default_view(door) if view is None else view

    def question(self, view: DoorView) -> UnlockQuestion:
        """What a door with this view asks of a card now."""
        settings, store = view.settings, self.store
        return UnlockQuestion.of(
            self.site,
            settings,
            self.elements.get(settings.domain, settings.suite).held,
            store.denied_versions(settings.domain),
            store.key_floor(settings.domain),
        )

    def heartbeat_age_s(self) -> float | None:
        """How old the server's newest word is; None if it was never heard."""
        now, _ = self.recorder.judge_time()
        return self.store.heartbeat_age_s(now)

    def freshness(self, door: str) -> Freshness:
        """What that means at a door."""
        return freshness(self.heartbeat_age_s(), self.view(door).settings.grace_s)

    def mode(self, door: str) -> Ruling:
        """The mode the door is to be in now, and what gives it."""
        now, _ = self.recorder.judge_time()
        view, override = self.view(door), self.store.overrides.get(door)
        mode = effective_mode(
            self.site,
            door,
            view,
            lockdowns=self.store.lockdowns,
            override=override,
            now=now,
            in_time=self.in_time(door),
        )
        return Ruling(view.settings, mode, source_of(mode, view, override, now=now))

    def in_time(self, door: str) -> bool:
        """Whether a door may be left free: what is known is right, recent, and not over."""
        return self._in_time(self.store.applied, door, *self.recorder.judge_time())

    def circumstances(
        self, applied: Applied | None, door: str, direction: Direction, locked_out_s: float
    ) -> Circumstances:
        """What holds at a door under one policy, now."""
        now, status = self.recorder.judge_time()
        view, store = self.view_of(applied, door), self.store
        settings = view.settings
        return Circumstances(
            direction=direction,
            now=now,
            heartbeat_age_s=store.heartbeat_age_s(now),
            policy_over=applied is None or applied.is_over(now),
            clock_trusted=_is_trusted(status),
            mode=standing_mode(
                view,
                store.overrides.get(door),
                now=now,
                in_time=self._in_time(applied, door, now, status),
            ),
            exempt=exempt_groups(self.site, door, settings.areas, store.lockdowns),
            locked_out_s=locked_out_s,
            denied_versions=store.denied_versions(settings.domain),
            key_floor=store.key_floor(settings.domain),
        )

    def _in_time(
        self, applied: Applied | None, door: str, now: datetime, status: ClockStatus
    ) -> bool:
        if applied is None or applied.is_over(now) or not _is_trusted(status):
            return False
        grace_s = self.view_of(applied, door).settings.grace_s
        return freshness(self.store.heartbeat_age_s(now), grace_s) in ("fresh", "stale")


def _is_trusted(status: ClockStatus) -> bool:
    return status.status != "untrusted"
