"""What the compiler makes of a model: no more than is needed, and always in the same form."""

from datetime import UTC, date, datetime, timedelta

import pytest

from schemas.policy import DoorSettings, Rule, Schedule
from schemas.suites import INTL
from server.core.card_tree import PolicyTooLarge, Tree
from server.core.compiler import (
    HORIZON,
    AgentModel,
    compile_policy,
    content_of,
    no_doors,
    place_of,
    scope_of,
)

TODAY = date(2026, 3, 10)
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def model(**changes):
    values = {
        "agent": "front-agent",
        "timezone": "UTC",
        "doors": {"front": DoorSettings(domain="front", suite="intl")},
        "schedules": {"always": Schedule()},
        "rules": (Rule(group="staff", doors=("front",), schedule="always"),),
        "groups": frozenset({"staff"}),
        "domains": frozenset({"front"}),
    }
    return AgentModel(**values | changes)


def compiled(described, *, version=1, issued=NOW):
    return compile_policy(
        described, Tree(), site="demo", today=TODAY, version=version, issued=issued
    )


def test_rules_of_one_group_and_schedule_become_one_in_whatever_order_they_come():
    rules = [
        Rule(group="staff", doors=("side",), schedule="always"),
        Rule(group="crew", doors=("side",), schedule="always"),
        Rule(group="staff", doors=("front", "side"), schedule="always"),
    ]
    made = compiled(model(rules=tuple(rules)))
    assert made.rules == (
        Rule(group="crew", doors=("side",), schedule="always"),
        Rule(group="staff", doors=("front", "side"), schedule="always"),
    )
    assert compiled(model(rules=tuple(reversed(rules)))) == made


def test_the_order_of_the_model_does_not_show_in_the_bytes():
    doors = {name: DoorSettings(domain=name, suite="intl") for name in ("b", "a", "c")}
    schedules = {"late": Schedule(), "always": Schedule()}
    one = compiled(model(doors=doors, schedules=schedules))
    turned = {name: doors[name] for name in sorted(doors)}
    other = compiled(model(doors=turned, schedules=dict(sorted(schedules.items()))))
    assert one.model_dump_json() == other.model_dump_json()


def test_special_days_are_told_from_yesterday_to_the_horizon():
    days = {TODAY + timedelta(days=n): () for n in (-2, -1, 0, 400, 401)}
    told = compiled(model(schedules={"always": Schedule(special_days=days)})).schedules["always"]
    assert timedelta(days=400) == HORIZON
    assert list(told.special_days) == [TODAY + timedelta(days=n) for n in (-1, 0, 400)]


def test_version_and_time_of_issue_are_no_content():
    first, second = compiled(model()), compiled(model(), version=2, issued=NOW + timedelta(1))
    assert content_of(first, INTL.digest) == content_of(second, INTL.digest)
    other = compiled(model(timezone="Europe/Berlin"))
    assert content_of(first, INTL.digest) != content_of(other, INTL.digest)


def test_a_group_is_not_mistaken_for_a_domain():
    one = model(groups=frozenset({"lab"}), domains=frozenset())
    other = model(groups=frozenset(), domains=frozenset({"lab"}))
    assert scope_of(one, INTL.digest) != scope_of(other, INTL.digest)


def test_what_an_agent_would_not_take_is_not_made():
    doors = {f"d{n}": DoorSettings(domain="zone", suite="intl") for n in range(65)}
    with pytest.raises(PolicyTooLarge, match="front-agent"):
        compiled(model(doors=doors))
    days = {TODAY + timedelta(days=n): () for n in range(400)}
    schedules = {f"{n:063d}": Schedule(special_days=days) for n in range(30)}
    with pytest.raises(PolicyTooLarge, match="143360"):
        compiled(model(schedules=schedules | {"always": Schedule()}))


def test_an_agent_without_doors_is_told_that_nothing_opens():
    told = compiled(no_doors("front-agent"))
    assert (told.doors, told.rules, told.cards) == ({}, (), {})


def test_the_models_slots_are_places_in_a_tree():
    assert [place_of(n) for n in (0, 63, 64, 4095)] == [
        ("00", "00"),
        ("00", "3f"),
        ("01", "00"),
        ("3f", "3f"),
    ]
