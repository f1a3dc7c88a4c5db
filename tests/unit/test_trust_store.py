"""What the agent keeps on disk: found again after a restart, and never half."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import pytest

from edge_agent.core.decision import Denial
from edge_agent.core.door_mode import Override
from edge_agent.trust_store import TrustStore
from schemas.command import Action
from schemas.errors import (
    Equivocation,
    PartialBundle,
    Rollback,
    UnknownKey,
    WrongAudience,
)
from schemas.policy import DoorMode
from schemas.revocation import RevocationReason
from tests.centre import AGENT, DOOR, NOW, SESSION, Centre, card, lockdown
from tests.mortal import Killed, mortal
from tests.store_desk import CARDS, Clock, bring, opener, put_in_force


@pytest.fixture
def centre():
    return Centre()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def open_store(tmp_path, centre, clock):
    return opener(tmp_path / "trust.db", centre, clock)


async def test_a_refusal_leaves_the_disk_as_it_was(open_store, centre):
    async with open_store() as store:
        await put_in_force(store, centre.policy(7, CARDS))
        with pytest.raises(Rollback):
            await store.offer_policy(centre.policy(6)[0], NOW)
        with pytest.raises(Equivocation):
            await store.offer_policy(centre.policy(7)[0], NOW)
        before = store.state
    async with open_store() as store:
        assert store.state == before
        assert store.find(CARDS[0].card).card == CARDS[0]


async def test_everything_believed_is_believed_again_after_a_restart(open_store, centre):
    centre.revoke("key-version", "front/1")
    async with open_store() as store:
        await store.take_root(centre.next_root("policy"))
        assert store.locked_down() == ()
        await put_in_force(store, centre.policy(1, CARDS))
        await store.take_root(centre.next_root("revoke"))
        await store.take_heartbeat(centre.heartbeat(key_floors={"front": 2}), NOW)
        await store.take_lockdowns(centre.lockdowns(4, lockdown()), NOW)
        await store.take_command(centre.command(9), SESSION, NOW)
        before = store.state
        assert before.renewed == {"revoke"}
    async with open_store() as store:
        assert store.state == before
        assert store.state.ring == before.ring
        assert store.lockdowns == (lockdown(),)
        assert store.locked_down() == (DOOR,)
        assert store.key_floor("front") == 2
        assert store.key_floor("back") == 1
        await store.take_revocation(centre.log_after(0), NOW)
    async with open_store() as store:
        assert store.denied_versions("front") == {1}
        assert store.denied_versions("back") == frozenset()


async def test_a_denial_counts_until_the_policy_answers_it(open_store, centre):
    for kind, subject in (("card", CARDS[1].card), ("person", "p2"), ("card", "f" * 16)):
        centre.revoke(kind, subject, RevocationReason.STOLEN)
    cleared = [card(1, card_cleared=1), card(2, person_cleared=2), *CARDS[3:]]
    async with open_store() as store:
        await put_in_force(store, centre.policy(1, CARDS))
        await store.take_revocation(centre.log_after(0), NOW)
        assert store.find(CARDS[0].card).denial is None
        assert store.find(CARDS[1].card).denial == Denial(1, RevocationReason.STOLEN)
        assert store.find(CARDS[2].card).denial == Denial(2, RevocationReason.STOLEN)
        assert store.find("f" * 16).denial == Denial(3, RevocationReason.STOLEN)
        await put_in_force(store, centre.policy(2, cleared))
        assert store.find(CARDS[1].card).denial is None
        assert store.find(CARDS[2].card).denial is None
        centre.revoke("card", CARDS[1].card)
        centre.revoke("person", "p2")
        await store.take_revocation(centre.log_after(3), NOW)
        assert store.find(CARDS[1].card).denial == Denial(4, RevocationReason.REVOKED)
        assert store.find(CARDS[2].card).denial == Denial(5, RevocationReason.REVOKED)


async def test_a_snapshot_adds_to_the_denials_and_takes_none_away(open_store, centre):
    other = Centre()
    other.keys = centre.keys
    other.revoke("card", CARDS[0].card)
    centre.revoke("card", CARDS[1].card, RevocationReason.LOST)
    centre.revoke("card", CARDS[1].card, RevocationReason.STOLEN)
    async with open_store() as store:
        await store.take_revocation(other.log_after(0), NOW)
        await store.take_snapshot(*centre.snapshot(), NOW)
        assert store.state.revocation == centre.head
        assert store.find(CARDS[0].card).denial == Denial(1, RevocationReason.REVOKED)
        assert store.find(CARDS[1].card).denial == Denial(2, RevocationReason.STOLEN)


async def test_an_older_entry_never_stands_in_for_a_newer_one(open_store, centre):
    for reason in (RevocationReason.LOST, RevocationReason.STOLEN):
        centre.revoke("card", CARDS[1].card, reason)
    async with open_store() as store:
        await store.take_revocation(centre.log_after(0), NOW)
        await store.take_root(centre.next_root("revoke"))
        await store.take_revocation(centre.log_after(0, 1), NOW)
        assert store.state.revocation.sequence == 1
        assert store.find(CARDS[1].card).denial == Denial(2, RevocationReason.STOLEN)


async def test_a_command_keeps_the_mode_it_sets_together_with_its_counter(open_store, centre):
    until = NOW + timedelta(hours=1)
    async with open_store() as store:
        command = await store.take_command(
            centre.command(1, Action.BLOCK, until=until), SESSION, NOW
        )
        assert command.action is Action.BLOCK
        await store.take_command(centre.command(2, door="back"), SESSION, NOW)
        await store.take_command(centre.command(3, Action.PULSE), SESSION, NOW)
        modes = {
            DOOR: Override(DoorMode.BLOCKED, until),
            "back": Override(DoorMode.LOCKED),
        }
        assert store.overrides == modes
    async with open_store() as store:
        assert store.overrides == modes
        await store.take_command(centre.command(4, Action.NORMAL), SESSION, NOW)
        assert set(store.overrides) == {"back"}
    async with open_store() as store:
        assert set(store.overrides) == {"back"}
        assert store.state.command == 4


async def test_an_unlocked_door_is_locked_after_a_restart_and_not_blocked_as_before_it(
    open_store, centre
):
    unlocked = Override(DoorMode.UNLOCKED, NOW + timedelta(hours=1))
    async with open_store() as store:
        await store.take_command(centre.command(1, Action.BLOCK), SESSION, NOW)
        blocked = store.overrides[DOOR]
        await store.take_command(centre.command(2, Action.UNLOCK), SESSION, NOW)
        assert store.overrides[DOOR] == blocked  # that it may be unlocked is the doors' to say
        await store.set_override(DOOR, unlocked)
        assert store.overrides[DOOR] == unlocked
    async with open_store() as store:
        assert store.overrides == {}
        assert store.state.command == 2
        await store.set_override(DOOR, blocked)
    async with open_store() as store:
        assert store.overrides == {DOOR: blocked}
        await store.set_override(DOOR, None)
        assert store.overrides == {}


async def test_a_clock_that_is_set_back_makes_a_heartbeat_no_younger(open_store, centre, clock):
    async with open_store() as store:
        assert store.heartbeat_age_s(NOW) is None
        later = NOW + timedelta(seconds=40)
        await store.take_heartbeat(centre.heartbeat(), later)
        assert store.heartbeat_age_s(later) == 40
        clock.monotonic_s += 60
        assert store.heartbeat_age_s(NOW) == 100
        assert store.heartbeat_age_s(NOW + timedelta(hours=1)) == 3600
        await store.take_heartbeat(centre.heartbeat(), NOW)  # again, as brokers do
        assert store.heartbeat_age_s(NOW) == 100
        await store.take_heartbeat(centre.heartbeat(later), later)
        assert store.heartbeat_age_s(later) == 0
    clock.time = NOW + timedelta(minutes=10)
    async with open_store() as store:
        assert store.heartbeat_age_s(NOW) == 560


async def test_a_heartbeat_keeps_doors_fresh_only_once_all_that_it_names_is_here(
    open_store, centre, clock
):
    minute = timedelta(minutes=1)
    policy, lockdowns = centre.policy_version(1, CARDS), centre.lockdowns(1, lockdown())
    revocation = centre.revoke("card", CARDS[1].card)
    names = {"policy": policy, "revocation": centre.head, "lockdown": 1}
    async with open_store() as store:
        await store.take_heartbeat(centre.heartbeat(), NOW)
        for minutes in range(1, 4):
            clock.monotonic_s += 60
            at = NOW + minutes * minute
            await store.take_heartbeat(centre.heartbeat(at, **names), at)
            assert store.heartbeat_age_s(at) == 60 * minutes
        await store.take_revocation(revocation, at)
        await store.take_lockdowns(lockdowns, at)
        assert store.heartbeat_age_s(at) == 180
    clock.time = at
    async with open_store() as store:  # a restart answers nothing
        assert store.heartbeat_age_s(at) == 180
        await put_in_force(store, centre.policy(1, CARDS))
        assert store.heartbeat_age_s(at) == 0
        clock.monotonic_s += 30
        await store.take_heartbeat(centre.heartbeat(at + minute / 2, **names), at + minute / 2)
        assert store.heartbeat_age_s(at + minute / 2) == 0


async def test_new_keys_answer_no_heartbeat_that_asked_for_more(open_store, centre):
    centre.revoke("card", CARDS[1].card)
    async with open_store() as store:
        await store.take_heartbeat(centre.heartbeat(revocation=centre.head), NOW)
        await store.take_root(centre.next_root("online"))
        await store.take_root(centre.next_root("revoke"))
        assert store.heartbeat_age_s(NOW) is None


async def test_a_policy_by_a_key_that_was_replaced_keeps_no_door_fresh(open_store, centre, clock):
    """Who stole the old key and owns the broker passes heartbeats on, and the new policy never."""
    async with open_store() as store:
        await put_in_force(store, centre.policy(9, [card(1)]))  # the thief's
        await store.take_heartbeat(
            centre.heartbeat(policy=centre.policy_version(9, [card(1)])), NOW
        )
        thief = centre.keys.signers["policy"]
        await store.take_root(centre.next_root("policy"))
        for minutes in (1, 2):
            clock.monotonic_s += 60
            at = NOW + timedelta(minutes=minutes)
            await store.take_heartbeat(
                centre.heartbeat(at, policy=centre.policy_version(10, CARDS)), at
            )
            assert store.heartbeat_age_s(at) == 60 * minutes
        honest, centre.keys.signers["policy"] = centre.keys.signers["policy"], thief
        with pytest.raises(UnknownKey):
            await store.offer_policy(centre.policy(11)[0], at)
        centre.keys.signers["policy"] = honest
        await put_in_force(store, centre.policy(10, CARDS))
        assert store.heartbeat_age_s(at) == 0


async def test_the_state_directory_of_another_site_is_not_taken_over(tmp_path, centre, clock):
    path = tmp_path / "trust.db"
    await (await TrustStore.open(path, centre.keys.root, AGENT, clock)).close()
    elsewhere = Centre().keys.root
    with pytest.raises(Equivocation):
        await TrustStore.open(path, elsewhere, AGENT, clock)
    other_site = elsewhere.model_copy(update={"site": "elsewhere"})
    with pytest.raises(WrongAudience):
        await TrustStore.open(path, other_site, AGENT, clock)
    with pytest.raises(WrongAudience):
        await TrustStore.open(path, Centre("gm").keys.root, AGENT, clock)


async def test_the_pinned_file_stays_as_old_as_it_is(open_store, centre):
    async with open_store() as store:
        await store.take_root(centre.next_root())
    async with open_store() as store:
        assert store.state.root.version == 2


async def test_a_lost_leaf_is_an_error_and_not_an_unknown_card(open_store, centre, tmp_path):
    policy = centre.policy(1, CARDS, levels=2)
    async with open_store() as store:
        await put_in_force(store, policy)
        with sqlite3.connect(tmp_path / "trust.db") as database:
            database.execute("DELETE FROM chunks")
        with pytest.raises(PartialBundle):
            store.find(CARDS[0].card)
    async with open_store() as store:
        assert store.applied is None
        assert store.staged == centre.policy_version(1, CARDS, levels=2)
        while store.missing:
            await store.add_chunk(policy[1][store.missing[0]])
        await store.apply_staged()
        assert [store.find(each.card).card for each in CARDS] == CARDS


async def test_a_kill_at_new_policy_keys_leaves_nothing_staged_by_the_old_ones(
    tmp_path, centre, clock
):
    pinned = centre.keys.root
    with mortal(tmp_path) as fate:
        store = await TrustStore.open(fate.path, pinned, AGENT, clock)
        await bring(store, centre.policy(2, CARDS))
        fate.arm("after", 1)
        with pytest.raises(Killed):
            await store.take_root(centre.next_root("policy"))
        await store.close()
        store = await TrustStore.open(fate.path, pinned, AGENT, clock)
        assert (store.state.root.version, store.staged) == (2, None)
        await store.close()
