"""A domain, its locks and a campaign in each of its states, for tests of the rotation's core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from schemas.keys import CheckValues
from server.core.rotation import Campaign, Domain, Lock, Picture
from server.core.rotation_waves import LAST_WAVE

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
DEADLINE = NOW + timedelta(days=30)


def checks(version: int) -> CheckValues:
    return CheckValues(auth=f"{version:06x}", admit="aaaaaa", maintain="bbbbbb")


CHECKS = {version: checks(version) for version in (1, 2, 3)}
DOMAIN = Domain("zone-a", 1, (), 1, CHECKS)
OVERLAP = replace(DOMAIN, preferred=2, accepted=(1,))
AFTER = replace(DOMAIN, preferred=2, accepted=())
RETIRED = replace(AFTER, floor=2)
PLANNED = Campaign("r1", "zone-a", 1, 2, DEADLINE)
STAGING = replace(PLANNED, state="staging")
LAST = replace(STAGING, wave=LAST_WAVE)
STAGED = replace(LAST, state="staged")
ACTIVE = replace(LAST, state="overlap")
RETIRING = replace(LAST, state="retiring")


def picture(*held: int, floor: int = 1, preferred: int = 1, accepted: tuple[int, ...] = ()):
    keys: Mapping[int, CheckValues] = {version: checks(version) for version in held}
    return Picture(keys, floor, preferred, accepted)


OLD = picture(1)
BOTH = picture(1, 2)
PREFERS = picture(1, 2, preferred=2, accepted=(1,))
NEW_ALONE = picture(1, 2, preferred=2)
ERASED = picture(2, floor=2, preferred=2)


def lock(agent: str = "a", has: Picture | None = OLD, **more) -> Lock:
    return Lock(agent, picture=has, **more)
