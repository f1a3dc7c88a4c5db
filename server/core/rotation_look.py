"""What follows for a campaign, and for a domain without one, from what its locks hold. Pure.

`look` is called when something changed (a lock spoke, came or went, the operator acted, the floor
was raised) and every few seconds for the sake of back-off and deadlines; many changes may wait for
one look. It costs some ten microseconds a lock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from schemas.keys import CheckValues
from server.core.rotation import Campaign, Domain
from server.core.rotation_locks import Lock, VersionState

AT_ONCE = 64
"""No more orders than this are outstanding at any time in one domain."""
FAILURE_LIMIT = 0.005
"""A campaign pauses when more than this part of its locks have failed."""


@dataclass(frozen=True)
class Order:
    """What one lock is to be told now: a StageOrder."""

    agent: str
    version: int
    check_values: CheckValues | None
    floor: int
    """The lock's own floor as it is, or, for a lock that holds and prefers the domain's, that."""


@dataclass(frozen=True)
class LockView:
    """One lock for the operator."""

    agent: str
    wave: int
    old: VersionState
    """Of `from_version`."""
    new: VersionState
    """Of `to_version`."""
    whole: bool
    """It holds all that is asked of it now."""
    quarantined: bool
    reachable: bool
    failed: bool
    why: str
    """What the campaign waits for at this lock; empty if for nothing."""


@dataclass(frozen=True)
class Progress:
    """How far a campaign is."""

    locks: int
    counts: Mapping[VersionState, int]
    """Locks by the state of the new version."""
    waiting: tuple[str, ...]
    """Locks that the next step waits for: not in quarantine, and not there yet."""
    failed: frozenset[str]
    """Locks that refused several orders in a row (give these to `resume`)."""
    unreachable: frozenset[str]
    behind: int
    """Live cards that have not shown the new version (see `retire`)."""


@dataclass(frozen=True)
class Outlook:
    """What is to be done now."""

    campaign: Campaign | None
    """As it is from now on. If it is not what was given: make it durable with `versions()` of it,
    then send the orders. `completed` and `upward`: destroy what is below `to_version`."""
    orders: tuple[Order, ...]
    """Send each, and replace its lock by `sent(lock, now)`."""
    progress: Progress | None
    """None without a campaign."""


def look(
    campaign: Campaign | None,
    domain: Domain,
    locks: Collection[Lock],
    behind: int,
    now: datetime,
    *,
    at_once: int = AT_ONCE,
) -> Outlook:
    """The next steps for a domain; `campaign` is the one that is not over, if there is one.

    `locks` are all in service in the domain, those in quarantine too; `domain` is as it stands
    before the steps. `behind` counts live cards (see `retire`) and is only passed on.
    """
    raise NotImplementedError


def view(
    campaign: Campaign, domain: Domain, lock: Lock, now: datetime, *, destroyed: bool = False
) -> LockView:
    """What the operator sees of one lock. `destroyed`: the authority destroyed `from_version`."""
    raise NotImplementedError
