"""Rotation campaigns: how a key domain moves from one key version to another. Pure.

    planned -> staging -> staged -> overlap -> retiring -> completed

*Staging* gives the locks the new keys, wave after wave, and changes nothing at a door. *Staged*:
all have them. In the *overlap* doors prefer the new version and still take the old one, while cards
get new keys as they come by. *Retiring* ends the old one, first in the policies, then in the chips.
A campaign can be *paused* in between, by an operator or by what goes wrong, and *rolled_back*:
while nothing was activated that forgets it, in the overlap it starts one in the other direction.

What a lock has is known from its own signed word alone (`keys.held`, `Picture`). So nothing here is
lost by a crash: the same look at the same facts gives the same answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from schemas.keys import CheckValues
from server.core.rotation_waves import LAST_WAVE, too_many

State = Literal[
    "planned",
    "staging",
    "staged",
    "overlap",
    "retiring",
    "completed",
    "paused",
    "rolled_back",
]
ENDED: frozenset[State] = frozenset({"completed", "rolled_back"})
BEFORE_ACTIVATION: frozenset[State] = frozenset({"planned", "staging", "staged"})
UNDER_WAY: frozenset[State] = frozenset({"staging", "staged", "overlap", "retiring"})
"""What can be paused."""


class NotNow(Exception):
    """What an operator asked for can't be done in this state; the message says what can."""


@dataclass(frozen=True)
class Picture:
    """What a lock last said of its keys of the domain, and of the versions its doors ask for."""

    held: Mapping[int, CheckValues]
    floor: int
    preferred: int
    accepted: Collection[int]


@dataclass(frozen=True)
class Lock:
    """One agent with doors in the domain. `refusal` is why it last could not take the keys."""

    agent: str
    wave: int = LAST_WAVE
    picture: Picture | None = None
    reachable: bool = True
    quarantined: bool = False
    refusal: str = ""

    def has(self, version: int, checks: CheckValues | None) -> bool:
        """Whether it holds that version, and the right keys of it; `checks` None: its own."""
        held = None if self.picture is None else self.picture.held.get(version)
        if held is None or checks is None or held is checks:  # often: comparing takes longer
            return held is not None
        return held == checks


@dataclass(frozen=True)
class Domain:
    """A key domain as the server wants it. `checks`: None for a secret of the lock's own."""

    name: str
    preferred: int
    accepted: tuple[int, ...]
    floor: int
    checks: Mapping[int, CheckValues | None]


@dataclass(frozen=True)
class Campaign:
    """One move of a domain. `wave` is the last one that may stage; `resumes` what it was paused in.

    `hold`: activation waits for the operator. `leave_behind`: cards that did not come by are left
    with old keys. `destroy`: the old keys are destroyed at the authority at the end.
    """

    id: str
    domain: str
    from_version: int
    to_version: int
    deadline: datetime
    state: State = "planned"
    resumes: State | None = None
    reason: str = ""
    wave: int = 0
    hold: bool = False
    leave_behind: bool = False
    destroy: bool = False
    lockouts: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in ENDED

    @property
    def goes_back(self) -> bool:
        """Whether it undoes another campaign: the version it moves to is older."""
        return self.to_version < self.from_version

    @property
    def standing(self) -> State:
        """The state it is in, or was paused in."""
        return self.resumes or self.state


@dataclass(frozen=True)
class Prefer:
    """Doors of the domain ask for `preferred`, and take `accepted` too."""

    preferred: int
    accepted: tuple[int, ...]


@dataclass(frozen=True)
class RaiseFloor:
    """The authority gives nothing below the floor any more; doors count nothing below it."""

    floor: int


@dataclass(frozen=True)
class Destroy:
    """The authority destroys a version's keys."""

    version: int


Effect = Prefer | RaiseFloor | Destroy


@dataclass(frozen=True)
class Step:
    """What a campaign is now, which `rotation.*` event tells of it, and what follows from it."""

    campaign: Campaign
    event: str | None = None
    detail: str = ""
    effects: tuple[Effect, ...] = field(default=())


def start(campaign: Campaign, *, hold: bool = False) -> Step:
    """Begin to give the locks the new keys. Raises NotNow."""
    _must_be(campaign, {"planned"}, "started")
    return Step(replace(campaign, state="staging", hold=hold), "started")


def pause(campaign: Campaign, reason: str) -> Step:
    """Stop where it is; nothing at a door changes by that. Raises NotNow."""
    _must_be(campaign, UNDER_WAY, "paused")
    paused = replace(campaign, state="paused", resumes=campaign.state, reason=reason)
    return Step(paused, "paused", reason)


def resume(campaign: Campaign) -> Step:
    """Go on where it was paused. Raises NotNow."""
    _must_be(campaign, {"paused"}, "resumed")
    assert campaign.resumes is not None
    return Step(replace(campaign, state=campaign.resumes, resumes=None, reason=""), "resumed")


def activate(campaign: Campaign, locks: Sequence[Lock], checks: CheckValues | None) -> Step:
    """Prefer the new version at all doors. Raises NotNow while a lock in service lacks it."""
    _must_be(campaign, {"staged"}, "activated")
    waiting = lacking(campaign, locks, checks)
    if waiting:
        raise NotNow(
            f"{len(waiting)} locks don't have the new keys, {waiting[0].agent} first: wait, or"
            " put them into quarantine"
        )
    active = replace(campaign, state="overlap", hold=False)
    effect = Prefer(campaign.to_version, (campaign.from_version,))
    return Step(active, "activated", effects=(effect,))


def retire(
    campaign: Campaign,
    locks: Sequence[Lock],
    behind: int,
    now: datetime,
    *,
    leave_behind: bool = False,
    destroy: bool = False,
) -> Step:
    """End the old version. Raises NotNow while live cards are `behind`, before the deadline.

    `behind` must be counted with all that the locks had said by the time of their pictures: a lock
    that prefers the new version binds no more cards by the old one, so then none is missed.
    """
    _must_be(campaign, {"overlap"}, "retired")
    slow = [lock for lock in locks if not (lock.quarantined or _prefers(lock, campaign))]
    if slow:
        raise NotNow(
            f"{len(slow)} locks don't prefer version {campaign.to_version} yet, {slow[0].agent}"
            " first: wait, or put them into quarantine"
        )
    if behind and not leave_behind and now < campaign.deadline:
        raise NotNow(
            f"{behind} live cards have no keys of version {campaign.to_version} yet: they would"
            f" open no door of {campaign.domain} until they are bound again. Wait until"
            f" {campaign.deadline:%Y-%m-%d %H:%M} UTC, or say that they are to be"
            " left behind (`--leave-behind`)"
        )
    retiring = replace(campaign, state="retiring", leave_behind=leave_behind, destroy=destroy)
    return Step(retiring, "retired")


def roll_back(campaign: Campaign, new_id: str) -> tuple[Step, Campaign | None]:
    """Undo it: before activation by forgetting it, in the overlap by one that prefers the old one.

    Raises NotNow: what was retired can't come back, by design.
    """
    where = campaign.standing
    ended = replace(campaign, state="rolled_back", resumes=None, reason="")
    if where in BEFORE_ACTIVATION:
        return Step(ended, "rolled_back", "nothing was activated"), None
    if where != "overlap" or campaign.ended:
        raise NotNow(f"a rotation that is {_now(campaign)} can't be rolled back")
    back = Campaign(
        new_id,
        campaign.domain,
        campaign.to_version,
        campaign.from_version,
        campaign.deadline,
        state="overlap",
    )
    effect = Prefer(campaign.from_version, (campaign.to_version,))
    return Step(ended, "rolled_back", f"by {new_id}", (effect,)), back


def _prefers(lock: Lock, campaign: Campaign) -> bool:
    new = campaign.to_version
    return lock.picture is not None and lock.picture.preferred == new and new in lock.picture.held


def locked_out(campaign: Campaign, card: str, door: str) -> Step:
    """A good card failed at a door in service by its key version: stop, and say where."""
    counted = replace(campaign, lockouts=campaign.lockouts + 1)
    if campaign.state in UNDER_WAY:
        return pause(counted, f"card {card} was refused at door {door} because of its key version")
    return Step(counted)


def advance(campaign: Campaign, locks: Sequence[Lock], domain: Domain) -> Step | None:
    """The next step that is due by itself; None: there is none. Ask again after each step."""
    checks = domain.checks.get(campaign.to_version)
    match campaign.state:
        case "staging":
            return _advance_staging(campaign, locks, checks)
        case "staged" if not campaign.hold and not lacking(campaign, locks, checks):
            return activate(campaign, locks, checks)
        case "retiring":
            return _advance_retiring(campaign, locks, domain)
    return None


def _advance_staging(
    campaign: Campaign, locks: Sequence[Lock], checks: CheckValues | None
) -> Step | None:
    failed = [lock for lock in locks if lock.refusal and not lock.quarantined]
    if too_many(len(failed), len(locks)):
        worst = failed[0]
        return pause(campaign, f"{len(failed)} locks failed; {worst.agent}: {worst.refusal}"[:300])
    if not lacking(campaign, locks, checks):
        return Step(replace(campaign, state="staged", wave=LAST_WAVE), "staged")
    if campaign.wave < LAST_WAVE and _wave_is_done(campaign, locks, checks):
        return Step(replace(campaign, wave=campaign.wave + 1))
    return None


def _wave_is_done(campaign: Campaign, locks: Sequence[Lock], checks: CheckValues | None) -> bool:
    """Nobody who could be asked lacks the keys; and somebody has shown that it can be done."""
    asked = [lock for lock in locks if lock.wave <= campaign.wave and not lock.quarantined]
    has = [lock.has(campaign.to_version, checks) for lock in asked]
    waits = any(lock.reachable and not done for lock, done in zip(asked, has, strict=True))
    return not waits and (any(has) or not asked)


def _advance_retiring(campaign: Campaign, locks: Sequence[Lock], domain: Domain) -> Step | None:
    if lacking(campaign, locks, domain.checks.get(campaign.to_version)):
        return None
    if domain.accepted:
        return Step(campaign, effects=(Prefer(campaign.to_version, ()),))
    pictures = [lock.picture for lock in locks if lock.picture and not lock.quarantined]
    if any(p.preferred != campaign.to_version or p.accepted for p in pictures):
        return None  # a door that still asks for the old version must not lose it
    if not campaign.goes_back:
        if domain.floor < campaign.to_version:
            return Step(campaign, effects=(RaiseFloor(campaign.to_version),))
        if any(picture.floor < campaign.to_version for picture in pictures):
            return None
    gone = campaign.destroy and not campaign.goes_back  # what is above the floor can't go
    effects = (Destroy(campaign.from_version),) if gone else ()
    return Step(replace(campaign, state="completed"), "completed", effects=effects)


def lacking(campaign: Campaign, locks: Sequence[Lock], checks: CheckValues | None) -> list[Lock]:
    """The locks in service that don't have the new keys: they hold the gate."""
    return [
        lock for lock in locks if not lock.quarantined and not lock.has(campaign.to_version, checks)
    ]


@dataclass(frozen=True)
class Order:
    """What a lock is to be told: hold this version, and nothing below the floor."""

    agent: str
    version: int
    checks: CheckValues | None
    floor: int


def order_for(lock: Lock, domain: Domain, campaign: Campaign | None) -> Order | None:
    """What this lock lacks of what it should have; None: nothing, or it is not its turn.

    Without a campaign too: a new lock, one whose chip was changed and one that was away are given
    what the policies ask for. Nothing is erased that the lock's doors may still ask for.
    """
    picture = lock.picture
    wanted = _wanted(domain, campaign if campaign is None or _stages(campaign, lock) else None)
    floor = 1 if picture is None else picture.floor
    for version in wanted:
        if not lock.has(version, domain.checks[version]):
            return Order(lock.agent, version, domain.checks[version], min(floor, version))
    halted = campaign is not None and campaign.state == "paused"
    if not wanted or picture is None or halted:
        return None
    wanted_floor = min(domain.floor, *wanted, picture.preferred, *picture.accepted)
    if floor < wanted_floor:
        return Order(lock.agent, wanted[0], domain.checks[wanted[0]], wanted_floor)
    return None


def is_back(lock: Lock, domain: Domain, campaign: Campaign | None) -> bool:
    """Whether a lock in quarantine has all that it should, and asks for it: it may leave it."""
    picture = lock.picture
    return (
        lock.quarantined
        and picture is not None
        and picture.preferred == domain.preferred
        and set(picture.accepted) == set(domain.accepted)
        and picture.floor >= domain.floor
        and all(lock.has(v, domain.checks[v]) for v in _wanted(domain, campaign))
    )


def _wanted(domain: Domain, campaign: Campaign | None) -> list[int]:
    """The versions a lock must hold, what its doors need most first."""
    wanted = [domain.preferred, *domain.accepted]
    if campaign is not None and campaign.standing in ("staging", "staged"):
        wanted.append(campaign.to_version)
    return [v for v in wanted if v >= domain.floor and v in domain.checks]


def _stages(campaign: Campaign, lock: Lock) -> bool:
    return campaign.state in ("staging", "staged") and lock.wave <= campaign.wave


def _must_be(campaign: Campaign, states: Collection[State], what: str) -> None:
    if campaign.state not in states:
        raise NotNow(
            f"a rotation that is {_now(campaign)} can't be {what}, one that is"
            f" {' or '.join(sorted(states))} can"
        )


def _now(campaign: Campaign) -> str:
    return campaign.state if campaign.resumes is None else f"paused in {campaign.resumes}"
