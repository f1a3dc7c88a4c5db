"""Which key versions a door asks for: what its policy takes, as far as it can ask at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.card.application import UnlockQuestion
from schemas.policy import DoorSettings

VERSIONS = st.integers(1, 255)


def asked(preferred, accepted=(), **state):
    settings = DoorSettings(
        domain="front", suite="intl", key_version=preferred, accepted_key_versions=accepted
    )
    question = UnlockQuestion.of("demo", settings, **state)
    return question.key_version, question.accepted_key_versions


def test_a_door_asks_for_the_preferred_version_first_and_then_for_the_newest():
    assert asked(3, (1, 2)) == (3, (2, 1))


def test_a_lock_that_was_not_given_the_preferred_version_asks_for_the_one_it_has():
    assert asked(2, (1,), held=frozenset({1})) == (1, ())


def test_a_lock_whose_keys_are_not_known_asks_as_its_policy_says():
    assert asked(2, (1,), held=None) == (2, (1,))


def test_a_denied_version_is_not_asked_for_while_another_counts():
    assert asked(1, (2,), denied=frozenset({1})) == (2, ())


def test_a_version_below_the_floor_is_not_asked_for_while_another_counts():
    assert asked(2, (1,), floor=2) == (2, ())
    assert asked(1, (2,), floor=2) == (2, ())


def test_where_nothing_is_left_the_policy_is_asked_for_and_the_decision_says_no():
    assert asked(1, held=frozenset()) == (1, ())
    assert asked(2, (1,), denied=frozenset({1, 2})) == (2, (1,))


@given(VERSIONS, st.sets(VERSIONS, max_size=4), st.frozensets(VERSIONS, max_size=6), VERSIONS)
def test_nothing_is_asked_for_that_the_policy_does_not_take(preferred, accepted, held, floor):
    first, others = asked(preferred, tuple(accepted), held=held, floor=floor)
    assert {first, *others} <= {preferred, *accepted}
    assert len({first, *others}) == 1 + len(others)
    usable = {v for v in (preferred, *accepted) if v in held and v >= floor}
    if usable:
        assert {first, *others} == usable
        assert preferred not in usable or first == preferred
