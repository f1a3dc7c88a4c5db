"""A card that was stolen and opened up: its keys are known, and played by what a thief builds.

It stays that one card. The locks ask, decide and believe as real ones do; some of them go by what
was revoked, from a trust store.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_agent.card.layout import Info, Slot, application_id
from edge_agent.readers.port import Feedback
from edge_agent.virtual.card_memory import Image
from edge_agent.virtual.card_os import VirtualCard
from schemas.reasons import Reason
from schemas.secure_messaging import session_key
from tests.card_desk import SERIAL, Desk
from tests.copy_desk import OTHER, Lock, chip, overlap, rekeyed
from tests.door_rig import DOOR, REVOCATIONS, door_rig

CARD = SERIAL.hex()
GRANTED, DENIED = Feedback.GRANTED, Feedback.DENIED


def named(image: Image, serial: bytes) -> Image:
    return replace(image, serial=serial)


def in_domain(image: Image, domain: str) -> Image:
    """Its keys under the name of another domain."""
    ((file_id, application),) = image.applications.items()
    moved = replace(application, name=application_id("demo", domain))
    return replace(image, applications={file_id: moved})


async def test_a_full_clone_opens_what_the_card_opens(desk, card):
    """Else nothing here would prove anything."""
    assert await Lock(desk).reason(chip(desk, card.image).transmit) is None


async def test_its_keys_are_of_no_use_under_another_card_id(desk, card):
    for serial in (OTHER, bytes(8), SERIAL[::-1], bytes(b ^ 0xFF for b in SERIAL)):
        clone = chip(desk, named(card.image, serial))
        decision = await Lock(desk).present(clone.transmit)
        assert not decision.granted
        assert decision.reason in (Reason.CARD_AUTH_FAILED, Reason.UNKNOWN_CARD)
    known = chip(desk, named(card.image, OTHER))  # Bob's, who may pass here
    assert await Lock(desk).reason(known.transmit) is Reason.CARD_AUTH_FAILED


async def test_its_keys_are_of_no_use_in_another_domain(desk, card):
    there = Desk(desk.suite_name, seed=2, domain="back")
    lock = Lock(there, domain="back")
    clone = chip(desk, in_domain(card.image, "back"))
    assert await lock.reason(clone.transmit) is Reason.CARD_AUTH_FAILED
    await there.bind(own := there.card(), there.question)
    own.reset()
    assert await lock.reason(own.transmit) is None  # the domain works
    for key in next(iter(card.image.applications.values())).keys.values():
        answer = desk.suite.encrypt_block(key.key, bytes(16))
        assert not await there.element.check(SERIAL, 1, bytes(16), answer)


async def test_its_keys_are_of_no_use_as_those_of_another_version(desk, card):
    ((file_id, application),) = card.image.applications.items()
    info = Info(desk.suite_name, {Slot.A: 2}, Slot.A, True).encode()
    files = {at: replace(file, content=info) for at, file in application.files.items()}
    keys = {at: replace(key, version=2) for at, key in application.keys.items()}
    claimed = replace(application, files=files, keys=keys)
    clone = chip(desk, replace(card.image, applications={file_id: claimed}))
    for lock in (overlap(desk), Lock(desk, key_version=2)):
        assert await lock.reason(clone.transmit) is Reason.CARD_AUTH_FAILED


async def test_its_keys_do_not_say_which_secret_they_come_from(desk, card):
    """By what a lock does with them: none is the secret, or a key of another purpose or card."""
    stored = [k.key for a in card.image.applications.values() for k in a.keys.values()]
    assert len(set(stored)) == 3
    for secret in stored:
        made = {desk.suite.diversify(secret, serial) for serial in (SERIAL, OTHER)}
        made |= {session_key(desk.suite, secret, label, bytes(16)) for label in (1, 2)}
        for key in (secret, *made):
            answer = desk.suite.encrypt_block(key, bytes(16))
            assert not await desk.element.check(OTHER, 1, bytes(16), answer)


async def test_after_a_rotation_a_clone_from_before_is_denied_as_soon_as_the_old_keys_are(
    desk, card
):
    clone = chip(desk, card.image)
    await rekeyed(desk, card)
    assert await overlap(desk).reason(clone.transmit) is None  # the overlap takes old keys
    retired = Lock(desk, key_version=2)
    assert await retired.reason(clone.transmit) is Reason.KEY_VERSION_RETIRED
    denied = overlap(desk)
    denied.denied = frozenset({1})
    assert await denied.reason(clone.transmit) is Reason.KEY_VERSION_RETIRED
    floored = overlap(desk)
    floored.floor = 2
    assert await floored.reason(clone.transmit) is Reason.KEY_VERSION_RETIRED
    for lock in (retired, denied, floored):
        card.reset()
        assert await lock.reason(card.transmit) is None


async def test_a_clone_that_is_held_up_in_the_overlap_is_re_keyed_like_the_card(desk, card):
    """So a rotation is no answer to a card that was opened: it must be revoked."""
    clone = chip(desk, card.image)
    await rekeyed(desk, clone)
    assert await Lock(desk, key_version=2).reason(clone.transmit) is None


# With a trust store: the same clone at a door whose agent is told of the theft.


async def cloned(rig) -> tuple[VirtualCard, VirtualCard]:
    card = await rig.card()
    clone = VirtualCard(None, "intl", SERIAL, bytes(16), rig.random)
    clone._memory.write(card.image)
    clone.reset()
    return card, clone


@pytest.mark.parametrize(("entry", "reason"), REVOCATIONS)
async def test_a_complete_clone_is_denied_everywhere_once_it_is_revoked(tmp_path, entry, reason):
    """Card and clone, in and out, and whatever policy or key version comes after."""
    (tmp_path / "one").mkdir()
    async with door_rig(tmp_path / "one") as rig:
        await rig.put_policy()
        await rig.start()
        held = await cloned(rig)
        for each in held:
            assert await rig.tap(each) is GRANTED
        await rig.store.take_revocation(rig.voice.revoke(*entry), rig.clock.now())
        for each in held:
            for direction in ("in", "out"):
                assert await rig.tap(each, direction) is DENIED
                assert (await rig.last_access())["reason"] == reason
        await rig.put_policy()  # a policy that still has the card does not bring it back
        assert await rig.tap(held[1]) is DENIED
        rig.elements.get(DOOR, "intl").draw(2, rig.random)
        await rig.put_policy(door={"key_version": 2, "accepted_key_versions": [1]})
        for each in held:  # nor does a rotation: it is not let in, so it is given no keys
            assert await rig.tap(each) is DENIED
            assert len(next(iter(each.image.applications.values())).keys) == 3


async def test_a_clone_whose_holder_is_taken_out_of_the_policy_is_nobody(tmp_path):
    async with door_rig(tmp_path) as rig:
        await rig.put_policy()
        await rig.start()
        _, clone = await cloned(rig)
        assert await rig.tap(clone) is GRANTED
        await rig.put_policy(cards=[])
        assert await rig.tap(clone) is DENIED
        assert (await rig.last_access())["reason"] == "unknown_card"
