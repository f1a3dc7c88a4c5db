"""One door as a state machine: what it sees and is told, against what it does and reports.

    step(state, input, now_s) -> (state, outputs)

Times are monotonic seconds that the caller passes in; `next_deadline` says when it wants a `Tick`.
The strike is released only within the release time of a grant or an exit request, or while the
policy leaves the door unlocked. Starting up and changing nothing gives no pulse and no event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from schemas.policy import DoorMode, DoorSettings

Contact = Literal["open", "closed", "fault", "unknown"]
After = Literal["access", "rex", "mode", "nothing"]

LATE_OPENING_S = 0.5
"""A door that was on its way when the strike relocked is not forced: contacts are debounced."""
MOST_PENDING = 16
"""Grants that wait for one door to open; beyond it the oldest counts as not taken."""


@dataclass(frozen=True)
class Grant:
    """Why the strike may be released: an access.granted event and who it let in."""

    id: str
    card: str | None
    person: str | None


@dataclass(frozen=True)
class Granted:
    """A decision let someone pass."""

    grant: Grant


@dataclass(frozen=True)
class RexPressed:
    """Someone inside asked to leave."""


@dataclass(frozen=True)
class ContactOpened:
    """The door leaf left its frame."""


@dataclass(frozen=True)
class ContactClosed:
    """The door leaf is back in its frame."""


@dataclass(frozen=True)
class IoFault:
    """The door's hardware can't be read or driven."""

    detail: str


@dataclass(frozen=True)
class IoRecovered:
    """The hardware works again, and shows this."""

    contact: Contact


@dataclass(frozen=True)
class SettingsChanged:
    """A policy was applied."""

    settings: DoorSettings


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


DoorInput = ContactOpened | ContactClosed | RexPressed | IoFault | IoRecovered
"""What door hardware can say."""
Input = DoorInput | Granted | SettingsChanged | Tick


@dataclass(frozen=True)
class SetStrike:
    """Release the strike, or lock it."""

    released: bool


@dataclass(frozen=True)
class Emit:
    """An event to report: its name, and its data but for door, clock and latency."""

    name: str
    data: dict[str, Any]
    grant: Grant | None = None


Output = SetStrike | Emit


@dataclass(frozen=True)
class DoorState:
    """Where the door stands. Make one with `initial`."""

    settings: DoorSettings
    contact: Contact
    released: bool = False
    released_until_s: float | None = None
    """When a timed release ends; None while there is none."""
    released_by: Literal["access", "rex"] | None = None
    pending: tuple[Grant, ...] = ()
    """Grants that no opening has answered yet."""
    excused_until_s: float = float("-inf")
    """An opening before this is `excused_by`'s, even if the strike has relocked."""
    excused_by: Literal["access", "rex"] = "access"
    open_since_s: float | None = None
    held_from_s: float | None = None
    """From when the open time counts: the opening, or the last grant while open."""
    prealarm: bool = False
    held: bool = False
    forced: bool = False
    fault: str | None = None

    @property
    def mode(self) -> DoorMode:
        """The ONVIF door mode now."""
        timed = self.released_until_s is not None and not self.unlocked
        return DoorMode.ACCESSED if timed else self.settings.mode

    @property
    def unlocked(self) -> bool:
        """Whether the policy leaves the door free."""
        return self.settings.mode is DoorMode.UNLOCKED


Step = tuple[DoorState, list[Output]]


def initial(settings: DoorSettings, contact: Contact, now_s: float) -> Step:
    """The door as it is found: no event, and the strike moves only if the policy unlocks it."""
    is_open = contact == "open"
    state = DoorState(
        settings,
        contact,
        released=settings.mode is DoorMode.UNLOCKED,
        open_since_s=now_s if is_open else None,
        held_from_s=now_s if is_open else None,
    )
    return state, [SetStrike(True)] if state.released else []


def step(state: DoorState, input: Input, now_s: float) -> Step:
    """What the input makes of the door. Deadlines that have passed are handled first."""
    state, outputs = _tick(state, now_s)
    match input:
        case Granted(grant):
            state, more = _granted(state, grant, now_s)
        case RexPressed():
            state, more = _rex(state, now_s)
        case ContactOpened():
            state, more = _opened(state, now_s)
        case ContactClosed():
            state, more = _closed(state, now_s)
        case IoFault(detail):
            state, more = _fault(state, detail)
        case IoRecovered(contact):
            state, more = _recovered(state, contact, now_s)
        case SettingsChanged(settings):
            state, more = _settings(state, settings, now_s)
        case Tick():
            more = []
    return state, outputs + more


def next_deadline(state: DoorState) -> float | None:
    """When the next `Tick` is due, or None if time alone changes nothing."""
    deadlines = [] if state.released_until_s is None else [state.released_until_s]
    if state.held_from_s is not None and not state.unlocked and state.contact == "open":
        if not state.prealarm:
            deadlines.append(state.held_from_s + state.settings.held_prealarm_s)
        if not state.held:
            deadlines.append(state.held_from_s + state.settings.held_after_s)
    return min(deadlines, default=None)


def _tick(state: DoorState, now_s: float) -> Step:
    outputs: list[Output] = []
    if state.released_until_s is not None and now_s >= state.released_until_s:
        if state.contact == "closed":  # else nobody can say whether the door was opened
            outputs += [_outcome("access.not_taken", grant) for grant in state.pending]
        state, relocked = _relock(replace(state, pending=()))
        outputs += relocked
    held_from_s = state.held_from_s
    if held_from_s is not None and not state.unlocked and state.contact == "open":
        # The same sums as in `next_deadline`, so that a Tick at the deadline never comes too early.
        if not state.prealarm and now_s >= held_from_s + state.settings.held_prealarm_s:
            state = replace(state, prealarm=True)
            outputs.append(_open_for("door.held_prealarm", state, now_s))
        if not state.held and now_s >= held_from_s + state.settings.held_after_s:
            state = replace(state, held=True)
            outputs.append(_open_for("door.held", state, now_s))
    return state, outputs


def _granted(state: DoorState, grant: Grant, now_s: float) -> Step:
    state, outputs = _release(state, "access", now_s)
    if state.contact == "open":  # the way is free already: nothing more will be seen of this pass
        return replace(state, held_from_s=now_s), [*outputs, _outcome("access.taken", grant)]
    pending = (*state.pending, grant)
    if len(pending) > MOST_PENDING:
        outputs.append(_outcome("access.not_taken", pending[0]))
        pending = pending[1:]
    return replace(state, pending=pending), outputs


def _rex(state: DoorState, now_s: float) -> Step:
    pressed = Emit("rex.pressed", {})
    if not state.settings.rex_releases:  # the button's own wire frees the door; we only know of it
        until_s = now_s + state.settings.strike_release_s
        return replace(state, excused_until_s=until_s, excused_by="rex"), [pressed]
    state, outputs = _release(state, "rex", now_s)
    if state.contact == "open":
        state = replace(state, held_from_s=now_s)
    return state, [pressed, *outputs]


def _release(state: DoorState, by: Literal["access", "rex"], now_s: float) -> Step:
    until_s = now_s + state.settings.strike_release_s
    outputs: list[Output] = []
    if not state.released:
        outputs.append(SetStrike(True))
    if state.released_until_s is None and not state.unlocked:
        outputs.append(Emit("door.mode_changed", {"mode": DoorMode.ACCESSED, "cause": by}))
    state = replace(
        state,
        released=True,
        released_until_s=until_s,
        released_by=by,
        excused_until_s=until_s + LATE_OPENING_S,
        excused_by=by,
    )
    return state, outputs


def _relock(state: DoorState) -> Step:
    """End a timed release: back to the mode that the policy sets."""
    if state.released_until_s is None:
        return state, []
    state = replace(state, released_until_s=None, released_by=None)
    if state.unlocked:
        return state, []
    changed = Emit("door.mode_changed", {"mode": state.settings.mode, "cause": "relock"})
    return replace(state, released=False), [SetStrike(False), changed]


def _opened(state: DoorState, now_s: float) -> Step:
    if state.contact == "open":
        return state, []
    if state.open_since_s is not None:  # it was open before a fault and still is
        return replace(state, contact="open"), []
    after = _excuse(state, now_s)
    taken = [_outcome("access.taken", grant) for grant in state.pending]
    outputs: list[Output] = [Emit("door.opened", {"after": after}), *taken]
    if after == "nothing":
        outputs.append(Emit("door.forced", {}))
    state = replace(
        state,
        contact="open",
        pending=(),
        open_since_s=now_s,
        held_from_s=now_s,
        forced=after == "nothing",
    )
    return state, outputs


def _excuse(state: DoorState, now_s: float) -> After:
    if state.pending:
        return "access"
    if state.released_by is not None:
        return state.released_by
    if state.unlocked:
        return "mode"
    return state.excused_by if now_s <= state.excused_until_s else "nothing"


def _closed(state: DoorState, now_s: float) -> Step:
    if state.contact == "closed":
        return state, []
    was_open = state.open_since_s is not None
    outputs: list[Output] = [Emit("door.closed", {})] if was_open else []
    state, cleared = _clear_alarms(state, now_s)
    outputs += cleared
    # Only a door that was passed relocks early: a release still waits for its opening.
    if was_open and not state.pending:
        if state.released_until_s is not None:
            state = replace(state, excused_until_s=float("-inf"))
        state, relocked = _relock(state)
        outputs += relocked
    return replace(state, contact="closed", open_since_s=None, held_from_s=None), outputs


def _clear_alarms(state: DoorState, now_s: float) -> Step:
    outputs: list[Output] = []
    if state.forced:
        outputs.append(Emit("door.forced.cleared", {}))
    if state.held:
        outputs.append(_open_for("door.held.cleared", state, now_s))
    if state.prealarm:
        outputs.append(_open_for("door.held_prealarm.cleared", state, now_s))
    return replace(state, forced=False, held=False, prealarm=False), outputs


def _fault(state: DoorState, detail: str) -> Step:
    if state.fault is not None:
        return state, []
    state = replace(state, contact="fault", fault=detail)
    return state, [Emit("door.fault", {"detail": detail})]


def _recovered(state: DoorState, contact: Contact, now_s: float) -> Step:
    if state.fault is None:
        return state, []
    outputs: list[Output] = [Emit("door.fault.cleared", {"detail": state.fault})]
    state = replace(state, fault=None, contact="unknown")
    # The drive may have lost the strike's state with the fault: say it again.
    outputs.append(SetStrike(state.released))
    more: list[Output] = []
    if contact == "closed":
        state, more = _closed(state, now_s)
    elif contact == "open":
        state, more = _opened(state, now_s)
    return state, outputs + more


def _settings(state: DoorState, settings: DoorSettings, now_s: float) -> Step:
    before, state = state, replace(state, settings=settings)
    if before.settings.mode is settings.mode:
        return state, []
    outputs: list[Output] = []
    released = state.unlocked or state.released_until_s is not None
    if released is not state.released:
        state = replace(state, released=released)
        outputs.append(SetStrike(released))
    if state.mode is not before.mode:
        outputs.append(Emit("door.mode_changed", {"mode": state.mode, "cause": "policy"}))
    if state.unlocked:  # a door that is left free may stand open
        state, cleared = _clear_alarms(state, now_s)
        outputs += cleared
    elif state.open_since_s is not None:
        state = replace(state, held_from_s=now_s)
    return state, outputs


def _outcome(name: str, grant: Grant) -> Emit:
    return Emit(name, {"card": grant.card, "person": grant.person, "grant": grant.id}, grant)


def _open_for(name: str, state: DoorState, now_s: float) -> Emit:
    since_s = now_s if state.open_since_s is None else state.open_since_s
    return Emit(name, {"open_s": round(now_s - since_s, 3)})
