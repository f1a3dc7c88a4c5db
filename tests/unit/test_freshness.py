"""How old the server's newest word is, and what that means at a door."""

from datetime import timedelta

import pytest

from edge_agent.core.freshness import Heard, freshness
from tests.centre import NOW

MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("age_s", "grace_s", "expected"),
    [
        (None, 86_400, "none"),
        (0, 86_400, "fresh"),
        (90, 86_400, "fresh"),
        (90.001, 86_400, "stale"),
        (86_400, 86_400, "stale"),
        (86_400.001, 86_400, "expired"),
        (30, 30, "fresh"),
        (30.001, 30, "expired"),
        (0, 0, "fresh"),
        (0.001, 0, "expired"),
    ],
)
def test_freshness_ends_at_ninety_seconds_and_at_the_doors_own_grace(age_s, grace_s, expected):
    assert freshness(age_s, grace_s) == expected


def test_a_heartbeat_ages_with_the_clock_and_without_it():
    heard = Heard.of(NOW, NOW + MINUTE, 1000.0)
    assert heard.age_s(NOW + MINUTE, 1000.0) == 60
    assert heard.age_s(NOW + 2 * MINUTE, 1000.0) == 120  # the machine slept
    assert heard.age_s(NOW - MINUTE, 1030.0) == 90  # the clock was set back


def test_a_heartbeat_from_a_clock_ahead_of_ours_is_new_and_no_younger_than_that():
    heard = Heard.of(NOW + MINUTE, NOW, 1000.0)
    assert heard.age_s(NOW, 1000.0) == 0
    assert heard.age_s(NOW, 1030.0) == 30
