"""What an agent says of itself, signed: that it lives, and what it has applied.

At once on connection, every ten seconds, and after every change. Receipts proper are events
(`policy.applied`, `revocation.applied`, ...): they are chained, stored for ever and come once. A
report is only the newest picture, and the sign of life.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from schemas.command import Session
from schemas.event_data import ClockStatus
from schemas.names import ChainId, DigestHex, Name
from schemas.policy import DoorMode
from schemas.statement import Statement
from schemas.versions import LogHead, Version

INTERVAL_S = 10.0
OFFLINE_AFTER_S = 25.0
"""Two reports in a row missing, and some time for the third to be late."""
MAX_REPORT_BYTES = 16 * 1024


class DoorReport(BaseModel):
    """One door as the agent sees it now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contact: Literal["open", "closed", "fault", "unknown"]
    mode: DoorMode
    freshness: Literal["fresh", "stale", "expired", "none"]


class Report(Statement):
    """`counter` counts the reports of one session from 1."""

    purpose: Literal["report"] = "report"
    session: Session
    root: int = Field(ge=1, lt=2**63)
    policy: Version | None
    revocation: LogHead
    lockdown: int = Field(ge=0, lt=2**63)
    command: int = Field(ge=0, lt=2**63, description="counter of the last command that was taken")
    chain: ChainId
    waiting: int = Field(ge=0, lt=2**63, description="events not yet acknowledged")
    doors: dict[Name, DoorReport] = Field(max_length=64)
    clock: ClockStatus
    version: Annotated[str, StringConstraints(max_length=40)] = Field(description="of the software")
    certificate_until: AwareDatetime | None = Field(default=None, description="end of its TLS one")
    leaving: bool = Field(default=False, description="the last word before an orderly stop")


class Pull(Statement):
    """What the agent lacks. `counter` counts within the session, apart from reports."""

    purpose: Literal["pull"] = "pull"
    session: Session
    root_after: int | None = Field(default=None, ge=1)
    policy: bool = False
    revocation_after: int | None = Field(default=None, ge=0)
    lockdown: bool = False
    chunks: tuple[DigestHex, ...] = Field(default=(), max_length=32)
