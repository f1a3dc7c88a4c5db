"""What all doors of one agent share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_agent.config import Door
from edge_agent.core.decision import Direction, DoorView
from edge_agent.core.lockout import Lockout
from edge_agent.door_io.port import DoorIo
from edge_agent.elements import Elements
from edge_agent.readers.port import Reader
from edge_agent.recorder import Recorder
from edge_agent.store import Applied, PolicyStore
from schemas.policy import DoorMode, DoorSettings
from schemas.suites import RandomBytes


@dataclass(frozen=True)
class House:
    """The shared parts, and how a door gets its own hardware."""

    site: str
    recorder: Recorder
    store: PolicyStore
    elements: Elements
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
        """What one policy says of a door; past its time none leaves a door unlocked."""
        view = None if applied is None else applied.doors.get(door)
        if applied is None or view is None:
            return self.default_view(door)
        if view.settings.mode is DoorMode.UNLOCKED and self._is_over(applied, view.settings):
            locked = view.settings.model_copy(update={"mode": DoorMode.LOCKED})
            return replace(view, settings=locked)
        return view

    def _is_over(self, applied: Applied, settings: DoorSettings) -> bool:
        now, _ = self.recorder.judge_time()
        if applied.expires is not None and now >= applied.expires:
            return True
        return (now - applied.issued).total_seconds() > settings.grace_s
