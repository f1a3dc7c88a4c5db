"""What each door was last said to be: a projection of its events. Pure.

Only what an agent reports counts, in the order of its chain; a value that is none of the
vocabulary's is passed over, the event itself stays as it came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from schemas.events import EventLine, event_name
from schemas.names import SERVER
from schemas.policy import DoorMode
from server.clock import microseconds
from server.ingest.heads import Row
from server.ingest.verify import AlarmKind, Refusal

UNKNOWN = "unknown"
CONTACTS = frozenset({"open", "closed", "fault", UNKNOWN})
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_MODES = frozenset(DoorMode)
_MAX_DOORS = 64
"""Of one agent, which serves one door, or a few. More are invented."""

_CHANGES: dict[str, dict[str, str]] = {
    "door.opened": {"contact": "open"},
    "door.closed": {"contact": "closed"},
    "door.fault": {"contact": "fault"},
    "door.fault.cleared": {"contact": UNKNOWN},
    "door.forced": {"alarm": "forced"},
    "door.held": {"alarm": "held"},
}
_CLEARS = {"door.forced.cleared": "forced", "door.held.cleared": "held"}


@dataclass(frozen=True, slots=True)
class DoorState:
    """One row of `doors`; `changed_us` and `position` are of the event that last changed it."""

    door: str
    agent: str
    contact: str = UNKNOWN
    mode: str = UNKNOWN
    alarm: str = "normal"
    changed_us: int = 0
    position: int = 0


class Doors:
    """All doors; or, upon a `base`, what a batch that is not committed makes of them."""

    def __init__(self, states: Iterable[DoorState] = (), base: Doors | None = None) -> None:
        self._base = base
        self._of: dict[str, set[str]] = {}
        self.states: dict[str, DoorState] = {}
        """By name; upon a base, those that differ from it."""
        for state in states:
            self.put(state)

    def get(self, door: str) -> DoorState | None:
        """The door as it was last said to be."""
        own = self.states.get(door)
        return own if own is not None or self._base is None else self._base.get(door)

    def of(self, agent: str) -> set[str]:
        """The doors that the agent spoke for last."""
        own = self._of.get(agent, set())
        return own if self._base is None else own | (self._base.of(agent) - self.states.keys())

    def put(self, state: DoorState) -> None:
        """The door is so now."""
        before = self.states.get(state.door)
        if before is not None and before.agent != state.agent:
            self._of[before.agent].discard(state.door)
        self.states[state.door] = state
        self._of.setdefault(state.agent, set()).add(state.door)


def project(doors: Doors, agent: str, event: EventLine, position: int) -> Iterator[DoorState]:
    """The doors that `event` changes or makes known, as they are after it.

    The server speaks of doors, as where it sends a command, and for none.
    """
    if agent == SERVER:
        return
    name = event_name(event.type)
    for door, said in _said(name, event.data):
        before = doors.get(door)
        known = before is not None and before.agent == agent
        if not known and len(doors.of(agent)) >= _MAX_DOORS:
            continue
        if before is None or not known:  # another agent's word says nothing of this one's door
            before = DoorState(door, agent)
        changes = said
        if _CLEARS.get(name) == before.alarm:
            changes = {"alarm": "normal"}
        if known and all(getattr(before, field) == value for field, value in changes.items()):
            continue
        yield DoorState(
            door=door,
            agent=agent,
            contact=changes.get("contact", before.contact),
            mode=changes.get("mode", before.mode),
            alarm=changes.get("alarm", before.alarm),
            changed_us=microseconds(event.time),
            position=position,
        )


def takeovers(doors: Doors, rows: Iterable[Row]) -> Iterator[Refusal]:
    """An alarm for each door that one agent has, and that another now speaks for.

    The door then shows what the new one says: that an agent was replaced can't be told from one
    that lies about its neighbour's door. So it must be seen.
    """
    for row in rows:
        if row.source == SERVER:
            continue
        event = row.link.event
        for door, _ in _said(event_name(event.type), event.data):
            before = doors.get(door)
            if before is not None and before.agent != row.source:
                detail = f"door {door} was {before.agent}'s; line {event.number} speaks for it"
                yield Refusal(AlarmKind.DOOR_TAKEN, row.source, detail)


def _said(name: str, data: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    contacts = data.get("doors")
    if name == "agent.started" and isinstance(contacts, dict):
        for door, contact in list(contacts.items())[:_MAX_DOORS]:
            if _NAME.match(door):
                known = isinstance(contact, str) and contact in CONTACTS
                yield door, {"contact": contact if known else UNKNOWN}
        return
    door = data.get("door")
    if not isinstance(door, str) or not _NAME.match(door):
        return
    changes = _CHANGES.get(name, {})
    mode = data.get("mode")
    if name == "door.mode_changed" and isinstance(mode, str) and mode in _MODES:
        changes = {"mode": mode}
    yield door, changes
