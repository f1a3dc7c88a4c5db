"""Event types and their data, as CloudEvents 1.0.

An agent builds the data of each event from the model here; JSON Schema for integrators is
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
    Field,
    StringConstraints,
    model_validator,
)

from schemas.names import CardId, ChainId, DigestHex, Name
from schemas.policy import DoorMode
from schemas.reasons import Reason

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


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClockStatus(_Data):
    """How far the event's time can be trusted."""

    status: Literal["synced", "holdover", "untrusted"]
    offset_ms: float | None = Field(default=None, description="known error, if any is known")


class Latency(_Data):
    """Milliseconds since the card entered the field."""

    decision: float
    strike: float | None = None


class AgentData(_Data):
    """Data of an event that is about the agent itself."""

    clock: ClockStatus


class AgentStarted(AgentData):
    """The agent process began; `doors` is what its contacts showed then."""

    cause: Literal["first_start", "start", "restart_after_kill"]
    version: str
    doors: dict[Name, Literal["open", "closed", "fault", "unknown"]]
    policy_version: int | None


class ClockStepped(AgentData):
    """The wall clock moved against the monotonic one by `step_ms`."""

    step_ms: float


class BufferHigh(AgentData):
    """The event store is at least 90 % full."""

    stored: int
    capacity: int


class EventsLost(AgentData):
    """Events that could not be stored, by the agent's own count."""

    count: int
    lost_from: AwareDatetime
    lost_until: AwareDatetime
    why: Literal["buffer_full", "storage_error"]


class PolicyApplied(AgentData):
    """The receipt for a policy: the agent now enforces this version."""

    policy_version: int
    hash: DigestHex


class StatementRejected(AgentData):
    """Something that claimed to come from the server was refused.

    `reason` names the refusal (`schemas.errors`), `purpose` what it was taken for. The first at
    once; repeats within a minute are counted.
    """

    purpose: str
    reason: str
    detail: Annotated[str, StringConstraints(max_length=500)]
    count: int = 1


class RevocationApplied(AgentData):
    """The receipt for the revocation log up to and including `sequence`."""

    sequence: int
    hash: DigestHex
    entries: int = Field(description="how many were new")
    snapshot: bool = False


class LockdownApplied(AgentData):
    """The receipt for the lockdowns in force; `doors` are those of this agent that are shut."""

    counter: int
    doors: tuple[Name, ...]


class RootApplied(AgentData):
    """The agent now pins this root document."""

    version: int


class CertificateApplied(AgentData):
    """The agent has a new TLS certificate."""

    until: AwareDatetime


class FreshnessChanged(AgentData):
    """The newest heartbeat is this old; `doors` have passed their limit (or are within again)."""

    heartbeat_age_s: float | None
    doors: tuple[Name, ...]


class CommandData(AgentData):
    """What every result of a command says."""

    command: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    action: str
    door: Name | None


class CommandExecuted(CommandData):
    """The command was carried out. `latency_ms` is from its time of issue to the act."""

    latency_ms: float | None


class CommandRefused(CommandData):
    """The command was not carried out; `reason` names the refusal."""

    reason: str
    detail: Annotated[str, StringConstraints(max_length=500)]


class DoorData(_Data):
    """Data of an event at a door."""

    door: Name
    clock: ClockStatus


class DoorOpened(DoorData):
    """The contact opened; `after` says what made it legitimate."""

    after: Literal["access", "rex", "command", "mode", "nothing"]


class DoorHeld(DoorData):
    """The door stands open for this long."""

    open_s: float


class ModeChanged(DoorData):
    """The door's mode (ONVIF DoorMode) changed."""

    mode: DoorMode
    cause: Literal["access", "rex", "policy", "relock", "command", "lockdown", "schedule"]


class DoorFault(DoorData):
    """The door's hardware can't be read or driven."""

    detail: Annotated[str, StringConstraints(max_length=500)]


class AccessData(DoorData):
    """What every access event says."""

    direction: Literal["in", "out"]
    card: CardId | None = Field(description="as the card claims it; proved only when granted")
    person: Name | None = None
    domain: Name
    key_version: int | None = None
    method: Literal["card", "none"] = "card"
    decided_by: Literal["edge", "override"] = "edge"
    policy_version: int | None
    policy_age_s: float | None
    freshness: Literal["fresh", "stale", "expired", "none"] = "none"
    revocation_seq: int | None = None
    latency_ms: Latency


class AccessGranted(AccessData):
    """The door lets the holder pass; durable before the strike moves."""

    response_ms: float = Field(description="how long the card took to answer the challenge")


class AccessDenied(AccessData):
    """The door stays shut, and why."""

    reason: Reason
    response_ms: float | None = None
    detail: Annotated[str, StringConstraints(max_length=200)] | None = None


class AccessOutcome(DoorData):
    """What came of a grant: the door was opened, or not, before the strike relocked."""

    card: CardId | None
    person: Name | None
    grant: str = Field(description="id of the access.granted event")
    latency_ms: Latency


class CardBound(DoorData):
    """A card now holds keys of this domain."""

    card: CardId
    domain: Name
    key_version: int


class AlarmRaised(_Data):
    """The server refused or missed something; repeats within a minute are counted, not repeated."""

    kind: str
    agent: str | None
    detail: Annotated[str, StringConstraints(max_length=500)]
    count: int = 1


class ServerData(_Data):
    """Data of what the server itself says; `by` is the operator, token or part that caused it."""

    by: Annotated[str, StringConstraints(max_length=100)]


class ModelChanged(ServerData):
    """An object of the management model was made, changed or removed."""

    kind: str
    id: str
    action: Literal["created", "updated", "deleted"]


class AgentPresence(ServerData):
    """The server began or ceased to hear an agent; `why` is for a person."""

    agent: Name
    last_heard: AwareDatetime | None
    why: str


class AgentEnrolment(ServerData):
    """A step in the life of an agent's identity."""

    agent: Name
    keyid: DigestHex | None = None


class PolicyPublished(ServerData):
    """A new policy for one agent is signed and on its way."""

    agent: Name
    policy_version: int
    hash: DigestHex
    cards: int
    chunks: int = Field(description="chunks that were not there before")


class RevocationRequested(ServerData):
    """An entry was added to the revocation log."""

    sequence: int
    kind: str
    subject: str
    reason: str


class RevocationOverdue(ServerData):
    """An agent has not confirmed an entry in time: its doors still let these cards in."""

    agent: Name
    doors: tuple[Name, ...]
    sequence: int = Field(description="newest entry it has not confirmed")
    applied: int = Field(description="what it has confirmed")
    waiting_s: float


class LockdownChanged(ServerData):
    """A lockdown began or ended."""

    lockdown: Name
    scope: str
    name: Name
    counter: int


class CommandSent(ServerData):
    """An operator told a door to do something."""

    command: str
    agent: Name
    door: Name | None
    action: str


class RootPublished(ServerData):
    """The site has a new root document."""

    version: int


class TokenChanged(ServerData):
    """An API token was made or withdrawn."""

    token: str
    action: Literal["created", "revoked"]


EVENT_DATA: dict[str, type[_Data]] = {
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
