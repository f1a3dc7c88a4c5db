"""Real taps at a door that goes by what its agent believes, and the events they leave."""

from __future__ import annotations

import pytest

from edge_agent.card.application import UnlockQuestion, unlock
from edge_agent.card.rekeying import rekey
from edge_agent.card.session import perform
from edge_agent.readers.port import Feedback
from schemas.lockdown import Lockdown
from schemas.revocation import RevocationReason
from tests.card_desk import Channel
from tests.door_rig import DOOR, REVOCATIONS, SERIAL, door_rig

CARD = SERIAL.hex()
GRANTED, DENIED = Feedback.GRANTED, Feedback.DENIED


@pytest.fixture
async def rig(tmp_path):
    async with door_rig(tmp_path) as rig:
        await rig.put_policy()
        await rig.start()
        yield rig


async def revoke(rig, *entry):
    await rig.store.take_revocation(rig.voice.revoke(*entry), rig.clock.now())


def policy_card(rig, **changes):
    (card,) = rig.policy()["cards"]
    return {"cards": [card | changes]}


async def shut(rig, **changes):
    lockdown = Lockdown(id="fire", scope="site", name="demo", since=rig.clock.now(), **changes)
    await rig.store.take_lockdowns(rig.voice.lock_down(lockdown), rig.clock.now())
    await rig.look()


async def test_a_grant_says_by_what_the_door_went(rig):
    assert await rig.tap(await rig.card()) is GRANTED
    data = await rig.last_access()
    assert data["policy_version"] == 1
    assert data["freshness"] == "fresh"
    assert data["revocation_seq"] == 0
    assert 0 <= data["policy_age_s"] < 90


@pytest.mark.parametrize(("entry", "reason"), REVOCATIONS)
async def test_the_tap_after_a_revocation_is_denied_on_both_sides(rig, entry, reason):
    card = await rig.card()
    assert await rig.tap(card) is GRANTED
    await revoke(rig, *entry)
    for direction in ("in", "out"):
        assert await rig.tap(card, direction) is DENIED
        data = await rig.last_access()
        assert (data["reason"], data["revocation_seq"]) == (reason, 1)


async def test_a_revocation_counts_while_a_policy_is_half_there(rig):
    card = await rig.card()
    answer = rig.voice.new_policy(**rig.policy(**policy_card(rig, card_cleared=1)))
    await revoke(rig, CARD)
    assert await rig.store.offer_policy(answer, rig.clock.now())
    assert await rig.tap(card) is DENIED


async def test_the_policy_answers_a_revocation_and_a_newer_one_counts_again(rig):
    card = await rig.card()
    await revoke(rig, CARD)
    assert await rig.tap(card) is DENIED
    await rig.put_policy(**policy_card(rig, card_cleared=1))
    assert await rig.tap(card) is GRANTED
    await revoke(rig, CARD, "card", RevocationReason.DAMAGED)
    assert await rig.tap(card) is DENIED
    assert (await rig.last_access())["reason"] == "card_damaged"


async def test_a_lockdown_keeps_out_who_is_not_exempt_and_keeps_nobody_in(rig):
    card = await rig.card()
    await shut(rig)
    assert await rig.tap(card) is DENIED
    assert (await rig.last_access())["reason"] == "lockdown"
    assert await rig.tap(card, "out") is GRANTED
    await shut(rig, exempt=("staff",))
    assert await rig.tap(card) is GRANTED
    await rig.store.take_lockdowns(rig.voice.lock_down(), rig.clock.now())
    assert await rig.tap(card) is GRANTED


async def test_a_key_floor_shuts_out_older_keys_whatever_the_policy_accepts(rig):
    card = await rig.card()
    floors = {DOOR: 2}
    await rig.store.take_heartbeat(rig.voice.heartbeat(key_floors=floors), rig.clock.now())
    assert await rig.tap(card) is DENIED
    assert (await rig.last_access())["reason"] == "key_version_retired"


async def test_a_denied_version_shuts_out_no_card_that_has_another(rig):
    """Version 1 is preferred again after a roll-back when its secret turns out to be known."""
    card = await rig.card()
    element = rig.elements.get(DOOR, "intl")
    element.draw(2, rig.random)
    overlap = UnlockQuestion("demo", DOOR, "intl", 2, (1,))
    held_up = Channel(card.transmit)
    card.reset()
    await perform(unlock(overlap, rig.random), held_up, element, rig.clock)
    await perform(rekey(SERIAL, overlap, 1, rig.random), held_up, element, rig.clock)
    old = await rig.card()
    await rig.put_policy(door={"key_version": 1, "accepted_key_versions": [2]})
    assert await rig.tap(card) is GRANTED
    assert (await rig.last_access())["key_version"] == 1
    await revoke(rig, f"{DOOR}/1", "key-version", RevocationReason.COMPROMISED)
    assert await rig.tap(card) is GRANTED
    assert (await rig.last_access())["key_version"] == 2
    assert await rig.tap(old) is DENIED
    assert (await rig.last_access())["reason"] == "key_version_retired"


async def test_out_of_touch_a_door_lets_in_its_offline_list_alone_and_lets_everyone_out(rig):
    card = await rig.card()
    await rig.put_policy(door={"grace_s": 0})
    assert await rig.tap(card) is DENIED
    data = await rig.last_access()
    assert (data["reason"], data["freshness"]) == ("policy_expired", "expired")
    assert await rig.tap(card, "out") is GRANTED
    await rig.put_policy(door={"grace_s": 0}, **policy_card(rig, offline=True))
    assert await rig.tap(card) is GRANTED
    assert (await rig.last_access())["freshness"] == "expired"
    await revoke(rig, CARD)
    assert await rig.tap(card) is DENIED


async def test_a_door_that_never_heard_the_server_lets_nobody_in(tmp_path):
    async with door_rig(tmp_path) as rig:
        envelope = rig.voice.new_policy(**rig.policy(**policy_card(rig, offline=True)))
        for digest in await rig.store.offer_policy(envelope, rig.clock.now()):
            await rig.store.add_chunk(rig.voice.chunks[digest])
        await rig.store.apply_staged()
        await rig.start()
        card = await rig.card()
        assert await rig.tap(card) is DENIED
        data = await rig.last_access()
        assert (data["reason"], data["freshness"]) == ("policy_expired", "none")
        assert data["policy_age_s"] is None
        assert await rig.tap(card, "out") is GRANTED
