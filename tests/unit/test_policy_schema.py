"""What a policy may say: windows, special days, zones, cards."""

from __future__ import annotations

import json
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from schemas.policy import DoorSettings, Policy, PolicyCard, Schedule, TimeRange, Window
from schemas.statement import open_statement, payload_type, sign_statement
from tests.schema_cast import MOMENT, SUITES, signer_of, trust

S = SUITES[1]
DIGEST = "ab" * 32
CARD = {"card": "0123456789abcdef", "person": "ada", "groups": ["staff"], "domains": ["front"]}


def policy(**changes):
    members = {
        "site": "demo",
        "audience": "front-agent",
        "issued": MOMENT.isoformat(),
        "counter": 1,
        "timezone": "Asia/Shanghai",
        "doors": {"front": {"domain": "front", "suite": "intl"}},
        "schedules": {
            "office": {
                "windows": [{"days": ["mon", "fri"], "start": "08:00", "end": "18:30"}],
                "special_days": {
                    "2026-02-17": [],
                    "2026-02-18": [{"start": "10:00", "end": "24:00"}],
                },
            }
        },
        "rules": [{"group": "staff", "doors": ["front"], "schedule": "office"}],
        "levels": 2,
        "cards": {"00": DIGEST, "3f": DIGEST},
    } | changes
    return Policy.model_validate_json(json.dumps(members))


def test_a_policy_comes_through_its_envelope_as_it_was():
    data = sign_statement(policy(), signer_of(S, "policy"))
    ring = trust(S, "policy", payload_type("policy"))
    again = open_statement(data, Policy, ring, site="demo", audience="front-agent", now=MOMENT)
    assert again == policy()
    assert again.schedules["office"].special_days[date(2026, 2, 17)] == ()


def test_defaults_are_safe():
    door = DoorSettings(domain="front", suite="gm")
    assert door.mode == "locked"
    assert door.mutual
    assert door.strike_release_s == 5
    assert Policy.model_fields["timezone"].default == "UTC"


@pytest.mark.parametrize(
    ("start", "end"),
    [("00:00", "00:01"), ("00:00", "24:00"), ("09:00", "17:30"), ("23:59", "24:00")],
)
def test_a_window_is_in_order_within_one_day(start, end):
    assert TimeRange(start=start, end=end).end == end


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("09:00", "09:00"),
        ("22:00", "06:00"),
        ("24:00", "24:00"),
        ("9:00", "17:00"),
        ("09:00", "24:01"),
        ("09:00", "25:00"),
        ("09:60", "17:00"),
        ("09:00", "17:00:30"),
        ("09:00\n", "17:00"),
        ("\u0660\u0669:00", "17:00"),
        ("", "17:00"),
    ],
)
def test_a_window_over_midnight_or_of_another_form_is_refused(start, end):
    with pytest.raises(ValidationError):
        TimeRange(start=start, end=end)


@pytest.mark.parametrize("days", [[], ["monday"], ["MON"], [0], "mon"])
def test_a_window_is_on_days_of_the_week(days):
    with pytest.raises(ValidationError):
        Window(days=days, start="09:00", end="17:00")


@pytest.mark.parametrize("day", ["2026-02-30", "17.02.2026", "today", ""])
def test_a_special_day_is_a_date(day):
    with pytest.raises(ValidationError):
        Schedule.model_validate_json(json.dumps({"special_days": {day: []}}))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Shanghai", "Australia/Lord_Howe"])
def test_a_time_zone_of_the_iana_database_is_known(zone):
    assert policy(timezone=zone).timezone == zone


@pytest.mark.parametrize(
    "zone",
    [
        "",
        "Mars/Base",
        "Asia",
        "../UTC",
        "/etc/localtime",
        "UTC\0",
        "+08:00",
        "x" * 10_000,
        "\ufeffUTC",
    ],
    ids=lambda z: ascii(z)[:20],
)
def test_any_other_time_zone_is_refused(zone):
    with pytest.raises(ValidationError):
        policy(timezone=zone)


@pytest.mark.parametrize(
    "changes",
    [
        {"rules": [{"group": "staff", "doors": ["front"], "schedule": "nights"}]},
        {"rules": [{"group": "staff", "doors": [], "schedule": "office"}]},
        {"doors": {"front": {"domain": "front", "suite": "intl", "unlock_schedule": "nights"}}},
        {"doors": {f"d{n}": {"domain": "front", "suite": "intl"} for n in range(65)}},
        {"levels": 0},
        {"levels": 3},
        {"cards": {"40": DIGEST}},
        {"cards": {"0": DIGEST}},
        {"cards": {"3F": DIGEST}},
        {"cards": {"00": DIGEST[1:]}},
        {"cards": [CARD]},
        {"revoked": []},
        {"counter": -1},
        {"doors": {"Front": {"domain": "front", "suite": "intl"}}},
        {"more": 1},
    ],
    ids=str,
)
def test_a_policy_that_contradicts_itself_is_refused(changes):
    with pytest.raises(ValidationError):
        policy(**changes)


@pytest.mark.parametrize(
    "setting",
    [
        {"strike_release_s": 0},
        {"strike_release_s": 121},
        {"strike_release_s": float("nan")},
        {"strike_release_s": float("inf")},
        {"held_prealarm_s": 30, "held_after_s": 30},
        {"held_after_s": float("nan")},
        {"key_version": 0},
        {"key_version": 256},
        {"accepted_key_versions": [0]},
        {"accepted_key_versions": [256]},
        {"max_response_ms": 5001},
        {"grace_s": -1},
        {"grace_s": 10**30},
        {"grace_s": 366 * 86_400 + 1},
        {"unlock_schedule": "Office"},
        {"areas": ["Lab"]},
        {"areas": [f"a{n}" for n in range(17)]},
        {"mode": "accessed"},
        {"mode": "locked_open"},
        {"suite": "none"},
        {"anything": 1},
    ],
    ids=str,
)
def test_a_door_setting_out_of_range_is_refused(setting):
    with pytest.raises(ValidationError):
        DoorSettings.model_validate({"domain": "front", "suite": "intl"} | setting)


def card(**changes):
    return PolicyCard.model_validate_json(json.dumps(CARD | changes), strict=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"card": "0123456789ABCDEF"},
        {"card": "0123456789abcde"},
        {"person": ""},
        {"groups": ["Staff"]},
        {"domains": ["front door"]},
        {"group_ends": {"staff": "2026-01-01T00:00:00"}},
        {"group_ends": {"Staff": "2026-01-01T00:00:00Z"}},
        {"state": "fine"},
        {"valid_from": "2026-01-01T00:00:00"},
        {"offline": "yes"},
        {"card_cleared": -1},
        {"person_cleared": -1},
        {"pin": "1234"},
    ],
    ids=str,
)
def test_a_card_of_another_form_is_refused(changes):
    with pytest.raises(ValidationError):
        card(**changes)


def test_a_membership_ends_at_its_moment_and_the_others_do_not():
    ends = {"guests": "2026-01-31T07:00:00.123456Z"}
    held = card(groups=["staff", "guests"], group_ends=ends)
    before = MOMENT - timedelta(microseconds=1)
    assert held.groups_at(before) == {"staff", "guests"}
    assert held.groups_at(MOMENT) == {"staff"}
    assert held.groups_at(MOMENT.astimezone(ZoneInfo("Asia/Shanghai"))) == {"staff"}


def test_an_end_of_a_membership_makes_no_member():
    assert card(groups=[], group_ends={"guests": "2099-01-01T00:00:00Z"}).groups_at(MOMENT) == set()
