"""What a door enforces: settings, rules, schedules and cards, as one signed statement."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from schemas.names import CardId, DigestHex, Name
from schemas.statement import Statement
from schemas.suites import SuiteName

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Slot = Annotated[str, Field(pattern=r"^[0-3][0-9a-f]$")]
"""Where in a policy's tree of cards: two hex digits, 00 to 3f."""
TimeOfDay = Annotated[str, Field(pattern=r"^(?:[01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$")]


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name!r}; use an IANA name") from None
    return name


TimeZone = Annotated[str, StringConstraints(max_length=64), AfterValidator(_known_zone)]
"""An IANA name that this machine knows, such as Asia/Shanghai."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TimeRange(_Model):
    """A half-open interval [start, end) of local wall time; `24:00` is the end of the day."""

    start: TimeOfDay
    end: TimeOfDay

    @model_validator(mode="after")
    def _in_order(self) -> TimeRange:
        if self.start >= self.end:
            raise ValueError(f"{self.start} is not before {self.end}; split windows at midnight")
        return self


class Window(TimeRange):
    """A time range on some days of the week."""

    days: tuple[Weekday, ...] = Field(min_length=1)


class Schedule(_Model):
    """Weekly windows; on a special day its ranges stand in place of the weekly ones."""

    windows: tuple[Window, ...] = ()
    special_days: dict[dt.date, tuple[TimeRange, ...]] = Field(default_factory=dict)


class Rule(_Model):
    """Members of `group` may pass `doors` while `schedule` is open. Rules form a union."""

    group: Name
    doors: tuple[Name, ...] = Field(min_length=1)
    schedule: Name


class DoorMode(StrEnum):
    """ONVIF DoorMode."""

    LOCKED = "locked"
    UNLOCKED = "unlocked"
    ACCESSED = "accessed"
    BLOCKED = "blocked"
    LOCKED_DOWN = "locked_down"
    LOCKED_OPEN = "locked_open"


class DoorBehaviour(_Model):
    """What does not name anything else. Times are in seconds unless the name says otherwise."""

    mutual: bool = Field(default=True, description="the reader proves itself to the card first")
    mode: Literal[DoorMode.LOCKED, DoorMode.UNLOCKED, DoorMode.BLOCKED] = DoorMode.LOCKED
    strike_release_s: float = Field(default=5.0, gt=0, le=120)
    held_prealarm_s: float = Field(default=20.0, gt=0, le=3600, description="open this long warns")
    held_after_s: float = Field(default=30.0, gt=0, le=3600, description="open this long alarms")
    rex_releases: bool = Field(default=True, description="the exit button releases the strike")
    max_response_ms: int = Field(default=500, ge=10, le=5000, description="bound against relays")
    grace_s: int = Field(
        default=86_400,
        ge=0,
        le=366 * 86_400,
        description="how old the newest heartbeat may become before nobody is let in",
    )

    @model_validator(mode="after")
    def _prealarm_first(self) -> Self:
        if self.held_prealarm_s >= self.held_after_s:
            raise ValueError("held_prealarm_s must be less than held_after_s")
        return self


class DoorSettings(DoorBehaviour):
    """How one door behaves, and what it names."""

    domain: Name = Field(description="the key domain; by default the door alone")
    suite: SuiteName
    key_version: int = Field(default=1, ge=1, le=255, description="preferred version")
    accepted_key_versions: tuple[Annotated[int, Field(ge=1, le=255)], ...] = Field(
        default=(), description="others that open too, while keys are rotated"
    )
    unlock_schedule: Name | None = Field(
        default=None, description="while it is open, a locked door is unlocked"
    )
    areas: tuple[Name, ...] = Field(
        default=(), max_length=16, description="where it leads, and every area around that"
    )


class CardState(StrEnum):
    """What the centre says of a card. `not_yet_active` and `expired` are derived at the door."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    LOST = "lost"
    STOLEN = "stolen"
    DAMAGED = "damaged"
    REVOKED = "revoked"


class PolicyCard(_Model):
    """One card: whose it is, where it is bound, and while it is valid: [from, until)."""

    card: CardId
    person: Name
    groups: tuple[Name, ...] = ()
    group_ends: dict[Name, AwareDatetime] = Field(
        default_factory=dict, description="memberships that end: from then on the group is not one"
    )
    domains: tuple[Name, ...] = Field(default=(), description="key domains it is bound in")
    state: CardState = CardState.ACTIVE
    valid_from: AwareDatetime | None = None
    valid_until: AwareDatetime | None = None
    offline: bool = Field(default=False, description="admitted also while the policy is expired")
    card_cleared: int = Field(
        default=0, ge=0, description="revocations of the card up to this sequence are answered"
    )
    person_cleared: int = Field(
        default=0, ge=0, description="revocations of the person up to this sequence are answered"
    )

    def groups_at(self, now: dt.datetime) -> frozenset[str]:
        """The groups its holder is a member of."""
        return frozenset(
            g for g in self.groups if g not in self.group_ends or now < self.group_ends[g]
        )


class Policy(Statement):
    """One agent's policy, but for the cards: those come in chunks that this names by digest.

    `counter` is the version. A change of one card changes one leaf, the index above it, and this.
    `schemas.card_chunks` has the tree.
    """

    purpose: Literal["policy"] = "policy"
    timezone: TimeZone = "UTC"
    doors: dict[Name, DoorSettings] = Field(max_length=64)
    schedules: dict[Name, Schedule] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    levels: Literal[1, 2] = Field(default=1, description="1: `cards` names leaves; 2: indexes")
    cards: dict[Slot, DigestHex] = Field(default_factory=dict, description="slot -> chunk digest")

    @model_validator(mode="after")
    def _whole(self) -> Policy:
        named = {rule.schedule for rule in self.rules}
        named |= {door.unlock_schedule for door in self.doors.values() if door.unlock_schedule}
        missing = named - set(self.schedules)
        if missing:
            raise ValueError(f"schedules are named that are not there: {sorted(missing)}")
        return self
