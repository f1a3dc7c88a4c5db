"""What the server's own events say: the model of each one's data.

`schemas.events.EVENT_DATA` says which event has which.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints

from schemas.command import CommandId
from schemas.event_data import EventData
from schemas.keys import CheckValues, EsamSerial, Item, KeyVersion
from schemas.names import CardId, DigestHex, Name
from schemas.transport import TransportSource


class AlarmRaised(EventData):
    """The server refused or missed something; repeats within a minute are counted, not repeated."""

    kind: str
    agent: str | None
    detail: Annotated[str, StringConstraints(max_length=500)]
    count: int = 1


class ServerData(EventData):
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


class KeyVersionMade(ServerData):
    """The key authority made the keys of a version; `home` is where they are."""

    domain: Name
    version: KeyVersion
    check_values: CheckValues
    home: str


class KeyVersionDestroyed(ServerData):
    """A version's keys are gone for ever: no ESAM can be given them any more."""

    domain: Name
    version: KeyVersion


class KeyFloorRaised(ServerData):
    """Versions below the floor are retired: they are given to no ESAM, and erased from each."""

    domain: Name
    floor: KeyVersion


class KeyPackageMade(ServerData):
    """The key authority used a key: a package for one ESAM and one challenge of it."""

    domain: Name
    version: KeyVersion
    item: Item
    esam: EsamSerial
    agent: Name
    check_values: CheckValues | None = Field(description="none for a floor")


class EsamChanged(ServerData):
    """An ESAM was made known to the key authority, or its state changed."""

    esam: EsamSerial
    agent: Name
    state: str
    domains: tuple[Name, ...] = Field(description="that it may be given")


class KeysCopied(ServerData):
    """The keys were backed up or restored; `shares` of 0: under the site's key-encryption key."""

    versions: int
    esams: int
    shares: int
    needed: int


class TransportKeysChanged(ServerData):
    """Transport keys of new cards were made known to the key authority, or forgotten."""

    source: TransportSource
    cards: int = Field(description="how many of a list; 0 for a master key or a default")
    action: Literal["added", "removed"]


class TransportKeyGiven(ServerData):
    """The key authority told a lock the transport key of one card."""

    agent: Name
    card: CardId
    command: CommandId
    source: TransportSource
    lent_to: EsamSerial | None = None


class RotationChanged(ServerData):
    """A campaign that moves a key domain to another version took a step."""

    rotation: str
    domain: Name
    from_version: KeyVersion
    to_version: KeyVersion
    state: str
    detail: Annotated[str, StringConstraints(max_length=500)] = ""
