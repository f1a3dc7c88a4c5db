from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from edge_agent.core.decision import Circumstances, Denial, DoorView, decide
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
from schemas.revocation import RevocationReason

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
ALWAYS = Schedule(windows=(Window(start="00:00", end="24:00", days=WEEKDAYS),))
NEVER = Schedule()
SETTINGS = DoorSettings(domain="front", suite="intl", key_version=3, accepted_key_versions=(2,))
DOOR = DoorView(SETTINGS, ZoneInfo("UTC"), (("staff", ALWAYS),))
CARD = PolicyCard(card="00" * 8, person="ada", groups=("staff",), domains=("front",))
PROVED = Proof(CARD.card, ProofOutcome.PROVED, 3, 20.0)
AT = Circumstances(direction="in", now=NOW, heartbeat_age_s=60.0)
REVOKED = Denial(7, RevocationReason.REVOKED)


def reason(*, door=DOOR, card=CARD, denial=None, proof=PROVED, **at):
    decision = decide(door, card, denial=denial, proof=proof, circumstances=replace(AT, **at))
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
        ({"denial": REVOKED}, Reason.CARD_REVOKED),
        ({"denial": REVOKED, "card": None}, Reason.CARD_REVOKED),
        ({"denied_versions": frozenset({3})}, Reason.KEY_VERSION_RETIRED),
        ({"exempt": frozenset()}, Reason.LOCKDOWN),
        ({"exempt": frozenset({"guards"})}, Reason.LOCKDOWN),
        ({"exempt": frozenset({"staff"}), "card": None}, Reason.LOCKDOWN),
        (
            {"exempt": frozenset({"staff"}), "card": with_card(group_ends={"staff": NOW})},
            Reason.LOCKDOWN,
        ),
        ({"mode": DoorMode.BLOCKED}, Reason.DOOR_BLOCKED),
        ({"mode": DoorMode.BLOCKED, "exempt": frozenset({"staff"})}, Reason.DOOR_BLOCKED),
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
        ({"heartbeat_age_s": None}, Reason.POLICY_EXPIRED),
        ({"heartbeat_age_s": None, "card": with_card(offline=True)}, Reason.POLICY_EXPIRED),
        ({"heartbeat_age_s": 86_400.5}, Reason.POLICY_EXPIRED),
        ({"heartbeat_age_s": 86_400.5, "card": None}, Reason.POLICY_EXPIRED),
        ({"policy_over": True, "card": with_card(offline=True)}, Reason.POLICY_EXPIRED),
        ({"policy_over": True}, Reason.POLICY_EXPIRED),
        ({"clock_trusted": False}, Reason.CLOCK_UNTRUSTED),
        ({"card": None}, Reason.UNKNOWN_CARD),
        ({"card": with_card(domains=("other",))}, Reason.NOT_BOUND),
        ({"proof": replace(PROVED, key_version=1)}, Reason.KEY_VERSION_RETIRED),
        ({"key_floor": 4}, Reason.KEY_VERSION_RETIRED),
        ({"proof": replace(PROVED, key_version=4)}, Reason.KEY_VERSION_UNSUPPORTED),
        ({"card": with_card(state=CardState.SUSPENDED)}, Reason.CARD_SUSPENDED),
        ({"card": with_card(state=CardState.LOST)}, Reason.CARD_LOST),
        ({"card": with_card(state=CardState.STOLEN)}, Reason.CARD_STOLEN),
        ({"card": with_card(state=CardState.DAMAGED)}, Reason.CARD_DAMAGED),
        ({"card": with_card(state=CardState.REVOKED)}, Reason.CARD_REVOKED),
        ({"card": with_card(valid_from=NOW + timedelta(seconds=1))}, Reason.NOT_YET_ACTIVE),
        ({"card": with_card(valid_until=NOW)}, Reason.EXPIRED),
        ({"card": with_card(groups=("guests",))}, Reason.NO_RULE),
        ({"card": with_card(group_ends={"staff": NOW})}, Reason.NO_RULE),
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
        {"heartbeat_age_s": 86_400.0},
        {"heartbeat_age_s": 86_400.5, "card": with_card(offline=True)},
        {"exempt": frozenset({"guards", "staff"})},
        {"denied_versions": frozenset({2, 4})},
        {"key_floor": 3},
        {"card": with_card(group_ends={"staff": NOW + timedelta(microseconds=1)})},
        {"card": with_card(valid_from=NOW)},
        {"card": with_card(valid_until=NOW + timedelta(microseconds=1))},
        {"door": replace(DOOR, rules=(("staff", NEVER), ("staff", ALWAYS)))},
        {"mode": DoorMode.UNLOCKED},
    ],
)
def test_what_is_just_within_bounds_is_granted(case):
    assert reason(**case) is None


@pytest.mark.parametrize(
    "trouble",
    [
        {"exempt": frozenset()},
        {"heartbeat_age_s": 10.0**9},
        {"heartbeat_age_s": None},
        {"policy_over": True},
        {"locked_out_s": 900.0},
        {"clock_trusted": False},
        {"clock_trusted": False, "door": replace(DOOR, rules=(("staff", NEVER),))},
        {"clock_trusted": False, "card": with_card(group_ends={"staff": NOW})},
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


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        (RevocationReason.REVOKED, Reason.CARD_REVOKED),
        (RevocationReason.SUSPENDED, Reason.CARD_SUSPENDED),
        (RevocationReason.LOST, Reason.CARD_LOST),
        (RevocationReason.STOLEN, Reason.CARD_STOLEN),
        (RevocationReason.DAMAGED, Reason.CARD_DAMAGED),
        (RevocationReason.COMPROMISED, Reason.CARD_REVOKED),
        (RevocationReason.LEFT, Reason.CARD_REVOKED),
    ],
)
@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_revocation_is_told_by_its_own_reason(why, expected, direction):
    assert reason(denial=Denial(1, why), direction=direction) is expected


def test_a_card_that_the_policy_itself_calls_revoked_is_as_one_that_the_log_denies():
    card = with_card(state=CardState.REVOKED)
    assert reason(card=card, exempt=frozenset()) is Reason.CARD_REVOKED


def test_the_order_of_evaluation_is_the_documented_one():
    everything = {
        "denial": REVOKED,
        "denied_versions": frozenset({9}),
        "exempt": frozenset(),
        "mode": DoorMode.BLOCKED,
        "proof": Proof(CARD.card, ProofOutcome.FAILED, 9, None),
        "heartbeat_age_s": None,
        "key_floor": 4,
        "card": with_card(valid_until=NOW, group_ends={"staff": NOW}),
    }
    cures = [
        (Reason.CARD_REVOKED, {"denial": None}),
        (Reason.KEY_VERSION_RETIRED, {"denied_versions": frozenset()}),
        (Reason.LOCKDOWN, {"exempt": None}),
        (Reason.DOOR_BLOCKED, {"mode": DoorMode.LOCKED}),
        (Reason.CARD_AUTH_FAILED, {"proof": PROVED}),
        (Reason.POLICY_EXPIRED, {"heartbeat_age_s": 1.0}),
        (Reason.KEY_VERSION_RETIRED, {"key_floor": 1}),
        (Reason.EXPIRED, {"card": with_card(group_ends={"staff": NOW})}),
        (Reason.NO_RULE, {"card": CARD}),
    ]
    for expected, cure in cures:
        assert reason(**everything) is expected
        everything |= cure
    assert reason(**everything) is None
