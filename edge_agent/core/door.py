"""One door as a state machine: what it sees and is told, against what it does and reports.

    step(state, input, now_s) -> (state, outputs)

Times are monotonic seconds that the caller passes in; `next_deadline` says when it wants a `Tick`.
The strike is released only within the release time of a grant, a command or an exit request, or
while the mode leaves the door unlocked. Starting up and changing nothing gives no pulse and no
event.

Which mode is in force, and why, is decided elsewhere (`core.door_mode`) and told by `ModeSet`.
Whatever it is, an exit request releases the strike, and a release for someone who leaves runs to
its end. A lockdown ends a release for someone who enters at once: locking a strike moves no leaf,
so nobody in the opening is hurt or held.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from edge_agent.core.door_input import (
    Contact,
    ContactClosed,
    ContactOpened,
    DoorInput,
    RexPressed,
)
from schemas.policy import DoorMode, DoorSettings

Release = Literal["access", "rex", "command"]
"""What a timed release was for."""
After = Release | Literal["mode", "nothing"]
Cause = Literal["policy", "command", "lockdown", "schedule"]
"""What changed the mode, other than the releases that come and go by themselves."""

SHUT = frozenset({DoorMode.BLOCKED, DoorMode.LOCKED_DOWN})
"""Modes in which no command lets anybody in, and no grant from before them."""

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
    asked_s: float
    """When the card was held up: a mode that shut the door after that counts for more."""
    leaving: bool = False
    """The reader is on the inside."""


@dataclass(frozen=True)
class Pulsed:
    """An operator lets someone pass. A door that is shut does not heed it."""


@dataclass(frozen=True)
class ModeSet:
    """The settings and the mode in force now, and where a change of mode comes from."""

    settings: DoorSettings
    mode: DoorMode
    cause: Cause


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Input = DoorInput | Granted | Pulsed | ModeSet | Tick


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
    set_mode: DoorMode
    """The mode in force, but for a timed release."""
    contact: Contact
    released: bool = False
    released_until_s: float | None = None
    """When a timed release ends; None while there is none."""
    released_by: Release | None = None
    exit_until_s: float = float("-inf")
    """Until when the release is, also, for someone who leaves."""
    shut_since_s: float = float("-inf")
    """When the door was last blocked or locked down."""
    pending: tuple[Grant, ...] = ()
    """Grants that no opening has answered yet."""
    excused_until_s: float = float("-inf")
    """An opening before this is `excused_by`'s, even if the strike has relocked."""
    excused_by: Release = "access"
    open_since_s: float | None = None
    held_from_s: float | None = None
    """From when the open time counts: the opening, or the last grant while open."""
    prealarm: bool = False
    held: bool = False
    forced: bool = False

    @property
    def mode(self) -> DoorMode:
        """The ONVIF door mode now."""
        timed = self.released_until_s is not None and not self.unlocked
        return DoorMode.ACCESSED if timed else self.set_mode

    @property
    def unlocked(self) -> bool:
        """Whether the mode leaves the door free."""
        return self.set_mode is DoorMode.UNLOCKED


Step = tuple[DoorState, list[Output]]


def initial(settings: DoorSettings, mode: DoorMode, contact: Contact, now_s: float) -> Step:
    """The door as it is found: no event, and the strike moves only if the mode is unlocked."""
    is_open = contact == "open"
    state = DoorState(
        settings,
        mode,
        contact,
        released=mode is DoorMode.UNLOCKED,
        open_since_s=now_s if is_open else None,
        held_from_s=now_s if is_open else None,
    )
    return state, [SetStrike(True)] if state.released else []


def step(state: DoorState, input: Input, now_s: float) -> Step:
    """What the input makes of the door. Deadlines that have passed are handled first."""
    state, outputs = _tick(state, now_s)
    match input:
        case Granted():
            state, more = _granted(state, input, now_s)
        case Pulsed():
            heeded = heeds(state, input)
            state, more = _let_pass(state, "command", now_s) if heeded else (state, [])
        case RexPressed():
            state, more = _rex(state, now_s)
        case ContactOpened():
            state, more = _opened(state, now_s)
        case ContactClosed():
            state, more = _closed(state, now_s)
        case ModeSet():
            state, more = _mode_set(state, input, now_s)
        case Tick():
            more = []
    return state, outputs + more


def heeds(state: DoorState, input: Granted | Pulsed) -> bool:
    """Whether the door lets someone pass for it; one that is shut still lets out."""
    if state.set_mode not in SHUT:
        return True
    return isinstance(input, Granted) and (input.leaving or input.asked_s >= state.shut_since_s)


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
        state, outputs = _give_up(state)
        state, relocked = _relock(state)
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


def _granted(state: DoorState, granted: Granted, now_s: float) -> Step:
    grant = granted.grant
    if not heeds(state, granted):
        return state, [_outcome("access.not_taken", grant)]
    state, outputs = _let_pass(state, "access", now_s)
    if granted.leaving:
        state = replace(state, exit_until_s=now_s + state.settings.strike_release_s)
    if state.contact == "open":  # the way is free already: nothing more will be seen of this pass
        return state, [*outputs, _outcome("access.taken", grant)]
    pending = (*state.pending, grant)
    if len(pending) > MOST_PENDING:
        outputs.append(_outcome("access.not_taken", pending[0]))
        pending = pending[1:]
    return replace(state, pending=pending), outputs


def _rex(state: DoorState, now_s: float) -> Step:
    pressed = Emit("rex.pressed", {})
    until_s = now_s + state.settings.strike_release_s
    if not state.settings.rex_releases:  # the button's own wire frees the door; we only know of it
        return replace(state, excused_until_s=until_s, excused_by="rex"), [pressed]
    state, outputs = _let_pass(state, "rex", now_s)
    return replace(state, exit_until_s=until_s), [pressed, *outputs]


def _let_pass(state: DoorState, by: Release, now_s: float) -> Step:
    state, outputs = _release(state, by, now_s)
    if state.contact == "open":
        state = replace(state, held_from_s=now_s)
    return state, outputs


def _release(state: DoorState, by: Release, now_s: float) -> Step:
    until_s = now_s + state.settings.strike_release_s
    if state.released_until_s is not None:  # settings may have changed: it is never cut short
        until_s = max(until_s, state.released_until_s)
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
    """End a timed release: back to the mode in force."""
    if state.released_until_s is None:
        return state, []
    state = _without_release(state)
    if state.unlocked:
        return state, []
    changed = Emit("door.mode_changed", {"mode": state.set_mode, "cause": "relock"})
    return replace(state, released=False), [SetStrike(False), changed]


def _without_release(state: DoorState) -> DoorState:
    return replace(state, released_until_s=None, released_by=None, exit_until_s=float("-inf"))


def _give_up(state: DoorState) -> Step:
    """Nobody will pass on the grants that still wait."""
    outputs: list[Output] = []
    if state.contact == "closed":  # else nobody can say whether the door was opened
        outputs += [_outcome("access.not_taken", grant) for grant in state.pending]
    return replace(state, pending=()), outputs


def _opened(state: DoorState, now_s: float) -> Step:
    if state.contact == "open":
        return state, []
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


def _mode_set(state: DoorState, told: ModeSet, now_s: float) -> Step:
    before, state = state, replace(state, settings=told.settings, set_mode=told.mode)
    if before.set_mode is told.mode:
        return state, []
    outputs: list[Output] = []
    if told.mode in SHUT:
        state = replace(state, shut_since_s=now_s)
    if told.mode is DoorMode.LOCKED_DOWN:
        state, outputs = _end_entry(state, now_s)
    released = state.unlocked or state.released_until_s is not None
    if released is not state.released:
        state = replace(state, released=released)
        outputs.append(SetStrike(released))
    if state.mode is not before.mode:
        outputs.append(Emit("door.mode_changed", {"mode": state.mode, "cause": told.cause}))
    if state.unlocked:  # a door that is left free may stand open
        state, cleared = _clear_alarms(state, now_s)
        outputs += cleared
    elif before.unlocked and state.open_since_s is not None:
        state = replace(state, held_from_s=now_s)
    return state, outputs


def _end_entry(state: DoorState, now_s: float) -> Step:
    """Nobody comes in by a release from before a lockdown; who leaves by one still does."""
    if state.released_until_s is None:
        return state, []
    if state.exit_until_s > now_s:
        return replace(state, released_until_s=state.exit_until_s), []
    excused_until_s = min(state.excused_until_s, now_s + LATE_OPENING_S)
    return _give_up(replace(_without_release(state), excused_until_s=excused_until_s))


def _outcome(name: str, grant: Grant) -> Emit:
    return Emit(name, {"card": grant.card, "person": grant.person, "grant": grant.id}, grant)


def _open_for(name: str, state: DoorState, now_s: float) -> Emit:
    since_s = now_s if state.open_since_s is None else state.open_since_s
    return Emit(name, {"open_s": round(now_s - since_s, 3)})
