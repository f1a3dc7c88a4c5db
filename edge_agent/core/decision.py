"""May this card pass this door now? One pure function; everything it knows is in its arguments.

The order of evaluation is fixed: revocation, lockdown, door mode, card proof (lockout, outcome,
answer time), freshness of policy and clock, binding and key version, card state and validity, rule
and schedule. The first that says no is the reason.

The way out is never shut by a stale policy, a lockdown, a wrong clock, a broken secure element, or
a lockout: who is outside could cause that with a copied serial, to hold someone in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

from edge_agent.core.proof import Proof, ProofOutcome
from edge_agent.core.schedule import is_open
from schemas.policy import CardState, DoorMode, DoorSettings, PolicyCard, Schedule
from schemas.reasons import Reason

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
class Circumstances:
    """What holds at the door at the moment of the tap.

    `policy_age_s` is None where no policy was ever applied; `policy_over` says that its own time
    is. `now` is aware.
    """

    direction: Direction
    now: datetime
    policy_age_s: float | None
    policy_over: bool = False
    clock_trusted: bool = True
    lockdown: bool = False
    locked_out_s: float = 0.0


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
    revoked: bool,
    proof: Proof,
    circumstances: Circumstances,
) -> Decision:
    """The decision for `card`, which is what the policy says of the id that `proof` names."""
    return (
        _revocation(card, revoked)
        or _door_state(door.settings, circumstances)
        or _proof(door.settings, card, proof, circumstances)
        or _freshness(door.settings, circumstances)
        or _card(door, card, proof, circumstances)
        or GRANTED
    )


def _denied(reason: Reason, detail: str | None = None) -> Decision:
    return Decision(granted=False, reason=reason, detail=detail)


def _revocation(card: PolicyCard | None, revoked: bool) -> Decision | None:
    if revoked or (card is not None and card.state is CardState.REVOKED):
        return _denied(Reason.CARD_REVOKED)
    return None


def _door_state(settings: DoorSettings, at: Circumstances) -> Decision | None:
    if at.lockdown and at.direction == "in":
        return _denied(Reason.LOCKDOWN)
    if settings.mode is DoorMode.BLOCKED:
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


def _freshness(settings: DoorSettings, at: Circumstances) -> Decision | None:
    if at.direction == "out":
        return None
    if at.policy_age_s is None:
        return _denied(Reason.POLICY_EXPIRED, "no policy was ever applied")
    if at.policy_over:
        return _denied(Reason.POLICY_EXPIRED, "the policy itself ended")
    if at.policy_age_s > settings.grace_s:
        return _denied(
            Reason.POLICY_EXPIRED,
            f"{at.policy_age_s:.0f} s old, the grace is {settings.grace_s} s",
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
        refusal = _key_version(door.settings, proof.key_version)
        if refusal is not None:
            return refusal
    if card.state is not CardState.ACTIVE:
        return _denied(_STATES[card.state])
    return _validity(card, at) or _rules(door, card, at)


def _key_version(settings: DoorSettings, version: int | None) -> Decision | None:
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
    schedules = [schedule for group, schedule in door.rules if group in card.groups]
    if not schedules:
        return _denied(Reason.NO_RULE)
    if at.clock_trusted and not any(is_open(each, door.zone, at.now) for each in schedules):
        return _denied(Reason.OUTSIDE_SCHEDULE)
    return None
