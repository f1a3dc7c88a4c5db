"""Two devices under one identity."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.core.clones import MOST_SESSIONS, Clones, Sighting

A, B = "a" * 16, "b" * 16


def test_a_session_that_goes_on_is_known():
    clones = Clones()
    assert clones.seen("front", A, 1) is Sighting.NEW
    assert clones.seen("front", A, 2) is Sighting.KNOWN
    assert clones.seen("back", A, 1) is Sighting.NEW


def test_a_session_that_comes_back_after_another_is_a_clone():
    clones = Clones()
    clones.seen("front", A, 1)
    assert clones.seen("front", B, 1) is Sighting.NEW
    assert clones.seen("front", A, 2) is Sighting.CLONE
    assert clones.seen("front", B, 2) is Sighting.CLONE


def test_an_old_report_played_again_is_not_a_clone():
    clones = Clones()
    clones.seen("front", A, 7)
    clones.seen("front", B, 1)
    for counter in (1, 7):
        assert clones.seen("front", A, counter) is Sighting.REPLAY
    assert clones.seen("front", B, 2) is Sighting.KNOWN


def test_a_removed_agent_begins_anew():
    clones = Clones()
    clones.seen("front", A, 1)
    clones.seen("front", B, 1)
    clones.forget("front")
    assert clones.seen("front", A, 1) is Sighting.NEW


@given(st.lists(st.integers(min_value=0, max_value=999), max_size=200))
def test_an_honest_agent_that_reconnects_is_never_a_clone(lengths):
    clones = Clones()
    for n, length in enumerate(lengths):
        for counter in range(1, length % 4 + 1):
            sighting = clones.seen("front", f"{n:016x}", counter)
            assert sighting in (Sighting.NEW, Sighting.KNOWN)


def test_sessions_without_end_take_no_memory_without_end():
    clones = Clones()
    for n in range(10 * MOST_SESSIONS):
        clones.seen("front", f"{n:016x}", 1)
    assert len(clones._sessions["front"]) == MOST_SESSIONS
