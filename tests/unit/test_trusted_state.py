"""What an agent comes to believe, and each attack by the name of its refusal."""

from __future__ import annotations

from datetime import timedelta

import pytest

from edge_agent.core.trusted_state import (
    after_heartbeat,
    after_policy,
    lacks,
    with_policy,
)
from schemas.errors import (
    Equivocation,
    Expired,
    FastForward,
    MixAndMatch,
    Replayed,
    Rollback,
    WrongSession,
)
from schemas.statement import CLOCK_TOLERANCE
from schemas.versions import MAX_LEAP, LogHead, Version
from tests.believing import (
    LATER,
    OTHER_HASH,
    centre,
    commanded,
    heard,
    in_force,
    named_by,
    revoked,
    shut,
    state,
)
from tests.centre import AGENT, NOW, lockdown, microseconds, payload

__all__ = ["centre", "state"]


def test_a_heartbeat_is_believed_and_the_same_again_changes_nothing(state, centre):
    after = heard(state, centre)
    assert after.heartbeat.counter == microseconds(NOW)
    assert heard(after, centre) is after
    assert heard(after, centre, LATER).heartbeat.issued == LATER


def test_rollback_of_the_heartbeat(state, centre):
    with pytest.raises(Rollback):
        after_heartbeat(heard(state, centre, LATER), centre.heartbeat(NOW), AGENT, LATER)


def test_equivocation_between_two_heartbeats_of_one_counter(state, centre):
    with pytest.raises(Equivocation):
        heard(heard(state, centre), centre, lockdown=1)


@pytest.mark.parametrize(
    "named",
    [
        {"root": 1},
        {"policy": Version(version=4, hash=OTHER_HASH)},
        {"policy": None},
        {"revocation": LogHead(sequence=4, hash=OTHER_HASH)},
        {"lockdown": 4},
    ],
    ids=str,
)
def test_rollback_of_anything_a_heartbeat_names(state, centre, named):
    before = {
        "root": 2,
        "policy": Version(version=5, hash=OTHER_HASH),
        "revocation": LogHead(sequence=5, hash=OTHER_HASH),
        "lockdown": 5,
    }
    state = heard(state, centre, **before)
    with pytest.raises(Rollback):
        heard(state, centre, LATER, **(before | named))
    assert heard(state, centre, LATER, **before).heartbeat.issued == LATER


@pytest.mark.parametrize("name", ["policy", "revocation"])
def test_equivocation_between_what_two_heartbeats_name(state, centre, name):
    def at(hash):
        if name == "policy":
            return {"policy": Version(version=5, hash=hash)}
        return {"revocation": LogHead(sequence=5, hash=hash)}

    state = heard(state, centre, **at(OTHER_HASH))
    with pytest.raises(Equivocation):
        heard(state, centre, LATER, **at("cd" * 32))


def test_equivocation_between_a_heartbeat_and_the_policy_in_force(state, centre):
    state = in_force(state, centre, 5)
    with pytest.raises(Equivocation):
        heard(state, centre, policy=Version(version=5, hash=OTHER_HASH))
    assert heard(state, centre, **named_by(state))


def test_equivocation_between_a_heartbeat_and_the_log_that_is_held(state, centre):
    state = revoked(state, centre, 1)
    with pytest.raises(Equivocation):
        heard(state, centre, revocation=LogHead(sequence=1, hash=OTHER_HASH))
    assert heard(state, centre, **named_by(state))


@pytest.mark.parametrize(
    "named",
    [
        {"root": MAX_LEAP + 2},
        {"policy": Version(version=MAX_LEAP + 6, hash=OTHER_HASH)},
        {"revocation": LogHead(sequence=MAX_LEAP + 2, hash=OTHER_HASH)},
        {"lockdown": MAX_LEAP + 4},
        {"counter": 2**62},
    ],
    ids=str,
)
def test_fast_forward_of_anything_a_heartbeat_names(state, centre, named):
    state = shut(revoked(in_force(state, centre, 5), centre, 1), centre, 3)
    with pytest.raises(FastForward):
        heard(state, centre, **named_by(state, **named))


def test_a_heartbeat_may_name_as_much_as_the_limit_more(state, centre):
    state = shut(revoked(in_force(state, centre, 5), centre, 1), centre, 3)
    most = {
        "root": MAX_LEAP + 1,
        "policy": Version(version=MAX_LEAP + 5, hash=OTHER_HASH),
        "revocation": LogHead(sequence=MAX_LEAP + 1, hash=OTHER_HASH),
        "lockdown": MAX_LEAP + 3,
    }
    assert heard(state, centre, **most).heartbeat.lockdown == MAX_LEAP + 3


def test_only_a_newcomer_believes_in_a_log_of_any_length(state, centre):
    long = LogHead(sequence=MAX_LEAP * 5, hash=OTHER_HASH)
    assert heard(state, centre, revocation=long).heartbeat.revocation == long
    with pytest.raises(FastForward):
        heard(revoked(state, centre, 1), centre, revocation=long)


def test_a_heartbeat_that_names_less_than_is_held_came_late_and_is_no_harm(state, centre):
    state = in_force(heard(state, centre, policy=centre.policy_version(5)), centre, 6)
    after = heard(state, centre, LATER, policy=centre.policy_version(5))
    assert after.policy.counter == 6
    assert not lacks(after)


def test_a_heartbeat_counts_no_further_than_clocks_may_differ(state, centre):
    most = microseconds(NOW + CLOCK_TOLERANCE)
    assert heard(state, centre, counter=most).heartbeat.counter == most
    with pytest.raises(FastForward):
        heard(state, centre, counter=most + 1)


def test_freeze_a_heartbeat_of_yesterday_is_believed_once_and_stays_that_old(state, centre):
    yesterday = NOW - timedelta(days=1)
    after = after_heartbeat(state, centre.heartbeat(yesterday), AGENT, NOW)
    assert after.heartbeat.issued == yesterday
    assert after_heartbeat(after, centre.heartbeat(yesterday), AGENT, NOW) is after


def test_a_key_floor_never_sinks_and_one_no_longer_named_stays(state, centre):
    state = heard(state, centre, key_floors={"front": 3, "back": 2})
    state = heard(state, centre, LATER, key_floors={"front": 2})
    assert state.heartbeat.issued == LATER  # it is as fresh as any
    assert state.key_floors == {"front": 3, "back": 2}
    later = LATER + timedelta(seconds=30)
    state = heard(state, centre, later, key_floors={"front": 4})
    assert state.key_floors == {"front": 4, "back": 2}


def test_a_heartbeat_from_the_future_is_not_believed(state, centre):
    with pytest.raises(Expired):
        after_heartbeat(state, centre.heartbeat(NOW + timedelta(minutes=6)), AGENT, NOW)


def test_a_policy_is_a_candidate_first_and_in_force_then(state, centre):
    envelope, _ = centre.policy(5)
    candidate = after_policy(state, envelope, AGENT, NOW)
    assert candidate.hash == centre.digest(payload(envelope))
    after = with_policy(state, candidate)
    assert (after.policy.counter, after.policy_hash) == (5, candidate.hash)
    assert after_policy(after, envelope, AGENT, NOW).hash == after.policy_hash


def test_rollback_of_the_policy(state, centre):
    with pytest.raises(Rollback):
        in_force(in_force(state, centre, 5), centre, 4)


def test_rollback_to_a_policy_older_than_the_heartbeat_names(state, centre):
    state = heard(state, centre, policy=Version(version=6, hash=OTHER_HASH))
    with pytest.raises(Rollback):
        after_policy(state, centre.policy(5)[0], AGENT, NOW)


def test_equivocation_between_two_policies_of_one_version(state, centre):
    with pytest.raises(Equivocation):
        in_force(in_force(state, centre, 5), centre, 5, timezone="Europe/Berlin")


def test_mix_and_match_of_a_policy_with_a_heartbeat(state, centre):
    state = heard(state, centre, policy=Version(version=5, hash=OTHER_HASH))
    with pytest.raises(MixAndMatch):
        after_policy(state, centre.policy(5)[0], AGENT, NOW)


def test_mix_and_match_is_seen_too_if_the_heartbeat_comes_between(state, centre):
    candidate = after_policy(state, centre.policy(5)[0], AGENT, NOW)
    state = heard(state, centre, policy=Version(version=5, hash=OTHER_HASH))
    with pytest.raises(MixAndMatch):
        with_policy(state, candidate)


def test_a_candidate_that_another_overtook_is_a_rollback(state, centre):
    candidate = after_policy(state, centre.policy(5)[0], AGENT, NOW)
    with pytest.raises(Rollback):
        with_policy(in_force(state, centre, 6), candidate)


def test_fast_forward_of_the_policy(state, centre):
    state = in_force(state, centre, 5)
    assert in_force(state, centre, 5 + MAX_LEAP)
    with pytest.raises(FastForward):
        in_force(state, centre, 6 + MAX_LEAP)
    named = heard(state, centre, policy=Version(version=MAX_LEAP, hash=OTHER_HASH))
    assert in_force(named, centre, 6 + MAX_LEAP)


def test_a_policy_newer_than_the_heartbeat_may_come_first(state, centre):
    state = heard(state, centre, policy=centre.policy_version(5))
    assert in_force(state, centre, 6).policy.counter == 6


def test_a_lockdown_stays_until_a_newer_statement_has_it_no_more(state, centre):
    state = shut(state, centre, 1, lockdown())
    assert shut(state, centre, 1, lockdown()) is state
    assert shut(state, centre, 2).lockdowns.active == ()


def test_rollback_to_before_a_lockdown(state, centre):
    state = shut(state, centre, 2, lockdown())
    with pytest.raises(Rollback):
        shut(state, centre, 1)


def test_rollback_to_lockdowns_older_than_the_heartbeat_names(state, centre):
    with pytest.raises(Rollback):
        shut(heard(state, centre, lockdown=2), centre, 1)


def test_equivocation_between_two_lockdown_statements(state, centre):
    state = shut(state, centre, 2, lockdown())
    with pytest.raises(Equivocation):
        shut(state, centre, 2)


def test_fast_forward_of_the_lockdowns(state, centre):
    state = shut(state, centre, 1)
    with pytest.raises(FastForward):
        shut(state, centre, MAX_LEAP + 2)
    assert shut(state, centre, MAX_LEAP + 1)


def test_a_command_counts_once(state, centre):
    state, command = commanded(state, centre, 3)
    assert (state.command, command.counter) == (3, 3)
    with pytest.raises(Replayed):
        commanded(state, centre, 3)
    assert commanded(state, centre, 4)[0].command == 4


def test_rollback_of_the_command_counter(state, centre):
    with pytest.raises(Rollback):
        commanded(commanded(state, centre, 3)[0], centre, 2)


def test_fast_forward_of_the_command_counter(state, centre):
    state, _ = commanded(state, centre, 1)
    with pytest.raises(FastForward):
        commanded(state, centre, MAX_LEAP + 2)
    assert commanded(state, centre, MAX_LEAP + 1)


def test_what_an_agent_hears_of_first_may_have_any_number(state, centre):
    """A device with the name of one that was there for long, or that lied to the server."""
    far = MAX_LEAP * 5
    named = {"policy": centre.policy_version(far), "lockdown": far}
    assert heard(in_force(state, centre, far), centre, **named)
    assert in_force(heard(state, centre, **named), centre, far)
    assert shut(state, centre, far)
    assert commanded(state, centre, far)


def test_a_command_that_was_queued_is_for_another_session(state, centre):
    with pytest.raises(WrongSession):
        commanded(state, centre, 1, session="ff" * 8)


def test_a_command_is_never_carried_out_late(state, centre):
    with pytest.raises(Expired):
        commanded(state, centre, 1, at=NOW + timedelta(seconds=5))
    assert commanded(state, centre, 1, at=NOW + timedelta(seconds=4.9))
