"""The ESAM behind the SecureElement port, and what is said when it can't be used."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.card.apdu import Command, Response
from edge_agent.card.application import UnlockQuestion
from edge_agent.card.binding import BindOutcome
from edge_agent.card.session import listed, perform
from edge_agent.core.proof import ProofOutcome
from edge_agent.secure_element.esam import EsamElement
from edge_agent.secure_element.esam_chip import (
    Esam,
    EsamUnavailable,
    Loan,
)
from edge_agent.secure_element.esam_slots import VirtualSlot
from edge_agent.secure_element.port import ElementUnavailable
from schemas.keys import Item, Purpose
from schemas.secure_messaging import unprotect
from tests.card_desk import SERIAL as CARD
from tests.card_desk import TRANSPORT_KEY, Desk, TickingClock, repeatable
from tests.esam_desk import ESAM_SERIAL, EsamDesk
from tests.esam_rig import CHALLENGE, EsamRig, Slot

WRONG = bytes(16)
WRITE_AUTH = bytes.fromhex("84d40111")
AUTH_HEADER = bytes.fromhex("34000105")


@pytest.fixture(params=["gm", "intl"])
def rig(request):
    return EsamRig(request.param)


async def test_it_does_what_the_software_element_does_with_the_same_secrets(rig):
    for version in (1, 2):
        assert await rig.element.admit(CARD, version, CHALLENGE) == await rig.software.admit(
            CARD, version, CHALLENGE
        )
        key = rig.desk.card_key(Purpose.AUTH, version, CARD)
        right = rig.desk.suite.encrypt_block(key, CHALLENGE)
        assert await rig.element.check(CARD, version, CHALLENGE, right) is True
        assert await rig.element.check(CARD, version, CHALLENGE, WRONG) is False
        body = {"plaintext": b"x" * 16, "command_header": bytes(2) + b"\x81\0"}
        body["command_header"] = bytes.fromhex("04d68100")
        assert await rig.element.protect(
            CARD, version, **body, card_challenge=CHALLENGE
        ) == await rig.software.protect(CARD, version, **body, card_challenge=CHALLENGE)


async def test_a_cryptogram_of_another_length_is_wrong_and_no_error(rig):
    for cryptogram in (b"", b"x", bytes(17)):
        assert not await rig.element.check(CARD, 1, CHALLENGE, cryptogram)


async def protect_key(rig, purpose=Purpose.AUTH):
    return await rig.element.protect_key(
        CARD,
        1,
        purpose,
        key_header=AUTH_HEADER,
        command_header=WRITE_AUTH,
        card_challenge=CHALLENGE,
        transport_key=TRANSPORT_KEY,
    )


async def test_a_cards_transport_key_is_lent_to_it_when_it_is_needed(rig):
    rig.esam.lend = rig.lend
    body = await protect_key(rig)
    record = unprotect(rig.desk.suite, TRANSPORT_KEY, CHALLENGE, WRITE_AUTH, body)
    assert record == AUTH_HEADER + rig.desk.card_key(Purpose.AUTH, 1, CARD)
    assert rig.lent == [Loan(1, 1, CARD, TRANSPORT_KEY)]


async def test_without_who_lends_no_new_card_gets_keys(rig):
    with pytest.raises(ElementUnavailable, match="control key lends it"):
        await protect_key(rig)
    assert rig.esam.trouble is None


async def test_a_loan_that_is_refused_is_explained(rig):
    rig.esam.lend = rig.lend
    rig.desk.control_key = bytes(16)
    with pytest.raises(ElementUnavailable, match=r"not lent.*MAC_WRONG"):
        await protect_key(rig)


async def test_the_next_version_is_written_under_the_cards_own_key(rig):
    body = await rig.element.protect_next_key(
        CARD,
        2,
        Purpose.AUTH,
        key_header=bytes.fromhex("34000205"),
        command_header=bytes.fromhex("84d40121"),
        card_challenge=CHALLENGE,
        under=1,
    )
    maintain = rig.desk.card_key(Purpose.MAINTAIN, 1, CARD)
    record = unprotect(rig.desk.suite, maintain, CHALLENGE, bytes.fromhex("84d40121"), body)
    assert record[4:] == rig.desk.card_key(Purpose.AUTH, 2, CARD)


async def test_a_version_or_domain_it_does_not_hold_is_named_and_no_trouble(rig):
    with pytest.raises(ElementUnavailable, match="no key version 9 of domain front"):
        await rig.element.admit(CARD, 9, CHALLENGE)
    back = EsamElement(rig.esam, "back", rig.desk.suite.name)
    with pytest.raises(ElementUnavailable, match="of domain back"):
        await back.admit(CARD, 1, CHALLENGE)
    assert rig.esam.trouble is None


async def test_a_domain_of_the_other_suite_is_refused(rig):
    other = EsamElement(rig.esam, "front", "gm" if rig.desk.suite.name == "intl" else "intl")
    with pytest.raises(ElementUnavailable, match="is of suite"):
        await other.admit(CARD, 1, CHALLENGE)


async def test_an_empty_slot_is_missing_and_well_again_once_it_is_there(rig):
    chip, rig.slot.chip = rig.slot.chip, None
    assert await rig.why() == "missing"
    assert await rig.why() == "missing"
    rig.slot.chip = chip
    await rig.element.admit(CARD, 1, CHALLENGE)
    assert rig.changes == ["missing", None]


async def test_one_that_is_taken_out_is_removed_and_comes_back(rig):
    await rig.element.admit(CARD, 1, CHALLENGE)
    chip, rig.slot.chip = rig.slot.chip, None
    assert await rig.why() == "removed"
    rig.slot.chip = chip
    await rig.element.admit(CARD, 1, CHALLENGE)
    assert rig.changes == ["removed", None]


async def test_a_short_loss_of_power_is_not_noticed_at_the_door(rig):
    await rig.element.admit(CARD, 1, CHALLENGE)
    chip = rig.slot.chip
    chip.reset()
    chip._os = None
    await rig.element.admit(CARD, 1, CHALLENGE)
    assert rig.slot.powered == 2
    assert rig.changes == []


async def test_another_esam_in_the_slot_is_not_used(rig):
    rig.slot.chip = EsamDesk(rig.desk.suite.name, serial=bytes(8)).issue().load(1).chip
    assert await rig.why() == "wrong_serial"
    assert "should be 45534d0000000001" in str(rig.esam.trouble)


@pytest.mark.parametrize(
    "answer", [b"\x6a\x82", b"\x90\x00", b"", b"\x6f\x00\x90\x00", b"\xff" * 20, b"\x61\x00"]
)
async def test_a_chip_that_talks_nonsense_is_unfit(rig, answer):
    class Fool(Slot):
        async def transmit(self, apdu: bytes) -> bytes:
            return answer

    rig.esam._slot = Fool(rig.slot.chip)
    assert await rig.why() == "unfit"


async def test_a_bank_card_in_the_slot_is_unfit(rig):
    rig.slot.chip = Desk("gm").card()
    assert await rig.why() == "unfit"


async def test_a_worn_out_one_is_told_of_and_still_opens(rig):
    for _ in range(15):
        package = bytearray(rig.desk.package(Item.KEYS, 3))
        package[-1] ^= 1
        rig.desk.send(bytes(package))
    await rig.esam.look()
    assert rig.esam.trouble.reason == "worn_out"
    assert await rig.element.admit(CARD, 1, CHALLENGE)
    challenge = await rig.esam.challenge()
    package = rig.desk.package(Item.KEYS, 3, challenge=challenge)
    with pytest.raises(EsamUnavailable, match="no more keys"):
        await rig.esam.write(package[:4], package[5:], challenge)
    assert rig.changes == ["worn_out"]


async def test_taps_at_several_doors_do_not_mix_on_one_chip(rig):
    async def unhurried(apdu: bytes, chip=rig.slot.chip) -> bytes:
        await asyncio.sleep(0)
        return chip.transmit(apdu)

    rig.slot.transmit = unhurried
    cards = [bytes((n,)) * 8 for n in range(20)]
    answers = await asyncio.gather(*(rig.element.admit(card, 1, CHALLENGE) for card in cards))
    assert answers == [await rig.software.admit(card, 1, CHALLENGE) for card in cards]


async def test_a_tap_that_is_cut_off_half_way_disturbs_no_other(rig):
    asked = asyncio.Event()

    async def stuck(apdu: bytes) -> bytes:
        if apdu[1] == 0xFA and not asked.is_set():
            asked.set()
            await asyncio.Event().wait()
        return rig.desk.chip.transmit(apdu)

    rig.slot.transmit = stuck
    first = asyncio.create_task(rig.element.admit(CARD, 1, CHALLENGE))
    await asked.wait()
    second = asyncio.create_task(rig.element.admit(bytes(8), 1, CHALLENGE))
    first.cancel()
    assert await second == await rig.software.admit(bytes(8), 1, CHALLENGE)


class T0:
    """A reader that hands T=0 through: an answer is announced by 61XX and fetched."""

    def __init__(self, transmit):
        self._transmit = transmit
        self._waiting = b""

    def transmit(self, apdu: bytes) -> bytes:
        command = Command.decode(apdu)
        if command.ins == 0xC0:
            le = command.le
            part, self._waiting = self._waiting[:le], self._waiting[le:]
            if self._waiting:
                return part + bytes((0x61, min(len(self._waiting), 255)))
            return part + b"\x90\x00"
        answer = Response.decode(self._transmit(apdu))
        if not answer.data:
            return answer.encode()
        if not command.data and command.le == 256:  # case 2: the right length is named
            return bytes((0x6C, len(answer.data)))
        if not command.data:
            return answer.encode()
        self._waiting = answer.data
        return bytes((0x61, min(len(answer.data), 10)))


async def test_a_chip_that_speaks_t0_is_understood(rig):
    t0 = T0(rig.slot.chip.transmit)

    async def transmit(apdu: bytes) -> bytes:
        return t0.transmit(apdu)

    rig.slot.transmit = transmit
    assert await rig.element.admit(CARD, 1, CHALLENGE) == await rig.software.admit(
        CARD, 1, CHALLENGE
    )
    assert (await rig.esam.state()).serial == ESAM_SERIAL
    assert set((await rig.esam.table("front")).versions) == {1, 2}


async def run(rig, script, card):
    class Channel:
        entered = 0.0

        async def transmit(self, apdu: bytes) -> bytes:
            return card.transmit(apdu)

    card.reset()
    keys = listed({CARD.hex(): TRANSPORT_KEY})
    return await perform(script, Channel(), rig.element, TickingClock(), keys)


async def test_a_card_is_bound_and_opens_with_it(rig):
    from edge_agent.card.application import unlock
    from edge_agent.card.binding import bind

    rig.esam.lend = rig.lend
    card = Desk(rig.desk.suite.name).card()
    question = UnlockQuestion("demo", "front", rig.desk.suite.name, 1)
    bound = await run(rig, bind(question, repeatable(3)), card)
    assert bound.outcome is BindOutcome.BOUND
    assert len(rig.lent) == 1
    proof = await run(rig, unlock(question, repeatable(4)), card)
    assert proof.outcome is ProofOutcome.PROVED
    await rig.esam.close()
    proof = await run(rig, unlock(question, repeatable(4)), card)
    assert proof.outcome is ProofOutcome.ELEMENT_UNAVAILABLE


async def test_a_card_that_opened_is_given_the_next_version_with_no_key_lent(rig):
    from edge_agent.card.application import unlock
    from edge_agent.card.binding import bind
    from edge_agent.card.rekeying import rekey

    rig.esam.lend = rig.lend
    card = Desk(rig.desk.suite.name).card()
    first = UnlockQuestion("demo", "front", rig.desk.suite.name, 1)
    await run(rig, bind(first, repeatable(3)), card)
    question = UnlockQuestion("demo", "front", rig.desk.suite.name, 2, (1,))

    def tap():
        proof = yield from unlock(question, repeatable(4))
        return proof, (yield from rekey(CARD, question, proof.key_version, repeatable(5)))

    proof, outcome = await run(rig, tap(), card)
    assert (proof.key_version, outcome) == (1, "rekeyed")
    assert len(rig.lent) == 1  # for binding
    for asked, version in ((question, 2), (first, 1)):
        proof = await run(rig, unlock(asked, repeatable(6)), card)
        assert (proof.outcome, proof.key_version) == (ProofOutcome.PROVED, version)


async def test_a_virtual_slot_powers_the_chip_in_its_file(tmp_path):
    path = tmp_path / "esam.bin"
    EsamDesk("gm", path=path).issue().load(1)
    esam = Esam(VirtualSlot(path, repeatable(1)), ESAM_SERIAL, ["front"])
    assert set((await esam.table("front")).versions) == {1}
    path.unlink()
    with pytest.raises(EsamUnavailable, match="no virtual ESAM"):
        await esam.state()
    assert esam.trouble.reason == "removed"
    path.write_bytes(b"{}")
    with pytest.raises(EsamUnavailable, match="not the memory"):
        await esam.state()
    await esam.close()
