"""The short word of the server that tells an agent what is newest; its age is the staleness.

One for each agent, not one for all: it names that agent's own policy and key domains, so nobody can
withhold a policy from one door while showing it fresh heartbeats (freeze): one that names more than
the agent has makes no door fresh. It stays within 512 bytes of payload, however many doors.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.names import Name
from schemas.statement import Statement
from schemas.versions import LogHead, Version

INTERVAL_S = 30.0
FRESH_S = 90.0
"""A door whose newest answered heartbeat is older than this is stale: it decides, and says so."""


class Heartbeat(Statement):
    """`counter` is the time of issue in microseconds since 1970, and always goes up."""

    purpose: Literal["heartbeat"] = "heartbeat"
    root: int = Field(ge=1, description="newest version of the root document")
    policy: Version | None = Field(description="newest policy of this agent; none yet: null")
    revocation: LogHead
    lockdown: int = Field(ge=0, description="counter of the newest lockdown statement; 0: none yet")
    key_floors: dict[Name, Annotated[int, Field(ge=1, le=255)]] = Field(
        default_factory=dict, max_length=16, description="key domain -> lowest version that counts"
    )
