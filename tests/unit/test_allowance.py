"""How often a stranger may ask."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.core.allowance import MOST_ADDRESSES, Allowance


def test_a_burst_is_let_through_and_then_only_the_rate():
    allowance = Allowance(burst=3, rate_s=1)
    assert [allowance.spend("a", 0) for _ in range(4)] == [True, True, True, False]
    assert not allowance.spend("a", 0.5)
    assert allowance.spend("a", 1.5)
    assert allowance.spend("b", 0)


def test_a_fine_makes_the_next_wait_longer():
    allowance = Allowance(burst=2, rate_s=1)
    allowance.spend("a", 0)
    allowance.fine("a", 3, 0)
    assert not allowance.spend("a", 2.9)
    assert allowance.spend("a", 3.0)


@given(st.lists(st.sampled_from(["ask", "fail"]), max_size=200))
def test_nobody_is_shut_out_for_longer_than_it_takes_to_earn_two_bursts(acts):
    allowance = Allowance(burst=5, rate_s=2)
    for act in acts:
        allowance.spend("a", 0)
        if act == "fail":
            allowance.fine("a", 5, 0)
    assert allowance.spend("a", 2 * 5 / 2)


def test_addresses_without_end_take_no_memory_without_end():
    allowance = Allowance(burst=1, rate_s=1)
    for n in range(3 * MOST_ADDRESSES):
        allowance.spend(str(n), 0)
    assert len(allowance._buckets) == MOST_ADDRESSES
