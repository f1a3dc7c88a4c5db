"""In which mode a door is: what is stronger comes first.

Lockdown > an operator's override > what the policy says (its unlock schedule, its mode). What
leaves a door free needs a time that is right and a policy that is fresh; what shuts it, neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from edge_agent.core.decision import DoorView
from edge_agent.core.schedule import is_open
from schemas.command import Action
from schemas.lockdown import Lockdown
from schemas.policy import DoorMode

OverrideMode = Literal[DoorMode.LOCKED, DoorMode.UNLOCKED, DoorMode.BLOCKED]
OVERRIDES: Mapping[Action, OverrideMode] = {
    Action.LOCK: DoorMode.LOCKED,
    Action.BLOCK: DoorMode.BLOCKED,
    Action.UNLOCK: DoorMode.UNLOCKED,
}
"""The commands that set a door's mode. `normal` ends what they set."""


@dataclass(frozen=True)
class Override:
    """A mode an operator commanded. `until` is aware; None: until told otherwise."""

    mode: OverrideMode
    until: datetime | None = None

    def holds(self, now: datetime) -> bool:
        """Whether it has not ended."""
        return self.until is None or now < self.until


def exempt_groups(
    site: str, door: str, areas: Iterable[str], lockdowns: Iterable[Lockdown]
) -> frozenset[str] | None:
    """Who may pass a door that is locked down; None if it is not.

    Of several lockdowns each must exempt the group.
    """
    within = frozenset(areas)
    exempt: frozenset[str] | None = None
    for lockdown in lockdowns:
        if lockdown.covers(site, door, within):
            groups = frozenset(lockdown.exempt)
            exempt = groups if exempt is None else exempt & groups
    return exempt


def standing_mode(
    view: DoorView, override: Override | None, *, now: datetime, in_time: bool
) -> OverrideMode:
    """The mode but for lockdowns.

    `in_time` says that the clock is trusted and the policy neither over nor past its grace.
    """
    if override is not None and override.holds(now):
        mode = override.mode
    elif view.settings.mode is DoorMode.LOCKED and _unlocked_by_schedule(view, now):
        mode = DoorMode.UNLOCKED
    else:
        mode = view.settings.mode
    return DoorMode.LOCKED if mode is DoorMode.UNLOCKED and not in_time else mode


def effective_mode(
    site: str,
    door: str,
    view: DoorView,
    *,
    lockdowns: Iterable[Lockdown],
    override: Override | None,
    now: datetime,
    in_time: bool,
) -> DoorMode:
    """The door's mode at `now`: `locked_down`, or what `standing_mode` says."""
    if exempt_groups(site, door, view.settings.areas, lockdowns) is not None:
        return DoorMode.LOCKED_DOWN
    return standing_mode(view, override, now=now, in_time=in_time)


def _unlocked_by_schedule(view: DoorView, now: datetime) -> bool:
    return view.unlock is not None and is_open(view.unlock, view.zone, now)


def with_override(
    overrides: Mapping[str, Override], door: str, override: Override | None
) -> Mapping[str, Override]:
    """These overrides with the door's replaced, or ended by None."""
    others = {name: each for name, each in overrides.items() if name != door}
    return others if override is None else {**others, door: override}
