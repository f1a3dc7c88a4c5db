"""How a policy comes to be in force: chunk by chunk, and then at once."""

from __future__ import annotations

import sqlite3

import pytest

from schemas.card_chunks import MAX_CHUNK_BYTES, slots, write_leaf
from schemas.errors import (
    MalformedChunk,
    MixAndMatch,
    PartialBundle,
)
from schemas.versions import Version
from tests.centre import DOOR, NOW, Centre, card
from tests.store_desk import CARDS, Clock, bring, digests, naming, opener, put_in_force


@pytest.fixture
def centre():
    return Centre()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def open_store(tmp_path, centre, clock):
    return opener(tmp_path / "trust.db", centre, clock)


@pytest.mark.parametrize("levels", [1, 2])
async def test_a_policy_and_its_cards_are_found_again_after_a_restart(open_store, centre, levels):
    async with open_store() as store:
        assert store.applied is None
        assert store.find(CARDS[0].card).card is None
        await put_in_force(store, centre.policy(3, CARDS, levels=levels))
    async with open_store() as store:
        assert store.applied.version == 3
        assert store.applied.hash == store.state.policy_hash
        assert store.applied.doors[DOOR].settings.domain == DOOR
        assert [store.find(each.card).card for each in CARDS] == CARDS
        assert store.find("f" * 16).card is None
        assert store.find(None).card is None
        assert store.staged is None


async def test_until_its_chunks_are_there_a_policy_is_not_in_force(open_store, centre):
    changed = [card(1, person="other"), *CARDS[2:]]
    async with open_store() as store:
        await put_in_force(store, centre.policy(1, CARDS))
        missing = await bring(store, centre.policy(2, changed), only=0)
        assert store.missing == missing
        assert store.staged == centre.policy_version(2, changed)
        with pytest.raises(PartialBundle):
            await store.apply_staged()
        assert store.applied.version == 1
        assert store.find(CARDS[1].card).card.person == "p1"
        await put_in_force(store, centre.policy(2, changed))
        assert store.find(CARDS[1].card).card.person == "other"
        assert store.find(CARDS[0].card).card is None


async def test_with_nothing_staged_nothing_comes_into_force(open_store):
    async with open_store() as store:
        with pytest.raises(PartialBundle):
            await store.apply_staged()


@pytest.mark.parametrize("levels", [1, 2])
async def test_one_changed_card_costs_one_leaf(open_store, centre, levels):
    changed = [card(0, person="other"), *CARDS[1:]]
    async with open_store() as store:
        await put_in_force(store, centre.policy(1, CARDS, levels=levels))
        envelope, chunks = centre.policy(2, changed, levels=levels)
        missing = await store.offer_policy(envelope, NOW)
        added = 0
        while missing:
            added += 1
            missing = await store.add_chunk(chunks[missing[0]])
        assert added == levels


@pytest.mark.parametrize("levels", [1, 2])
async def test_gathering_goes_on_after_a_restart(open_store, centre, levels):
    policy = centre.policy(2, CARDS, levels=levels)
    async with open_store() as store:
        await put_in_force(store, centre.policy(1, CARDS[:3]))
        missing = await bring(store, policy, only=5)
        assert missing
    async with open_store() as store:
        assert store.staged == centre.policy_version(2, CARDS, levels=levels)
        assert set(store.missing) == set(missing)
        for _ in range(len(policy[1])):
            if store.missing:
                await store.add_chunk(policy[1][store.missing[0]])
        await store.apply_staged()
        assert [store.find(each.card).card for each in CARDS] == CARDS


async def test_old_chunks_go_once_no_policy_names_them(open_store, centre, tmp_path):
    old, new = centre.policy(1, CARDS, levels=2), centre.policy(2, CARDS[:5])
    async with open_store() as store:
        await put_in_force(store, old)
        assert digests(tmp_path) == set(old[1])
        await bring(store, new, only=1)
        assert set(old[1]) < digests(tmp_path)
        await bring(store, new)
        await store.apply_staged()
        assert digests(tmp_path) == set(new[1])


async def test_what_a_staged_policy_shares_with_one_before_it_is_kept_over_a_restart(
    open_store, centre
):
    both = CARDS[1:3]
    assert len({slots(each.card)[0] for each in both}) == 1  # so they have an index in common
    old, new = (centre.policy(n, both[:n], levels=2) for n in (1, 2))
    async with open_store() as store:
        await bring(store, old)
        await bring(store, new, only=0)
    async with open_store() as store:
        while store.missing:
            await store.add_chunk(new[1][store.missing[0]])
        await store.apply_staged()
        assert [store.find(each.card).card for each in both] == both


async def test_what_a_crash_kept_from_being_deleted_goes_at_the_next_start(
    open_store, centre, tmp_path
):
    async with open_store() as store:
        await put_in_force(store, centre.policy(1, CARDS))
    with sqlite3.connect(tmp_path / "trust.db") as database:
        database.execute("INSERT INTO chunks VALUES (x'00', x'00')")
    async with open_store() as store:
        assert "00" not in digests(tmp_path)
        assert store.find(CARDS[0].card).card == CARDS[0]


async def test_chunks_alone_are_not_synced_one_by_one_and_all_else_is(open_store, centre):
    def synced(database):
        return database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL

    async with open_store() as store:
        await bring(store, centre.policy(1, CARDS), only=1)
        assert await store._writer.run(synced)


async def test_a_chunk_that_nobody_asked_for_is_refused(open_store, centre, tmp_path):
    stray = write_leaf([card(99)])
    async with open_store() as store:
        with pytest.raises(MalformedChunk):
            await store.add_chunk(stray)
        await bring(store, centre.policy(1, CARDS), only=1)
        before = digests(tmp_path)
        with pytest.raises(MalformedChunk):
            await store.add_chunk(stray)
        with pytest.raises(MalformedChunk, match="limit"):
            await store.add_chunk(bytes(MAX_CHUNK_BYTES + 1))
        assert digests(tmp_path) == before


async def test_a_chunk_that_is_held_already_changes_nothing(open_store, centre, tmp_path):
    policy = centre.policy(1, CARDS)
    async with open_store() as store:
        await bring(store, policy, only=1)
        before = store.missing
        (held,) = digests(tmp_path)
        assert await store.add_chunk(policy[1][held]) == before
        await put_in_force(store, policy)
        for body in policy[1].values():
            assert await store.add_chunk(body) == ()
        assert digests(tmp_path) == set(policy[1])


async def test_a_chunk_that_holds_what_does_not_belong_there_is_refused(
    open_store, centre, tmp_path
):
    leaf = write_leaf([CARDS[0]])
    for levels, body, slot in ((1, leaf, "00"), (1, b"no leaf\n", "00"), (2, leaf, "00")):
        cards = {slot: centre.digest(body)}
        async with open_store() as store:
            await store.offer_policy(naming(centre, cards, levels), NOW)
            with pytest.raises(MalformedChunk):
                await store.add_chunk(body)
            assert store.missing == (centre.digest(body),)
            assert digests(tmp_path) == set()


async def test_a_leaf_in_an_indexs_place_is_refused_also_if_it_is_kept_already(open_store, centre):
    envelope, chunks = centre.policy(1, CARDS[:1])
    (digest,) = chunks
    async with open_store() as store:
        await put_in_force(store, (envelope, chunks))
        with pytest.raises(MalformedChunk):
            await store.offer_policy(naming(centre, {"00": digest}, 2, version=2), NOW)
        assert store.staged is None


async def test_the_policy_in_force_stages_nothing(open_store, centre):
    policy = centre.policy(1, CARDS)
    async with open_store() as store:
        await put_in_force(store, policy)
        await bring(store, centre.policy(2, CARDS[:1]), only=0)
        assert await store.offer_policy(policy[0], NOW) == ()
        assert store.staged is None


async def test_what_came_meanwhile_can_rule_a_staged_policy_out(open_store, centre):
    async with open_store() as store:
        await bring(store, centre.policy(2, CARDS))
        other = Version(version=2, hash="ab" * 32)
        await store.take_heartbeat(centre.heartbeat(policy=other), NOW)
        with pytest.raises(MixAndMatch):
            await store.apply_staged()
        assert (store.staged, store.applied) == (None, None)


async def test_what_an_old_key_signed_is_staged_no_more_under_a_new_one(open_store, centre):
    async with open_store() as store:
        await bring(store, centre.policy(2, CARDS))
        await store.take_root(centre.next_root("online"))
        assert store.staged is not None
        await store.take_root(centre.next_root("policy"))
        assert store.staged is None
