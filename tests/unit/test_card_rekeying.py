"""New keys at the tap: whatever is torn, the card opens as before or as after."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_agent.card import layout
from edge_agent.card.apdu import StatusWord
from edge_agent.card.layout import Info, Slot
from edge_agent.card.rekeying import RekeyOutcome
from edge_agent.core.proof import ProofOutcome
from edge_agent.virtual.chip import CardTorn, Tear, TearMoment
from tests.card_desk import Desk


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


async def test_new_keys_take_twelve_commands_and_no_new_selection(desk):
    card, question = await bound(desk), overlap(desk, 2, 1)
    proof = await desk.tap(card, question)
    await desk.rekey(card, question, proof)
    said = [command.ins for command in desk.channel.commands]
    assert len(said) == 12
    assert layout.SELECT not in said


async def test_a_version_that_is_written_over_is_taken_out_of_the_record_first(desk):
    card, question = await bound(desk), overlap(desk, 2, 1)
    await desk.rekey(card, question, await desk.tap(card, question))
    third = overlap(desk, 3, 2)
    proof = await desk.tap(card, third)
    card.arm(Tear(TearMoment.AFTER_WRITE, 1))
    with pytest.raises(CardTorn):
        await desk.rekey(card, third, proof)
    (application,) = card.image.applications.values()
    info = Info.decode(application.files[layout.INFO_SFI].content)
    assert info == Info(desk.suite_name, {Slot.B: 2}, Slot.B, True)


@pytest.mark.parametrize("before", [True, False], ids=["bound mutual", "bound plain"])
@pytest.mark.parametrize("now", [True, False], ids=["asked mutual", "asked plain"])
async def test_both_versions_open_whether_or_not_the_reader_proves_itself(desk, before, now):
    card = desk.card()
    await desk.bind(card, replace(desk.question, mutual=before))
    question = replace(overlap(desk, 2, 1), mutual=now)
    assert await desk.rekey(card, question, await desk.tap(card, question)) == "rekeyed"
    for version in (1, 2):
        for mutual in (True, False):
            lock = replace(desk.question, key_version=version, mutual=mutual)
            assert (await desk.tap(card, lock)).outcome is ProofOutcome.PROVED, lock


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
    before = card.image
    assert await desk.rekey(card, question, other) is RekeyOutcome.REFUSED
    assert card.image == before


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


async def test_a_card_that_lost_its_power_after_it_opened_is_left_alone(desk):
    card, question = await bound(desk), overlap(desk, 2, 1)
    proof = await desk.tap(card, question)
    before = card.image
    card.reset()
    assert await desk.rekey(card, question, proof) is RekeyOutcome.ANOTHER_CARD
    assert card.image == before


async def test_the_right_slot_is_kept_whatever_record_is_shown_meanwhile(desk):
    """Who sits between says that the version in use is in the other slot: the card knows better."""
    card, question = await bound(desk), overlap(desk, 2, 1)
    proof = await desk.tap(card, question)
    before = card.image
    honest = card.transmit
    lie = Info(desk.suite_name, {Slot.B: 1}, Slot.B, True).encode() + b"\x90\x00"
    card.transmit = lambda apdu: lie if apdu[1] == layout.READ_BINARY else honest(apdu)
    assert await desk.rekey(card, question, proof) is RekeyOutcome.REFUSED
    assert card.image == before


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
