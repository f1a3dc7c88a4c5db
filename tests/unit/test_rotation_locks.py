"""The rules for one lock: its wave, its orders, its quarantine, and what is shown of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from server.core.rotation import (
    Order,
    is_back,
    order_for,
)
from server.core.rotation_pace import AT_ONCE, FIRST_WAIT, LAST_WAIT, Pace
from server.core.rotation_view import version_state, waits_for
from server.core.rotation_waves import too_many, waves
from tests.rotation_cast import (
    ACTIVE,
    AFTER,
    BOTH,
    CHECKS,
    DOMAIN,
    ERASED,
    LAST,
    NEW_ALONE,
    NOW,
    OLD,
    OVERLAP,
    PLANNED,
    PREFERS,
    RETIRED,
    RETIRING,
    STAGING,
    lock,
    picture,
)

# --- waves


def test_waves_are_one_lock_one_in_a_hundred_one_in_ten_and_all():
    found = waves((f"lock-{n:04}", True) for n in range(1000))
    assert [list(found.values()).count(wave) for wave in range(4)] == [1, 9, 90, 900]


def test_few_locks_have_waves_too():
    assert sorted(waves([("a", True), ("b", True)]).values()) == [0, 1]
    assert waves([]) == {}


def test_the_canary_is_a_lock_that_can_be_reached():
    found = waves([("a", False), ("b", True), ("c", False)])
    assert found["b"] == 0


def test_waves_do_not_depend_on_the_order_of_the_locks():
    locks = [(f"lock-{n}", n % 3 == 0) for n in range(50)]
    assert waves(locks) == waves(reversed(locks))


@pytest.mark.parametrize(
    ("failed", "locks", "halts"),
    [(0, 1, False), (1, 1, True), (1, 199, True), (1, 200, False), (2, 399, True), (2, 400, False)],
)
def test_more_than_one_failure_in_two_hundred_is_too_many(failed, locks, halts):
    assert too_many(failed, locks) is halts


# --- quarantine


def test_a_lock_leaves_quarantine_when_it_has_and_asks_for_what_it_should():
    away = lock(has=ERASED, quarantined=True)
    assert is_back(away, RETIRED, None)
    for short in (NEW_ALONE, picture(2, floor=2), picture(floor=2, preferred=2), None):
        assert not is_back(replace(away, picture=short), RETIRED, None)
    assert not is_back(replace(away, quarantined=False), RETIRED, None)


def test_while_staging_it_leaves_quarantine_only_with_the_new_version():
    assert not is_back(lock(quarantined=True), DOMAIN, STAGING)
    assert is_back(lock(has=BOTH, quarantined=True), DOMAIN, STAGING)


def test_in_the_overlap_it_leaves_quarantine_only_with_both():
    assert is_back(lock(has=PREFERS, quarantined=True), OVERLAP, ACTIVE)
    for short in (BOTH, NEW_ALONE, picture(2, preferred=2, accepted=(1,))):
        assert not is_back(lock(has=short, quarantined=True), OVERLAP, ACTIVE)


def test_a_lock_in_quarantine_is_told_what_it_lacks_like_any():
    assert order_for(lock(quarantined=True), DOMAIN, LAST) == Order("a", 2, CHECKS[2], 1)


# --- how often


def orders(count: int) -> list[Order]:
    return [Order(f"lock-{n}", 2, CHECKS[2], 1) for n in range(count)]


def test_no_more_than_so_many_orders_are_outstanding():
    pace, many = Pace(), orders(AT_ONCE + 5)
    assert pace.now_due(many, NOW) == many[:AT_ONCE]
    assert pace.now_due(many, NOW) == []
    pace.answered("lock-0")
    assert pace.now_due(many, NOW) == [many[AT_ONCE]]


def test_an_order_without_answer_makes_room_when_it_has_expired():
    pace, many = Pace(), orders(AT_ONCE + 1)
    pace.now_due(many, NOW)
    assert many[AT_ONCE] in pace.now_due(many, NOW + timedelta(seconds=61))


def test_an_order_is_repeated_less_and_less_often():
    pace, [order], at, waits = Pace(), orders(1), NOW, []
    for _ in range(12):
        assert pace.now_due([order], at) == [order]
        pace.answered(order.agent)
        told = at
        seconds = (at + timedelta(seconds=n) for n in range(1000))
        at = next(each for each in seconds if pace._is_due(order, each))
        waits.append(at - told)
    assert waits[0] == FIRST_WAIT
    assert waits == sorted(waits)
    assert waits[-1] == LAST_WAIT


def test_a_lock_that_got_further_is_told_the_next_at_once():
    pace, [order] = Pace(), orders(1)
    pace.now_due([order], NOW)
    further = replace(order, version=1)
    assert pace.now_due([further], NOW) == []
    pace.answered(order.agent)
    assert pace.now_due([further], NOW) == [further]


def test_a_lock_that_came_back_is_told_at_once():
    pace, [order] = Pace(), orders(1)
    pace.now_due([order], NOW)
    pace.forget(order.agent)
    assert pace.now_due([order], NOW) == [order]


# --- what an operator sees


@pytest.mark.parametrize(
    ("has", "old", "new"),
    [
        (None, "absent", "absent"),
        (OLD, "active", "absent"),
        (BOTH, "active", "staged"),
        (PREFERS, "accept_only", "active"),
        (NEW_ALONE, "retired", "active"),
        (ERASED, "retired", "active"),
    ],
)
def test_each_lock_shows_how_far_it_is(has, old, new):
    assert version_state(lock(has=has), 1, RETIRED) == old
    assert version_state(lock(has=has), 2, RETIRED) == new


def test_what_is_erased_everywhere_is_destroyed():
    assert version_state(lock(has=ERASED), 1, RETIRED, destroyed=True) == "destroyed"
    assert version_state(lock(has=NEW_ALONE), 1, RETIRED, destroyed=True) == "retired"


@pytest.mark.parametrize(
    ("campaign", "domain", "one", "why"),
    [
        (PLANNED, DOMAIN, lock(), ""),
        (STAGING, DOMAIN, lock(), "comes later"),
        (LAST, DOMAIN, lock(), "has no keys of version 2"),
        (LAST, DOMAIN, lock(reachable=False), "can't be reached"),
        (LAST, DOMAIN, lock(refusal="worn_out"), "worn_out"),
        (LAST, DOMAIN, lock(quarantined=True), ""),
        (LAST, DOMAIN, lock(has=BOTH), ""),
        (RETIRING, AFTER, lock(has=PREFERS), "ask for version 1"),
        (RETIRING, RETIRED, lock(has=NEW_ALONE), "not erased version 1"),
        (RETIRING, RETIRED, lock(has=ERASED), ""),
    ],
)
def test_it_says_why_it_waits_for_a_lock(campaign, domain, one, why):
    said = waits_for(campaign, one, domain)
    assert why in said
    assert bool(said) is bool(why)
