"""May this card pass this door now? One pure function; everything it knows is in its arguments.

The order of evaluation is fixed: revocation (of card, person or key version), lockdown, door mode,
card proof (lockout, outcome, answer time), freshness of policy and clock, binding and key version,
card state and validity, rule and schedule. The first that says no is the reason.

The way out is never shut by a stale policy, a lockdown, a wrong clock, a broken secure element, or
a lockout: who is outside could cause that with a copied serial, to hold someone in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

from edge_agent.core.freshness import freshness
from edge_agent.core.proof import Proof, ProofOutcome
from edge_agent.core.schedule import is_open
from schemas.policy import CardState, DoorMode, DoorSettings, PolicyCard, Schedule
from schemas.reasons import Reason
from schemas.revocation import RevocationReason

Direction = Literal["in", "out"]


@dataclass(frozen=True)
class DoorView:
    """What the policy says of one door: settings, and each group with a schedule it may use.

    While `unlock` is open, a locked door is left free.
    """

    settings: DoorSettings
    zone: ZoneInfo
    rules: Sequence[tuple[str, Schedule]] = ()
    unlock: Schedule | None = None


@dataclass(frozen=True)
class Denial:
    """An entry of the revocation log that counts against a card or its holder."""

    sequence: int
    reason: RevocationReason


@dataclass(frozen=True)
class Circumstances:
    """What holds at the door at the moment of the tap. `now` is aware.

    `heartbeat_age_s` is None if the server was never heard; `policy_over` says that there is no
    policy, or that its own time is over. `mode` is the door's but for lockdowns.
    """

    direction: Direction
    now: datetime
    heartbeat_age_s: float | None
    policy_over: bool = False
    clock_trusted: bool = True
    mode: DoorMode = DoorMode.LOCKED
    exempt: frozenset[str] | None = None
    """Groups that may pass a door that is locked down; None: it is not."""
    locked_out_s: float = 0.0
    denied_versions: frozenset[int] = frozenset()
    """Key versions of the door's domain that were revoked."""
    key_floor: int = 1
    """The lowest key version that counts, whatever the policy accepts."""


@dataclass(frozen=True)
class Decision:
    """The answer. `reason` is None when granted; `detail` is for a person."""

    granted: bool
    reason: Reason | None = None
    detail: str | None = None


GRANTED = Decision(granted=True)

_STATES = {
    CardState.SUSPENDED: Reason.CARD_SUSPENDED,
    CardState.LOST: Reason.CARD_LOST,
    CardState.STOLEN: Reason.CARD_STOLEN,
    CardState.DAMAGED: Reason.CARD_DAMAGED,
    CardState.REVOKED: Reason.CARD_REVOKED,
}

_REVOCATIONS = {
    RevocationReason.SUSPENDED: Reason.CARD_SUSPENDED,
    RevocationReason.LOST: Reason.CARD_LOST,
    RevocationReason.STOLEN: Reason.CARD_STOLEN,
    RevocationReason.DAMAGED: Reason.CARD_DAMAGED,
}
"""Any other is `card_revoked`."""

_OUTCOMES = {
    ProofOutcome.FAILED: Reason.CARD_AUTH_FAILED,
    ProofOutcome.ELEMENT_UNAVAILABLE: Reason.SECURE_ELEMENT_UNAVAILABLE,
    ProofOutcome.VERSION_UNSUPPORTED: Reason.KEY_VERSION_UNSUPPORTED,
    ProofOutcome.VERSION_RETIRED: Reason.KEY_VERSION_RETIRED,
}


def decide(
    door: DoorView,
    card: PolicyCard | None,
    *,
    denial: Denial | None,
    proof: Proof,
    circumstances: Circumstances,
) -> Decision:
    """The decision for `card`, which is what the policy says of the id that `proof` names.

    `denial` is what the revocation log says against it, if the policy does not answer that.
    """
    return (
        _revocation(card, denial, proof, circumstances)
        or _door_state(card, circumstances)
        or _proof(door.settings, card, proof, circumstances)
        or _freshness(door.settings, card, circumstances)
        or _card(door, card, proof, circumstances)
        or GRANTED
    )


def _denied(reason: Reason, detail: str | None = None) -> Decision:
    return Decision(granted=False, reason=reason, detail=detail)


def _revocation(
    card: PolicyCard | None, denial: Denial | None, proof: Proof, at: Circumstances
) -> Decision | None:
    if denial is not None:
        reason = _REVOCATIONS.get(denial.reason, Reason.CARD_REVOKED)
        return _denied(reason, f"entry {denial.sequence} of the revocation log")
    if card is not None and card.state is CardState.REVOKED:
        return _denied(Reason.CARD_REVOKED)
    if proof.key_version in at.denied_versions:
        return _denied(Reason.KEY_VERSION_RETIRED, "the key version was revoked")
    return None


def _door_state(card: PolicyCard | None, at: Circumstances) -> Decision | None:
    if at.exempt is not None and at.direction == "in":
        groups = frozenset() if card is None else card.groups_at(at.now)
        if at.exempt.isdisjoint(groups):
            return _denied(Reason.LOCKDOWN)
    if at.mode is DoorMode.BLOCKED:
        return _denied(Reason.DOOR_BLOCKED)
    return None


def _proof(
    settings: DoorSettings, card: PolicyCard | None, proof: Proof, at: Circumstances
) -> Decision | None:
    if at.locked_out_s > 0 and at.direction == "in":
        return _denied(Reason.LOCKED_OUT, f"for another {at.locked_out_s:.0f} s")
    outcome = proof.outcome
    if outcome is ProofOutcome.PROVED:
        return _answer_time(settings, proof)
    if outcome is ProofOutcome.ELEMENT_UNAVAILABLE and at.direction == "out":
        return None  # not the holder's fault: the way out stays open to a card the policy knows
    if outcome is ProofOutcome.NO_APPLICATION:
        return _no_application(settings, card)
    if outcome is ProofOutcome.UNREADABLE:
        reason = Reason.UNKNOWN_CARD if card is None else Reason.CARD_AUTH_FAILED
        return _denied(reason, "the card could not be read to the end")
    return _denied(_OUTCOMES[outcome])


def _no_application(settings: DoorSettings, card: PolicyCard | None) -> Decision:
    if card is None:
        return _denied(Reason.UNKNOWN_CARD)
    if settings.domain not in card.domains:
        return _denied(Reason.NOT_BOUND)
    # Serials are easily copied, keys are not: what shows a bound card's serial alone is no card.
    return _denied(Reason.CARD_AUTH_FAILED, "a bound card's serial, without its keys")


def _answer_time(settings: DoorSettings, proof: Proof) -> Decision | None:
    if proof.response_ms is None:
        return _denied(Reason.CARD_AUTH_FAILED, "the answer was not timed")
    if proof.response_ms > settings.max_response_ms:
        return _denied(
            Reason.CARD_AUTH_FAILED,
            f"answered in {proof.response_ms:.0f} ms, the limit is {settings.max_response_ms} ms",
        )
    return None


def _freshness(
    settings: DoorSettings, card: PolicyCard | None, at: Circumstances
) -> Decision | None:
    if at.direction == "out":
        return None
    if at.policy_over:
        return _denied(Reason.POLICY_EXPIRED, "no policy is in force, or it ended")
    if at.heartbeat_age_s is None:
        return _denied(Reason.POLICY_EXPIRED, "the server was never heard")
    state = freshness(at.heartbeat_age_s, settings.grace_s)
    if state == "expired" and not (card is not None and card.offline):
        return _denied(
            Reason.POLICY_EXPIRED,
            f"the server was not heard for {at.heartbeat_age_s:.0f} s, the grace is"
            f" {settings.grace_s} s",
        )
    if not at.clock_trusted:
        return _denied(Reason.CLOCK_UNTRUSTED)
    return None


def _card(
    door: DoorView, card: PolicyCard | None, proof: Proof, at: Circumstances
) -> Decision | None:
    if card is None:
        return _denied(Reason.UNKNOWN_CARD)
    if door.settings.domain not in card.domains:
        return _denied(Reason.NOT_BOUND)
    if proof.outcome is ProofOutcome.PROVED:
        refusal = _key_version(door.settings, proof.key_version, at.key_floor)
        if refusal is not None:
            return refusal
    if card.state is not CardState.ACTIVE:
        return _denied(_STATES[card.state])
    return _validity(card, at) or _rules(door, card, at)


def _key_version(settings: DoorSettings, version: int | None, floor: int) -> Decision | None:
    if version is not None and version < floor:
        return _denied(Reason.KEY_VERSION_RETIRED, f"the floor is version {floor}")
    if version == settings.key_version or version in settings.accepted_key_versions:
        return None
    if version is None or version > settings.key_version:
        return _denied(Reason.KEY_VERSION_UNSUPPORTED)
    return _denied(Reason.KEY_VERSION_RETIRED)


def _validity(card: PolicyCard, at: Circumstances) -> Decision | None:
    if not at.clock_trusted:
        return None  # only the way out comes this far: nothing that needs the time is asked
    if card.valid_from is not None and at.now < card.valid_from:
        return _denied(Reason.NOT_YET_ACTIVE)
    if card.valid_until is not None and at.now >= card.valid_until:
        return _denied(Reason.EXPIRED)
    return None


def _rules(door: DoorView, card: PolicyCard, at: Circumstances) -> Decision | None:
    # Without a time to go by, only the way out comes this far: no membership has ended then.
    groups = card.groups_at(at.now) if at.clock_trusted else frozenset(card.groups)
    schedules = [schedule for group, schedule in door.rules if group in groups]
    if not schedules:
        return _denied(Reason.NO_RULE)
    if at.clock_trusted and not any(is_open(each, door.zone, at.now) for each in schedules):
        return _denied(Reason.OUTSIDE_SCHEDULE)
    return None
