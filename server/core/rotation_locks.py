"""One lock in a rotation: what it said that it holds, and when it was told what. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from schemas.keys import PACKAGE_LIFE, CheckValues
from server.core.rotation import LAST_WAVE, Domain

FAILED_AFTER = 3
"""A lock that refuses this many orders in a row has failed; it goes on being asked."""
ORDER_WAIT = PACKAGE_LIFE
"""An order without answer is lost after this time: it has expired."""
FIRST_BACK_OFF = timedelta(seconds=5)
LAST_BACK_OFF = timedelta(minutes=10)


@dataclass(frozen=True)
class LockPicture:
    """What a lock's newest keys.held says: read back from its secure element."""

    held: Mapping[int, CheckValues]
    floor: int
    preferred: int
    """What the policy in force at its doors prefers."""
    accepted: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lock:
    """A lock (agent) in service in the domain, as the server knows it."""

    agent: str
    picture: LockPicture | None = None
    """None: never said anything."""
    reachable: bool = False
    """Its agent is present. Orders go to these only."""
    wave: int = LAST_WAVE
    """Of `server.core.rotation_waves`; a lock that came later is in the last."""
    failures: int = 0
    """keys.refused in a row, since the last order that was carried out."""
    orders: int = 0
    """Orders in a row that did not get it further."""
    ordered: datetime | None = None
    """When the last order was sent. None: not since it got further, or was silent."""
    answered: datetime | None = None
    """When the last order was answered. None: it has not been."""


def sent(lock: Lock, now: datetime) -> Lock:
    """An order is on its way."""
    return replace(lock, orders=lock.orders + 1, ordered=now, answered=None)


def said(lock: Lock, picture: LockPicture, now: datetime) -> Lock:
    """The lock's keys.held: after an order, a policy, or its start.

    If it holds other keys or another floor than before, it got further: what it lacks next is
    ordered without delay.
    """
    before = lock.picture
    if before is None or (before.held, before.floor) != (picture.held, picture.floor):
        return replace(lock, picture=picture, failures=0, orders=0, ordered=None, answered=None)
    return replace(lock, picture=picture, answered=now)


def refused(lock: Lock, now: datetime) -> Lock:
    """The lock's keys.refused."""
    return replace(lock, failures=lock.failures + 1, answered=now)


def outstanding(lock: Lock, now: datetime) -> bool:
    """An order is with the lock, and neither answered nor expired."""
    if lock.ordered is None or lock.answered is not None:
        return False
    return now - lock.ordered < ORDER_WAIT


def due(lock: Lock, now: datetime) -> bool:
    """An order may be sent: it is there, none is outstanding, and the back-off is over."""
    if not lock.reachable or outstanding(lock, now):
        return False
    if lock.ordered is None:
        return True
    wait = FIRST_BACK_OFF * float(2 ** min(lock.orders - 1, 10))
    return now - (lock.answered or lock.ordered) >= min(wait, LAST_BACK_OFF)


def holds(picture: LockPicture | None, version: int, checks: CheckValues | None) -> bool:
    """All three keys of the version are there, and are the right ones (`checks` None: any are)."""
    held = None if picture is None else picture.held.get(version)
    return held is not None and (checks is None or held == checks)


class VersionState(StrEnum):
    """One version at one lock (protocol 9)."""

    ABSENT = "absent"
    """Not held, or not wholly, or other keys than it should be."""
    STAGED = "staged"
    """Held; no policy in force there asks for it yet."""
    ACTIVE = "active"
    """Held and preferred."""
    ACCEPT_ONLY = "accept_only"
    """Held and accepted beside the preferred one."""
    RETIRED = "retired"
    """No longer asked for, or erased."""
    DESTROYED = "destroyed"
    """Erased here, and by the key authority."""


def version_state(
    picture: LockPicture | None, version: int, domain: Domain, *, destroyed: bool = False
) -> VersionState:
    """The state of a version at a lock; `destroyed`: the authority has it no more."""
    if picture is None:
        return VersionState.ABSENT
    if version < picture.floor:
        return VersionState.DESTROYED if destroyed else VersionState.RETIRED
    if not holds(picture, version, domain.checks.get(version)):
        return VersionState.ABSENT
    if version == picture.preferred:
        return VersionState.ACTIVE
    if version in picture.accepted:
        return VersionState.ACCEPT_ONLY
    return VersionState.RETIRED if version < picture.preferred else VersionState.STAGED
