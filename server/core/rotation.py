"""Rotation campaigns: what an operator may do with one, and what the doors ask meanwhile. Pure.

    planned -> staging -> staged -> overlap -> retiring -> completed
    paused: from staging, staged, overlap and retiring, and back where it was
    rolled_back: before activation the new version is discarded; in the overlap another campaign
    takes over that prefers the old version again; once it retires there is no way back
    failed: the new version can't be had any more; nothing had been activated

The operator's acts are the functions here. What follows by itself, from what the locks say that
they hold, is `server.core.rotation_look`. The functions change nothing: they return the campaign as
it is from now on, and who calls makes that durable before it acts on it. One domain has at most one
campaign that is not `over`: a card has two key slots only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from schemas.keys import MAX_KEY_VERSION, CheckValues

LAST_WAVE = 3
"""Waves are numbered from 0, the canary; in the last one are all other locks."""


class NotNow(Exception):
    """This can't be done with this campaign at present; the text says why, and what to do."""


class State(StrEnum):
    """How far a campaign is."""

    PLANNED = "planned"
    """The version is made; no lock has heard of it."""
    STAGING = "staging"
    """Locks are given the new version, wave by wave. Doors ask for the old one alone."""
    STAGED = "staged"
    """Each lock holds it, or is in quarantine. Goes on by itself unless `hold`."""
    OVERLAP = "overlap"
    """Doors prefer the new version and accept the old one; cards change over as they are used."""
    RETIRING = "retiring"
    """Doors ask for the new version alone; then the old one is erased from every lock."""
    COMPLETED = "completed"
    PAUSED = "paused"
    """An operator, too many failures or a lock-out halted it. What doors ask stays as it is."""
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"


OVER = frozenset({State.COMPLETED, State.ROLLED_BACK, State.FAILED})
RUNNING = frozenset({State.STAGING, State.STAGED, State.OVERLAP, State.RETIRING})
_BEFORE_ACTIVATION = frozenset({State.PLANNED, State.STAGING, State.STAGED})


@dataclass(frozen=True)
class Campaign:
    """One domain on its way from one version of its keys to another. All of it is durable."""

    id: str
    domain: str
    from_version: int
    """What the domain's doors prefer when it is planned."""
    to_version: int
    """Higher, but in a campaign that rolls another back."""
    state: State = State.PLANNED
    wave: int = 0
    """The waves up to this one have been given the new version: 0 to LAST_WAVE."""
    hold: bool = False
    """Stay `staged` until an operator activates."""
    overlap: timedelta = timedelta(days=30)
    """How long after its activation the deadline is."""
    deadline: datetime | None = None
    """From here on it may be retired though cards are behind. Set at activation."""
    paused_in: State | None = None
    """The state it was paused in, and goes back to; None unless `paused`."""
    reason: str = ""
    """Why it is paused, rolled back or failed; for the operator."""
    lock_outs: int = 0
    """Valid cards that were refused at the domain's doors because of key versions."""
    quarantined: frozenset[str] = frozenset()
    """Agents that the campaign doesn't wait for: their doors may refuse cards till they are whole.
    They are still given what they lack, and leave this set by themselves once they are whole."""
    forgiven: frozenset[str] = frozenset()
    """Failed locks that the operator knew of when the campaign was resumed: don't count again."""
    floor: int = 1
    """What the domain's floor must be by now. `to_version` as soon as no lock in service asks for
    the old version any more; then who runs this raises the authority's floor (and with it the
    heartbeat's), before it gives `look` a domain with that floor."""
    reverses: str | None = None
    """The campaign that this one rolls back: it starts where every lock should hold both."""

    @property
    def over(self) -> bool:
        """Nothing will be done for it any more; another may be planned."""
        return self.state in OVER

    @property
    def stage(self) -> State:
        """The state, looking through a pause."""
        return self.paused_in or self.state

    @property
    def upward(self) -> bool:
        """It goes to a higher version, so what it leaves can be erased and destroyed at its end.

        A rolled-back version lies above the floor: it stays in the locks, asked for by no door,
        until a later campaign raises the floor over it.
        """
        return self.to_version > self.from_version


@dataclass(frozen=True)
class Versions:
    """What all doors of a domain ask of cards: table `domain_versions`."""

    preferred: int = 1
    accepted: tuple[int, ...] = ()


def versions(campaign: Campaign) -> Versions | None:
    """What the doors must ask now. None: the campaign no longer says (rolled back, failed).

    Whenever a campaign changes, this is written to `domain_versions` in the same transaction, and
    the policies are compiled anew.
    """
    old, new = campaign.from_version, campaign.to_version
    match campaign.stage:
        case State.PLANNED | State.STAGING | State.STAGED:
            return Versions(old, (new,) if campaign.reverses else ())
        case State.OVERLAP:
            return Versions(new, (old,))
        case State.RETIRING | State.COMPLETED:
            return Versions(new)
    return None


@dataclass(frozen=True)
class Domain:
    """A key domain as it stands: what doors ask, what is retired, which keys are the right ones."""

    asked: Versions
    floor: int
    """The authority's (for a lock's own secret: the server's record). Never goes down."""
    checks: dict[int, CheckValues | None]
    """By version, of every version at or above the floor that a lock may be told to hold. None: the
    lock draws these keys itself, so that any are right."""


def plan(
    identity: str,
    domain: str,
    asked: Versions,
    to_version: int,
    others: Iterable[Campaign],
    *,
    hold: bool = False,
    overlap: timedelta = timedelta(days=30),
) -> Campaign:
    """A new campaign; `others` are those there were of this domain, in the order of their planning.

    `to_version` must be newer than any the domain ever had (the authority's `new_version` gives
    it; plan with the number it will give before it is made). Raises NotNow.
    """
    past = list(others)
    for other in past:
        if not other.over:
            raise NotNow(
                f"campaign {other.id} of domain {domain} is {other.state}: finish or roll it back"
                " first. A card has two key slots, so it can follow one campaign at a time"
            )
    if asked.accepted:
        raise NotNow(f"the doors of domain {domain} still accept version {asked.accepted[0]}")
    newest = max((asked.preferred, *(max(o.from_version, o.to_version) for o in past)))
    if not newest < to_version <= MAX_KEY_VERSION:
        raise NotNow(
            f"version {to_version} of domain {domain} can't be next: {newest} was there already,"
            f" and {MAX_KEY_VERSION} is the last"
        )
    quarantined = past[-1].quarantined if past else frozenset[str]()
    return Campaign(
        identity,
        domain,
        asked.preferred,
        to_version,
        hold=hold,
        overlap=overlap,
        quarantined=quarantined,
    )


def start(campaign: Campaign) -> Campaign:
    """Begin to give locks the new version. Raises NotNow."""
    _only(campaign, State.PLANNED, "started")
    return replace(campaign, state=State.STAGING)


def pause(campaign: Campaign, reason: str) -> Campaign:
    """Halt: no further lock is given the new version or loses the old one. Raises NotNow."""
    _only(campaign, RUNNING, "paused")
    return replace(campaign, state=State.PAUSED, paused_in=campaign.state, reason=reason)


def resume(campaign: Campaign, failing: Collection[str] = ()) -> Campaign:
    """Go on; the locks that fail now (`Progress.failed`) no longer halt it. Raises NotNow."""
    _only(campaign, State.PAUSED, "resumed")
    return replace(
        campaign,
        state=campaign.stage,
        paused_in=None,
        reason="",
        forgiven=campaign.forgiven | frozenset(failing),
    )


def activate(campaign: Campaign, now: datetime) -> Campaign:
    """Let doors prefer the new version. Raises NotNow, also while a lock lacks it."""
    _only(campaign, State.STAGED, "activated")
    return replace(
        campaign, state=State.OVERLAP, wave=LAST_WAVE, deadline=now + campaign.overlap, hold=False
    )


def quarantine(campaign: Campaign, agents: Collection[str], known: Collection[str]) -> Campaign:
    """Go on without these locks: their doors may refuse cards. Raises NotNow.

    `known` are the agents of the domain's locks.
    """
    _only(campaign, RUNNING | {State.PLANNED, State.PAUSED}, "changed")
    strangers = sorted(set(agents).difference(known))
    if strangers:
        raise NotNow(f"{strangers[0]} has no door in domain {campaign.domain}")
    return replace(campaign, quarantined=campaign.quarantined | frozenset(agents))


def rollback(campaign: Campaign, identity: str, reason: str) -> tuple[Campaign, Campaign | None]:
    """Give the new version up: the campaign, rolled back, and who takes over, if one must.

    Before activation there is none: doors never asked for the new version. In the overlap the
    second, of id `identity`, prefers the old version again. It passes the gate as any: locks hold
    both, so mostly at once. Raises NotNow; once a version is being retired it is too late.
    """
    if campaign.over or campaign.stage is State.RETIRING:
        raise NotNow(
            f"campaign {campaign.id} is {campaign.stage}: locks may have lost version"
            f" {campaign.from_version}. Plan a campaign to a new version"
        )
    if campaign.reverses and campaign.stage in _BEFORE_ACTIVATION:
        raise NotNow(f"campaign {campaign.id} is on its way back already")
    ended = replace(campaign, state=State.ROLLED_BACK, paused_in=None, reason=reason)
    if campaign.stage in _BEFORE_ACTIVATION:
        return ended, None
    back = Campaign(
        identity,
        campaign.domain,
        campaign.to_version,
        campaign.from_version,
        State.STAGING,
        wave=LAST_WAVE,
        overlap=campaign.overlap,
        quarantined=campaign.quarantined,
        reverses=campaign.id,
    )
    return ended, back


def retire(
    campaign: Campaign, behind: int, now: datetime, *, leave_behind: bool = False
) -> Campaign:
    """End the overlap: doors ask for the new version alone, and the old one is erased after that.

    `behind` counts the live cards (active, bound in the domain, not expired) that have not shown
    the new version: a binding's version is that of its newest card.bound or card.rekeyed, or of an
    access.granted with the version that doors prefer. They will be refused from now on. Raises
    NotNow while there are any, unless the deadline has passed or `leave_behind` is said.
    """
    _only(campaign, State.OVERLAP, "retired")
    over = campaign.deadline is not None and now >= campaign.deadline
    if behind and not over and not leave_behind:
        raise NotNow(
            f"{behind} cards have not been used since version {campaign.to_version} of domain"
            f" {campaign.domain} is active: wait for them, or leave them behind and bind them again"
        )
    return replace(campaign, state=State.RETIRING)


def lock_out(campaign: Campaign) -> Campaign:
    """A valid card was refused at a door of the domain because of key versions: count, and halt.

    For access.denied with key_version_unsupported, key_version_retired or
    secure_element_unavailable, of a card that is active and bound there, at a lock that is not in
    quarantine. While retiring it is what the operator accepted, and before the start no concern.
    """
    if campaign.stage not in (State.STAGING, State.STAGED, State.OVERLAP):
        return campaign
    counted = replace(campaign, lock_outs=campaign.lock_outs + 1)
    if campaign.state is State.PAUSED:
        return counted
    return pause(counted, "a valid card was refused because of its key version")


def fail(campaign: Campaign, reason: str) -> Campaign:
    """The new version can't be had any more (lost, compromised). Raises NotNow once it is active:
    roll back then."""
    if campaign.over or campaign.stage not in _BEFORE_ACTIVATION or campaign.reverses:
        raise NotNow(f"campaign {campaign.id} is {campaign.stage}: roll it back instead")
    return replace(campaign, state=State.FAILED, paused_in=None, reason=reason)


def _only(campaign: Campaign, states: State | Collection[State], done: str) -> None:
    allowed = (states,) if isinstance(states, State) else states
    if campaign.state not in allowed:
        names = " or ".join(sorted(allowed))
        raise NotNow(
            f"campaign {campaign.id} is {campaign.state}: it can be {done} only while {names}"
        )
