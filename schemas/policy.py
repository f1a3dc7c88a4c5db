"""What a door enforces: settings, rules, schedules and cards, as one signed statement."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.names import CardId, Name
from schemas.statement import Statement
from schemas.suites import SuiteName

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TimeOfDay = Annotated[str, Field(pattern=r"^(?:[01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$")]


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


class DoorSettings(_Model):
    """How one door behaves. Times are in seconds unless the name says otherwise."""

    domain: Name = Field(description="the key domain; by default the door alone")
    suite: SuiteName
    key_version: int = Field(default=1, ge=1, le=255, description="preferred version")
    accepted_key_versions: tuple[Annotated[int, Field(ge=1, le=255)], ...] = Field(
        default=(), description="older ones in overlap"
    )
    mutual: bool = Field(default=True, description="the reader proves itself to the card first")
    mode: Literal[DoorMode.LOCKED, DoorMode.UNLOCKED, DoorMode.BLOCKED] = DoorMode.LOCKED
    strike_release_s: float = Field(default=5.0, gt=0, le=120)
    held_prealarm_s: float = Field(default=20.0, gt=0, le=3600, description="open this long warns")
    held_after_s: float = Field(default=30.0, gt=0, le=3600, description="open this long alarms")
    rex_releases: bool = Field(default=True, description="the exit button releases the strike")
    max_response_ms: int = Field(default=500, ge=10, le=5000, description="bound against relays")
    grace_s: int = Field(
        default=86_400, ge=0, le=366 * 86_400, description="how stale the policy may become"
    )

    @model_validator(mode="after")
    def _prealarm_first(self) -> DoorSettings:
        if self.held_prealarm_s >= self.held_after_s:
            raise ValueError("held_prealarm_s must be less than held_after_s")
        return self


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
    domains: tuple[Name, ...] = Field(default=(), description="key domains it is bound in")
    state: CardState = CardState.ACTIVE
    valid_from: AwareDatetime | None = None
    valid_until: AwareDatetime | None = None


class Policy(Statement):
    """One agent's whole policy. `counter` is its version."""

    purpose: Literal["policy"] = "policy"
    timezone: str = "UTC"
    doors: dict[Name, DoorSettings]
    schedules: dict[Name, Schedule] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    cards: tuple[PolicyCard, ...] = ()
    revoked: tuple[CardId, ...] = ()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"unknown time zone {name!r}; use an IANA name") from None
        return name

    @model_validator(mode="after")
    def _whole(self) -> Policy:
        missing = {rule.schedule for rule in self.rules} - set(self.schedules)
        if missing:
            raise ValueError(f"rules name schedules that are not there: {sorted(missing)}")
        if len({card.card for card in self.cards}) != len(self.cards):
            raise ValueError("two entries are for the same card")
        return self
