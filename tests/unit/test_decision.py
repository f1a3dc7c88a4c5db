from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from edge_agent.core.decision import Circumstances, DoorView, decide
from edge_agent.core.proof import Proof, ProofOutcome
from schemas.policy import (
    WEEKDAYS,
    CardState,
    DoorMode,
    DoorSettings,
    PolicyCard,
    Schedule,
    Window,
)
from schemas.reasons import Reason

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
ALWAYS = Schedule(windows=(Window(start="00:00", end="24:00", days=WEEKDAYS),))
NEVER = Schedule()
SETTINGS = DoorSettings(domain="front", suite="intl", key_version=3, accepted_key_versions=(2,))
DOOR = DoorView(SETTINGS, ZoneInfo("UTC"), (("staff", ALWAYS),))
CARD = PolicyCard(card="00" * 8, person="ada", groups=("staff",), domains=("front",))
PROVED = Proof(CARD.card, ProofOutcome.PROVED, 3, 20.0)
AT = Circumstances(direction="in", now=NOW, policy_age_s=60.0)


def reason(*, door=DOOR, card=CARD, revoked=False, proof=PROVED, **at):
    decision = decide(door, card, revoked=revoked, proof=proof, circumstances=replace(AT, **at))
    assert decision.granted is (decision.reason is None)
    return decision.reason


def ended(outcome: ProofOutcome) -> Proof:
    return Proof(CARD.card, outcome, None, None)


def with_settings(**changes) -> DoorView:
    return replace(DOOR, settings=SETTINGS.model_copy(update=changes))


def with_card(**changes) -> PolicyCard:
    return CARD.model_copy(update=changes)


def test_a_proved_card_with_an_open_rule_is_granted():
    assert reason() is None


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"revoked": True}, Reason.CARD_REVOKED),
        ({"lockdown": True}, Reason.LOCKDOWN),
        ({"door": with_settings(mode=DoorMode.BLOCKED)}, Reason.DOOR_BLOCKED),
        ({"locked_out_s": 12.0}, Reason.LOCKED_OUT),
        ({"proof": ended(ProofOutcome.FAILED)}, Reason.CARD_AUTH_FAILED),
        ({"proof": ended(ProofOutcome.UNREADABLE)}, Reason.CARD_AUTH_FAILED),
        ({"proof": ended(ProofOutcome.UNREADABLE), "card": None}, Reason.UNKNOWN_CARD),
        ({"proof": ended(ProofOutcome.NO_APPLICATION), "card": None}, Reason.UNKNOWN_CARD),
        (
            {"proof": ended(ProofOutcome.NO_APPLICATION), "card": with_card(domains=())},
            Reason.NOT_BOUND,
        ),
        ({"proof": ended(ProofOutcome.NO_APPLICATION)}, Reason.CARD_AUTH_FAILED),
        ({"proof": ended(ProofOutcome.VERSION_RETIRED)}, Reason.KEY_VERSION_RETIRED),
        ({"proof": ended(ProofOutcome.VERSION_UNSUPPORTED)}, Reason.KEY_VERSION_UNSUPPORTED),
        ({"proof": ended(ProofOutcome.ELEMENT_UNAVAILABLE)}, Reason.SECURE_ELEMENT_UNAVAILABLE),
        ({"proof": replace(PROVED, response_ms=500.1)}, Reason.CARD_AUTH_FAILED),
        ({"proof": replace(PROVED, response_ms=None)}, Reason.CARD_AUTH_FAILED),
        ({"policy_age_s": None}, Reason.POLICY_EXPIRED),
        ({"policy_age_s": 86_400.5}, Reason.POLICY_EXPIRED),
        ({"policy_over": True}, Reason.POLICY_EXPIRED),
        ({"clock_trusted": False}, Reason.CLOCK_UNTRUSTED),
        ({"card": None}, Reason.UNKNOWN_CARD),
        ({"card": with_card(domains=("other",))}, Reason.NOT_BOUND),
        ({"proof": replace(PROVED, key_version=1)}, Reason.KEY_VERSION_RETIRED),
        ({"proof": replace(PROVED, key_version=4)}, Reason.KEY_VERSION_UNSUPPORTED),
        ({"card": with_card(state=CardState.SUSPENDED)}, Reason.CARD_SUSPENDED),
        ({"card": with_card(state=CardState.LOST)}, Reason.CARD_LOST),
        ({"card": with_card(state=CardState.STOLEN)}, Reason.CARD_STOLEN),
        ({"card": with_card(state=CardState.DAMAGED)}, Reason.CARD_DAMAGED),
        ({"card": with_card(state=CardState.REVOKED)}, Reason.CARD_REVOKED),
        ({"card": with_card(valid_from=NOW + timedelta(seconds=1))}, Reason.NOT_YET_ACTIVE),
        ({"card": with_card(valid_until=NOW)}, Reason.EXPIRED),
        ({"card": with_card(groups=("guests",))}, Reason.NO_RULE),
        ({"door": replace(DOOR, rules=(("staff", NEVER),))}, Reason.OUTSIDE_SCHEDULE),
    ],
)
def test_each_reason_is_given_for_its_cause(case, expected):
    assert reason(**case) is expected


@pytest.mark.parametrize(
    "case",
    [
        {"proof": replace(PROVED, key_version=2)},
        {"proof": replace(PROVED, response_ms=500.0)},
        {"policy_age_s": 86_400.0},
        {"card": with_card(valid_from=NOW)},
        {"card": with_card(valid_until=NOW + timedelta(microseconds=1))},
        {"door": replace(DOOR, rules=(("staff", NEVER), ("staff", ALWAYS)))},
        {"door": with_settings(mode=DoorMode.UNLOCKED)},
    ],
)
def test_what_is_just_within_bounds_is_granted(case):
    assert reason(**case) is None


@pytest.mark.parametrize(
    "trouble",
    [
        {"lockdown": True},
        {"policy_age_s": 10.0**9},
        {"policy_over": True},
        {"locked_out_s": 900.0},
        {"clock_trusted": False},
        {"clock_trusted": False, "door": replace(DOOR, rules=(("staff", NEVER),))},
        {"proof": ended(ProofOutcome.ELEMENT_UNAVAILABLE)},
    ],
)
def test_the_way_out_is_not_shut_by_what_is_not_the_holders_fault(trouble):
    assert reason(direction="out", **trouble) is None


def test_an_unknown_or_unproved_card_is_denied_on_the_way_out_too():
    assert reason(direction="out", card=None) is Reason.UNKNOWN_CARD
    broken = ended(ProofOutcome.ELEMENT_UNAVAILABLE)
    assert reason(direction="out", proof=broken, card=None) is Reason.UNKNOWN_CARD
    failed = ended(ProofOutcome.FAILED)
    assert reason(direction="out", proof=failed) is Reason.CARD_AUTH_FAILED


def test_revocation_comes_before_all_else_and_lockdown_before_the_card():
    everything = {"revoked": True, "lockdown": True, "proof": ended(ProofOutcome.FAILED)}
    assert reason(**everything) is Reason.CARD_REVOKED
    assert reason(**{**everything, "revoked": False}) is Reason.LOCKDOWN
