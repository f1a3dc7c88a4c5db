"""New keys at the tap: whatever is torn, the card opens as before or as after."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_agent.card.apdu import StatusWord
from edge_agent.card.layout import Slot
from edge_agent.card.rekeying import RekeyOutcome
from edge_agent.core.proof import ProofOutcome
from edge_agent.virtual.chip import CardTorn, Tear, TearMoment
from tests.card_desk import Desk
from tests.unit.test_card_binding import tears


@pytest.fixture(params=["gm", "intl"])
def desk(request):
    return Desk(request.param)


def overlap(desk, preferred, other):
    """What a lock asks while both versions open: in a rotation, or while one is rolled back."""
    return replace(desk.question, key_version=preferred, accepted_key_versions=(other,))


async def bound(desk, version=1):
    card = desk.card()
    await desk.bind(card, replace(desk.question, key_version=version))
    return card


async def test_a_card_that_opened_is_given_the_next_version_and_keeps_the_old(desk):
    card, question = await bound(desk), overlap(desk, 2, 1)
    proof = await desk.tap(card, question)
    assert (proof.outcome, proof.key_version) == (ProofOutcome.PROVED, 1)
    assert await desk.rekey(card, question, proof) is RekeyOutcome.REKEYED
    assert (await desk.tap(card, question)).key_version == 2
    old_lock = await desk.tap(card, desk.question)
    assert (old_lock.outcome, old_lock.key_version) == (ProofOutcome.PROVED, 1)


async def test_a_card_with_both_versions_is_never_asked_for_the_old_one(desk):
    card, question = await bound(desk), overlap(desk, 2, 1)
    await desk.rekey(card, question, await desk.tap(card, question))
    for _ in range(3):
        assert (await desk.tap(card, question)).key_version == 2


async def test_the_third_version_takes_the_place_of_the_first(desk):
    card = await bound(desk)
    for old, new in ((1, 2), (2, 3)):
        question = overlap(desk, new, old)
        assert await desk.rekey(card, question, await desk.tap(card, question)) == "rekeyed"
    assert (await desk.tap(card, overlap(desk, 3, 2))).key_version == 3
    assert (await desk.tap(card, desk.question)).outcome is ProofOutcome.VERSION_UNSUPPORTED
    assert len(card.image.applications) == 1


async def test_after_a_roll_back_a_card_that_has_only_the_new_version_gets_the_old_one(desk):
    card, question = await bound(desk, version=2), overlap(desk, 1, 2)
    proof = await desk.tap(card, question)
    assert proof.key_version == 2
    assert await desk.rekey(card, question, proof) is RekeyOutcome.REKEYED
    assert (await desk.tap(card, question)).key_version == 1


@pytest.mark.parametrize("direction", [(1, 2), (2, 1)], ids=["forward", "rolled back"])
async def test_a_card_torn_anywhere_opens_and_the_next_tap_does_the_rest(desk, direction):
    old, new = direction
    question = overlap(desk, new, old)
    whole = await bound(desk, old)
    proof = await desk.tap(whole, question)
    whole.arm(None)
    await desk.rekey(whole, question, proof)
    apdus, writes = whole.counted
    assert apdus > 12
    after_writes = [Tear(TearMoment.AFTER_WRITE, n) for n in range(1, writes + 1)]
    for tear in [*tears(apdus, writes), *after_writes]:
        card = await bound(desk, old)
        proof = await desk.tap(card, question)
        card.arm(tear)
        with pytest.raises(CardTorn):
            await desk.rekey(card, question, proof)
        for asked in (question, overlap(desk, old, new)):
            assert (await desk.tap(card, asked)).outcome is ProofOutcome.PROVED, tear
        old_lock = replace(desk.question, key_version=old)
        assert (await desk.tap(card, old_lock)).outcome is ProofOutcome.PROVED, tear
        again = await desk.tap(card, question)
        if again.key_version == old:
            assert await desk.rekey(card, question, again) is RekeyOutcome.REKEYED, tear
        assert (await desk.tap(card, question)).key_version == new, tear


async def test_the_last_write_is_the_one_that_counts(desk):
    card, question = await bound(desk), overlap(desk, 2, 1)
    proof = await desk.tap(card, question)
    card.arm(None)
    await desk.rekey(card, question, proof)
    _, writes = card.counted
    for at in range(1, writes + 1):
        card = await bound(desk)
        proof = await desk.tap(card, question)
        card.arm(Tear(TearMoment.AFTER_WRITE, at))
        with pytest.raises(CardTorn):
            await desk.rekey(card, question, proof)
        assert (await desk.tap(card, question)).key_version == (2 if at == writes else 1), at


async def test_the_slot_in_use_is_never_written(desk):
    card, question = await bound(desk), overlap(desk, 2, 1)
    (before,) = card.image.applications.values()
    await desk.rekey(card, question, await desk.tap(card, question))
    (after,) = card.image.applications.values()
    used = [Slot.A.key(purpose) for purpose in (1, 2, 3)]
    assert [after.keys[key].key for key in used] == [before.keys[key].key for key in used]


async def test_another_card_in_the_field_is_left_alone(desk):
    card, question = await bound(desk), overlap(desk, 2, 1)
    proof = await desk.tap(card, question)
    other = replace(proof, card_id="ff" * 8)
    assert await desk.rekey(card, question, other) is RekeyOutcome.ANOTHER_CARD
    assert (await desk.tap(card, question)).key_version == 1


async def test_a_card_without_the_version_it_is_said_to_have_proved_is_left_alone(desk):
    card, question = await bound(desk, version=3), overlap(desk, 2, 1)
    proof = await desk.tap(card, replace(desk.question, key_version=3))
    assert await desk.rekey(card, question, replace(proof, key_version=1)) == "another_card"


@pytest.mark.parametrize("instruction", ["d4", "d6"], ids=["key", "info"])
async def test_a_card_that_takes_nothing_goes_on_as_it_was(desk, instruction):
    card, question = await bound(desk), overlap(desk, 2, 1)
    proof = await desk.tap(card, question)
    honest = card.transmit

    def refuses(apdu):
        if apdu[1:2].hex() == instruction:
            return StatusWord.MAC_WRONG.value.to_bytes(2)
        return honest(apdu)

    card.transmit = refuses
    assert await desk.rekey(card, question, proof) is RekeyOutcome.REFUSED
    card.transmit = honest
    assert (await desk.tap(card, question)).key_version == 1


async def test_new_keys_that_are_not_proved_are_not_committed(desk):
    card, question = await bound(desk), overlap(desk, 2, 1)
    proof = await desk.tap(card, question)
    honest = card.transmit

    def swallows(apdu):  # says that it took the key and did not
        return b"\x90\x00" if apdu[1] == 0xD4 else honest(apdu)

    card.transmit = swallows
    assert await desk.rekey(card, question, proof) is RekeyOutcome.NOT_PROVED
    card.transmit = honest
    assert (await desk.tap(card, question)).key_version == 1


async def test_what_goes_over_the_air_has_no_key_in_it(desk):
    card, question = await bound(desk), overlap(desk, 2, 1)
    proof = await desk.tap(card, question)
    await desk.rekey(card, question, proof)
    (application,) = card.image.applications.values()
    said = b"".join(command.data for command in desk.channel.commands)
    said += b"".join(desk.channel.responses)
    for record in application.keys.values():
        assert record.key not in said
