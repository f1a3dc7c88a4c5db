"""A policy in force, cut up by doors: what each decision goes by, but for the cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from edge_agent.core.decision import DoorView
from schemas.policy import Policy


@dataclass(frozen=True)
class Applied:
    """`expires` is the policy's own end, if it has one; times are aware."""

    version: int
    hash: str
    issued: datetime
    expires: datetime | None
    doors: Mapping[str, DoorView]

    @classmethod
    def of(cls, policy: Policy, hash: str) -> Applied:
        """The policy as its doors see it."""
        zone = ZoneInfo(policy.timezone)
        doors = {
            name: DoorView(
                settings,
                zone,
                tuple(
                    (rule.group, policy.schedules[rule.schedule])
                    for rule in policy.rules
                    if name in rule.doors
                ),
                None
                if settings.unlock_schedule is None
                else policy.schedules[settings.unlock_schedule],
            )
            for name, settings in policy.doors.items()
        }
        return cls(policy.counter, hash, policy.issued, policy.expires, doors)

    def is_over(self, now: datetime) -> bool:
        """Whether its own time has ended."""
        return self.expires is not None and now >= self.expires
