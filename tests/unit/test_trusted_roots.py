"""What new keys change of what is believed, and what a heartbeat shows to be lacking."""

from __future__ import annotations

from datetime import timedelta

import pytest

from edge_agent.core.trusted_state import (
    Lacks,
    after_command,
    after_heartbeat,
    after_lockdowns,
    after_policy,
    after_revocation,
    after_root,
    after_snapshot,
    lacks,
)
from schemas.errors import (
    Rollback,
    UnknownKey,
)
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
from tests.centre import AGENT, NOW, SESSION, lockdown

__all__ = ["centre", "state"]


def test_a_root_document_is_followed_by_the_next(state, centre):
    assert after_root(state, centre.keys.root_envelope) is state
    after = after_root(state, centre.next_root())
    assert after.root.version == 2
    assert not after.renewed
    assert after.ring == after.root.key_ring()


def test_what_a_renewed_role_said_with_its_old_key_is_not_believed(state, centre):
    old = centre.heartbeat()
    state = after_root(state, centre.next_root("online"))
    with pytest.raises(UnknownKey):
        after_heartbeat(state, old, AGENT, NOW)
    assert heard(state, centre).heartbeat


def test_a_fast_forward_by_a_stolen_online_key_is_undone_by_a_new_one(state, centre):
    far = {"lockdown": MAX_LEAP, "policy": Version(version=MAX_LEAP, hash=OTHER_HASH)}
    far |= {"revocation": LogHead(sequence=MAX_LEAP, hash=OTHER_HASH), "root": MAX_LEAP}
    state = heard(state, centre, LATER, **far)
    state = commanded(shut(state, centre, MAX_LEAP, lockdown()), centre, MAX_LEAP)[0]
    state = after_root(state, centre.next_root("online"))
    assert state.lockdowns.active  # a denial stays until an honest word ends it
    assert state.heartbeat.issued == LATER  # and no door becomes stale by new keys
    assert not lacks(state)
    state = heard(state, centre, lockdown=1)
    assert shut(state, centre, 1).lockdowns.active == ()
    assert commanded(state, centre, 1)[0].command == 1
    assert in_force(state, centre, 1).policy.counter == 1


def test_a_fast_forward_by_a_stolen_policy_key_is_undone_by_a_new_one(state, centre):
    state = heard(in_force(state, centre, MAX_LEAP), centre)
    state = heard(state, centre, LATER, **named_by(state))
    state = after_root(state, centre.next_root("policy"))
    assert state.policy.counter == MAX_LEAP  # in force until there is another
    later = LATER + timedelta(seconds=30)
    assert in_force(state, centre, 2 * MAX_LEAP)  # the server went beyond what the door reported
    same_number = Version(version=MAX_LEAP, hash=OTHER_HASH)
    assert lacks(heard(state, centre, later, policy=same_number)).policy
    named = heard(state, centre, later, policy=centre.policy_version(2))
    assert lacks(named).policy
    state = in_force(named, centre, 2)
    assert state.policy.counter == 2
    with pytest.raises(Rollback):
        in_force(state, centre, 1)


def test_a_fast_forward_by_a_stolen_revoke_key_is_undone_by_a_new_one(state, centre):
    honest = [centre.revoke("card", f"{n:016x}") for n in (1, 2)]
    state, _ = after_revocation(state, honest[0], AGENT, NOW)
    far = centre.snapshot(counter=MAX_LEAP, hash=OTHER_HASH)
    state, _ = after_snapshot(state, far[0], AGENT, NOW, far[1])
    state = heard(state, centre, revocation=state.revocation)
    state = after_root(state, centre.next_root("revoke"))
    assert state.revocation.sequence == MAX_LEAP
    same_number = LogHead(sequence=MAX_LEAP, hash="cd" * 32)
    assert heard(state, centre, LATER, revocation=same_number)
    state = heard(state, centre, LATER, revocation=centre.head)
    assert lacks(state).revocation_after == 0
    by_entries, denied = after_revocation(state, centre.log_after(0), AGENT, NOW)
    assert by_entries.revocation == centre.head
    assert len(denied) == 2
    snapshot = centre.snapshot()
    by_snapshot, _ = after_snapshot(state, snapshot[0], AGENT, NOW, snapshot[1])
    assert by_snapshot.revocation == centre.head
    assert not lacks(by_snapshot)


def test_a_log_goes_on_under_a_new_key_where_it_stood(state, centre):
    state = revoked(state, centre, 1)
    state = after_root(state, centre.next_root("revoke"))
    assert not lacks(heard(state, centre, revocation=centre.head))
    state = revoked(state, centre, 2)
    assert state.revocation == centre.head
    with pytest.raises(Rollback):
        after_snapshot(state, centre.snapshot(counter=1)[0], AGENT, NOW, {})


def test_key_floors_hold_until_the_new_online_key_says_what_they_are(state, centre):
    state = heard(state, centre, key_floors={"front": 255})
    state = after_root(state, centre.next_root("online"))
    assert state.key_floors == {"front": 255}
    assert heard(state, centre, key_floors={"front": 2}).key_floors == {"front": 2}


def test_new_keys_of_one_role_leave_what_the_others_named(state, centre):
    named = {
        "policy": Version(version=5, hash=OTHER_HASH),
        "revocation": LogHead(sequence=5, hash=OTHER_HASH),
        "lockdown": 5,
    }
    state = heard(state, centre, **named)
    for role, forgotten in {
        "policy": {"policy": None},
        "revoke": {"revocation": LogHead()},
    }.items():
        after = after_root(state, centre.next_root(role))
        kept = after.heartbeat.model_dump()
        assert kept == state.heartbeat.model_copy(update=forgotten).model_dump()
        state = heard(after, centre, NOW + timedelta(minutes=centre.keys.version), **named)


def test_nothing_is_counted_anew_while_an_old_key_still_signs(state, centre):
    state = shut(heard(state, centre, LATER, lockdown=2), centre, 2, lockdown())
    state = commanded(in_force(revoked(state, centre, 1), centre, 5), centre, 3)[0]
    before = centre.lockdowns(1), centre.heartbeat(), centre.policy(4)[0], centre.command(2)
    centre.keys.signers["online"].append(centre.keys.new_signer())
    centre.keys.signers["policy"].append(centre.keys.new_signer())
    state = after_root(state, centre.next_root())
    for take, old in zip((after_lockdowns, after_heartbeat, after_policy), before, strict=False):
        with pytest.raises(Rollback):
            take(state, old, AGENT, LATER)
    with pytest.raises(Rollback):
        after_command(state, before[3], AGENT, SESSION, NOW)


def test_without_a_heartbeat_nothing_is_known_to_lack(state):
    assert lacks(state) == Lacks()
    assert not lacks(state)


def test_a_heartbeat_tells_what_is_lacking_until_it_is_there(state, centre):
    centre.revoke("card", "0" * 16)
    named = {
        "root": 2,
        "policy": centre.policy_version(3),
        "revocation": centre.head,
        "lockdown": 4,
    }
    state = heard(state, centre, **named)
    assert lacks(state) == Lacks(1, policy=True, revocation_after=0, lockdown=True)
    state, _ = after_revocation(state, centre.log_after(0), AGENT, NOW)
    centre.revoke("card", "1" * 16)
    more = heard(state, centre, LATER, **(named | {"revocation": centre.head}))
    assert lacks(more).revocation_after == 1
    state = shut(in_force(state, centre, 3), centre, 4)
    assert lacks(state) == Lacks(1)
    state = after_root(state, centre.next_root())
    assert not lacks(state)
