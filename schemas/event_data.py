"""What agents' events say: the model of each one's data.

`schemas.events.EVENT_DATA` says which event has which.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from schemas.command import CommandId
from schemas.keys import MAX_VERSIONS, CheckValues, EsamSerial, KeyVersion
from schemas.names import CardId, DigestHex, Name
from schemas.policy import DoorMode
from schemas.reasons import Reason
from schemas.suites import SuiteName
from schemas.transport import TransportSource


class EventData(BaseModel):
    """The base of every event's data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClockStatus(EventData):
    """How far the event's time can be trusted."""

    status: Literal["synced", "holdover", "untrusted"]
    offset_ms: float | None = Field(default=None, description="known error, if any is known")


class Latency(EventData):
    """Milliseconds since the card entered the field."""

    decision: float
    strike: float | None = None


class AgentData(EventData):
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
    """The newest answered heartbeat is this old: `doors` are past their limit, or within again."""

    heartbeat_age_s: float | None = Field(
        description="of the newest heartbeat that named nothing the agent lacked; null: none did"
    )
    doors: tuple[Name, ...]


class EsamData(AgentData):
    """The ESAM with this serial can be used again."""

    serial: EsamSerial
    domains: tuple[Name, ...]


class EsamUnavailable(EsamData):
    """The ESAM can't be used: doors of its domains let nobody in, and let out.

    Only one that is `worn_out` still opens them: it takes no new keys.
    """

    reason: Literal["missing", "removed", "wrong_serial", "unfit", "worn_out"]
    detail: Annotated[str, StringConstraints(max_length=500)]


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


class DoorData(EventData):
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


class CardData(DoorData):
    """Data of an event about the keys on a card; `command` opened the window, if one did."""

    card: CardId
    domain: Name
    command: CommandId | None = None


class CardBound(CardData):
    """A card now holds keys of this domain."""

    key_version: KeyVersion
    person: Name | None = Field(default=None, description="that the window was for")
    transport: TransportSource = TransportSource.DESK


class CardUnbound(CardData):
    """The domain's keys are erased from the card."""


class CardRekeyed(CardData):
    """The card was given another version of the domain's keys, after it had opened the door."""

    from_version: KeyVersion
    key_version: KeyVersion


class CardNotRekeyed(CardData):
    """A card that should have been given another version took it not; it goes on as it is."""

    from_version: KeyVersion
    key_version: KeyVersion
    detail: Annotated[str, StringConstraints(max_length=200)]


class WindowEnded(DoorData):
    """What came of a card in a window, if it is not `card.bound` or `card.unbound`.

    `outcome` is that of the card's script, a refusal of the server (`schemas.transport`), or what
    docs/binding.md lists. The window goes on until its end, but for `nobody_came` and `replaced`.
    """

    command: CommandId
    card: CardId | None
    person: Name | None
    domain: Name
    outcome: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}$")]
    detail: Annotated[str, StringConstraints(max_length=200)]


class KeysHeld(AgentData):
    """The keys a lock has of a domain, read back from its secure element, and which it asks for.

    Said after each order about keys, each change of versions by a policy, and at the start.
    """

    domain: Name
    suite: SuiteName
    esam: EsamSerial | None = Field(description="none: the element in software")
    held: dict[KeyVersion, CheckValues] = Field(max_length=MAX_VERSIONS)
    floor: KeyVersion
    preferred: KeyVersion
    accepted: tuple[KeyVersion, ...]


class KeysRefused(AgentData):
    """An order about keys could not be carried out: nothing that was held is lost."""

    domain: Name
    version: KeyVersion
    reason: Literal["unavailable", "worn_out", "full", "not_given", "wrong_key", "failed"]
    detail: Annotated[str, StringConstraints(max_length=500)]
