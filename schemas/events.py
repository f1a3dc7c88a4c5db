"""Event types and their data, as CloudEvents 1.0.

An agent builds the data of each event from its model (`schemas.event_data`), the server from those
of `schemas.server_event_data`; JSON Schema for integrators is
generated from the same models (`json_schemas`). A receiver checks the line's attributes strictly
and keeps `data` as it came: a newer agent may say more.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    model_validator,
)

from schemas.event_data import (
    AccessDenied,
    AccessGranted,
    AccessOutcome,
    AgentStarted,
    BufferHigh,
    CardBound,
    CardNotRekeyed,
    CardRekeyed,
    CardUnbound,
    CertificateApplied,
    ClockStepped,
    CommandExecuted,
    CommandRefused,
    DoorData,
    DoorFault,
    DoorHeld,
    DoorOpened,
    EsamData,
    EsamUnavailable,
    EventData,
    EventsLost,
    FreshnessChanged,
    KeysHeld,
    KeysRefused,
    LockdownApplied,
    ModeChanged,
    PolicyApplied,
    RevocationApplied,
    RootApplied,
    StatementRejected,
    WindowEnded,
)
from schemas.names import ChainId, DigestHex
from schemas.server_event_data import (
    AgentEnrolment,
    AgentPresence,
    AlarmRaised,
    CommandSent,
    EsamChanged,
    KeyFloorRaised,
    KeyPackageMade,
    KeysCopied,
    KeyVersionDestroyed,
    KeyVersionMade,
    LockdownChanged,
    ModelChanged,
    PolicyPublished,
    RevocationOverdue,
    RevocationRequested,
    RootPublished,
    RotationChanged,
    TokenChanged,
    TransportKeyGiven,
    TransportKeysChanged,
)

TYPE_PREFIX = "io.ostiary."
_UTC_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


def _utc_text(value: object) -> object:
    # Pydantic would also take numbers, blanks for T and digits beyond microseconds
    if not isinstance(value, str) or _UTC_TIME.fullmatch(value) is None:
        raise ValueError("not a UTC time with microseconds, like 2026-01-31T07:00:00.000000Z")
    return value


class EventLine(BaseModel):
    """The attributes of one event line (CloudEvents 1.0.2, 3), with our chain extensions."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    specversion: Literal["1.0"]
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}-[1-9][0-9]{0,19}$")]
    source: Annotated[str, StringConstraints(pattern=r"^/sites/[a-z0-9-]{1,63}/[a-z0-9/-]{1,80}$")]
    type: Annotated[
        str,
        StringConstraints(pattern=r"^io\.ostiary\.[a-z_]{1,40}(?:\.[a-z_]{1,40}){1,2}\.v[0-9]$"),
    ]
    subject: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}/[a-z0-9-]{1,63}$")]
    time: Annotated[AwareDatetime, BeforeValidator(_utc_text)]
    sequence: Annotated[str, StringConstraints(pattern=r"^[0-9]{20}$")]
    chain: ChainId
    prevhash: DigestHex
    data: dict[str, Any]

    @cached_property
    def number(self) -> int:
        """The sequence as a number, from 1 to 2^63 - 1."""
        return int(self.sequence)

    @model_validator(mode="after")
    def _named_by_its_place(self) -> EventLine:
        if self.id != f"{self.chain}-{self.number}":
            raise ValueError("id is not chain-sequence")
        if self.number >= 2**63:
            raise ValueError("sequence is beyond 63 bits")
        return self


EVENT_DATA: dict[str, type[EventData]] = {
    "access.granted": AccessGranted,
    "access.denied": AccessDenied,
    "access.taken": AccessOutcome,
    "access.not_taken": AccessOutcome,
    "door.opened": DoorOpened,
    "door.closed": DoorData,
    "door.forced": DoorData,
    "door.forced.cleared": DoorData,
    "door.held": DoorHeld,
    "door.held.cleared": DoorHeld,
    "door.held_prealarm": DoorHeld,
    "door.held_prealarm.cleared": DoorHeld,
    "door.mode_changed": ModeChanged,
    "door.fault": DoorFault,
    "door.fault.cleared": DoorFault,
    "rex.pressed": DoorData,
    "card.bound": CardBound,
    "card.unbound": CardUnbound,
    "card.rekeyed": CardRekeyed,
    "card.not_rekeyed": CardNotRekeyed,
    "card.not_bound": WindowEnded,
    "keys.held": KeysHeld,
    "keys.refused": KeysRefused,
    "agent.started": AgentStarted,
    "agent.clock_stepped": ClockStepped,
    "agent.buffer_high": BufferHigh,
    "agent.events_lost": EventsLost,
    "policy.applied": PolicyApplied,
    "policy.rejected": StatementRejected,
    "policy.stale": FreshnessChanged,
    "policy.expired": FreshnessChanged,
    "policy.fresh": FreshnessChanged,
    "statement.rejected": StatementRejected,
    "revocation.applied": RevocationApplied,
    "lockdown.applied": LockdownApplied,
    "root.applied": RootApplied,
    "certificate.applied": CertificateApplied,
    "esam.unavailable": EsamUnavailable,
    "esam.unavailable.cleared": EsamData,
    "command.executed": CommandExecuted,
    "command.refused": CommandRefused,
    "policy.published": PolicyPublished,
    "revocation.requested": RevocationRequested,
    "revocation.overdue": RevocationOverdue,
    "revocation.overdue.cleared": RevocationOverdue,
    "lockdown.started": LockdownChanged,
    "lockdown.ended": LockdownChanged,
    "command.sent": CommandSent,
    "root.published": RootPublished,
    "keys.version_made": KeyVersionMade,
    "keys.version_destroyed": KeyVersionDestroyed,
    "keys.floor_raised": KeyFloorRaised,
    "keys.package_made": KeyPackageMade,
    "keys.esam_changed": EsamChanged,
    "keys.backed_up": KeysCopied,
    "keys.restored": KeysCopied,
    "keys.transport_changed": TransportKeysChanged,
    "keys.transport_given": TransportKeyGiven,
    "rotation.planned": RotationChanged,
    "rotation.started": RotationChanged,
    "rotation.staged": RotationChanged,
    "rotation.activated": RotationChanged,
    "rotation.paused": RotationChanged,
    "rotation.resumed": RotationChanged,
    "rotation.quarantined": RotationChanged,
    "rotation.rolled_back": RotationChanged,
    "rotation.retired": RotationChanged,
    "rotation.completed": RotationChanged,
    "model.changed": ModelChanged,
    "token.changed": TokenChanged,
    "agent.claimed": AgentEnrolment,
    "agent.enrolled": AgentEnrolment,
    "agent.removed": AgentEnrolment,
    "agent.online": AgentPresence,
    "agent.offline": AgentPresence,
    "alarm.raised": AlarmRaised,
}
"""Event noun and verb -> the model of its data."""


def event_type(name: str) -> str:
    """`access.granted` -> `io.ostiary.access.granted.v1`."""
    return f"{TYPE_PREFIX}{name}.v1"


def event_name(type: str) -> str:
    """`io.ostiary.access.granted.v1` -> `access.granted`."""
    return type.removeprefix(TYPE_PREFIX).rpartition(".v")[0]


def agent_source(site: str, agent: str) -> str:
    """The CloudEvents source of an agent."""
    return f"/sites/{site}/agents/{agent}"


def server_source(site: str) -> str:
    """The CloudEvents source of the site's server."""
    return f"/sites/{site}/server"


def agent_subject(agent: str) -> str:
    """The CloudEvents subject of what is about an agent."""
    return f"agents/{agent}"


def door_subject(door: str) -> str:
    """The CloudEvents subject of what is about a door, and of all that happens at it."""
    return f"doors/{door}"


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema (2020-12) of each event type's data, by event type, for integrators."""
    return {event_type(name): model.model_json_schema() for name, model in EVENT_DATA.items()}
