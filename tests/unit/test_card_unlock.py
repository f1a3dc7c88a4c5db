from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.card.apdu import Command, Response
from edge_agent.card.application import UnlockQuestion
from edge_agent.card.binding import BindOutcome
from edge_agent.card.layout import GET_CHALLENGE, INTERNAL_AUTHENTICATE, Slot
from edge_agent.core.proof import ProofOutcome
from edge_agent.readers.port import CardRemoved
from edge_agent.secure_element.port import ElementUnavailable
from schemas.policy import DoorSettings
from tests.card_desk import SERIAL, Desk


@pytest.fixture(params=["gm", "intl"])
def desk(request):
    return Desk(request.param)


async def test_a_bound_card_proves_itself(desk):
    card = desk.card()
    assert (await desk.bind(card)).outcome is BindOutcome.BOUND
    proof = await desk.tap(card)
    assert proof.outcome is ProofOutcome.PROVED
    assert proof.card_id == SERIAL.hex()
    assert proof.key_version == 1


async def test_the_response_time_is_of_the_challenge_alone(desk):
    card = desk.card()
    await desk.bind(card)
    proof = await desk.tap(card)
    assert proof.response_ms == pytest.approx(1.0)  # one tick of the clock, of five commands


async def test_unlock_without_mutual_authentication_takes_three_commands(desk):
    card = desk.card()
    question = replace(desk.question, mutual=False)
    await desk.bind(card, question)
    assert (await desk.tap(card, question)).outcome is ProofOutcome.PROVED
    assert len(desk.channel.commands) == 3


async def test_policy_can_ask_for_mutual_authentication_of_a_card_that_needs_none(desk):
    card = desk.card()
    await desk.bind(card, replace(desk.question, mutual=False))
    assert (await desk.tap(card)).outcome is ProofOutcome.PROVED
    assert len(desk.channel.commands) == 5


async def test_a_card_bound_for_mutual_authentication_is_asked_so_whatever_policy_says(desk):
    card = desk.card()
    await desk.bind(card)
    proof = await desk.tap(card, replace(desk.question, mutual=False))
    assert proof.outcome is ProofOutcome.PROVED


async def test_a_fresh_card_has_an_id_but_no_application(desk):
    proof = await desk.tap(desk.card())
    assert (proof.outcome, proof.card_id) == (ProofOutcome.NO_APPLICATION, SERIAL.hex())
    assert proof.response_ms is None


async def test_a_card_of_another_domain_has_no_application(desk):
    card = desk.card()
    await desk.bind(card)
    back = Desk(desk.suite_name, seed=2, domain="back")
    assert (await back.tap(card)).outcome is ProofOutcome.NO_APPLICATION


async def test_a_card_of_another_lock_with_the_same_domain_name_fails(desk):
    card = desk.card()
    await desk.bind(card)
    assert (await Desk(desk.suite_name, seed=2).tap(card)).outcome is ProofOutcome.FAILED


async def test_a_copied_card_fails_with_the_right_id_and_the_wrong_keys(desk):
    original, copy = desk.card(), desk.card()
    await desk.bind(original)
    await Desk(desk.suite_name, seed=2).bind(copy)
    assert original.serial == copy.serial
    proof = await desk.tap(copy)
    assert (proof.outcome, proof.card_id) == (ProofOutcome.FAILED, SERIAL.hex())


async def test_a_copied_card_that_admits_any_reader_still_fails(desk):
    original, copy = desk.card(), desk.card()
    await desk.bind(original)
    await Desk(desk.suite_name, seed=2).bind(copy, replace(desk.question, mutual=False))

    def copied(apdu: bytes) -> bytes:
        answer = copy.transmit(apdu)
        return b"\x90\x00" if apdu[1] == 0x82 else answer

    proof = await desk.tap_on(copied)
    assert proof.outcome is ProofOutcome.FAILED
    assert proof.response_ms is not None


async def test_a_recorded_conversation_opens_nothing(desk):
    card = desk.card()
    await desk.bind(card)
    await desk.tap(card)
    recording = iter(desk.channel.responses)
    proof = await desk.tap_on(lambda _: next(recording))
    assert proof.outcome is ProofOutcome.FAILED


async def test_each_tap_has_its_own_challenge(desk):
    card = desk.card()
    await desk.bind(card)
    challenges = set()
    for _ in range(20):
        await desk.tap(card)
        challenges |= {c.data for c in desk.channel.commands if c.ins == INTERNAL_AUTHENTICATE}
    assert len(challenges) == 20


async def test_a_card_can_not_reflect_the_readers_own_proof(desk):
    """It gives its next challenge as if it were the answer, and hopes the lock makes it."""
    card = desk.card()
    await desk.bind(card)
    admitted: list[bytes] = []

    def reflecting(apdu: bytes) -> bytes:
        command = Command.decode(apdu)
        if command.ins == GET_CHALLENGE:
            return bytes(16) + b"\x90\x00"
        if command.ins == 0x82:
            admitted.append(command.data)
            return b"\x90\x00"
        if command.ins == INTERNAL_AUTHENTICATE:
            return admitted[0] + b"\x90\x00"
        return card.transmit(apdu)

    card.reset()
    assert (await desk.tap_on(reflecting)).outcome is ProofOutcome.FAILED
    # Even an oracle for the very challenge would not help: the two keys differ.
    challenge = b"r" * 16
    cryptogram = await desk.element.admit(SERIAL, 1, challenge)
    assert not await desk.element.check(SERIAL, 1, challenge, cryptogram)


async def test_the_preferred_version_is_asked_where_the_card_has_it(desk):
    card = desk.card()
    await desk.bind(card, replace(desk.question, key_version=2))
    question = replace(desk.question, key_version=2, accepted_key_versions=(1,))
    proof = await desk.tap(card, question)
    assert (proof.outcome, proof.key_version) == (ProofOutcome.PROVED, 2)


async def test_an_older_accepted_version_opens_during_the_overlap(desk):
    card = desk.card()
    await desk.bind(card)
    question = replace(desk.question, key_version=2, accepted_key_versions=(1,))
    proof = await desk.tap(card, question)
    assert (proof.outcome, proof.key_version) == (ProofOutcome.PROVED, 1)


async def test_a_retired_version_is_named(desk):
    card = desk.card()
    await desk.bind(card)
    proof = await desk.tap(card, replace(desk.question, key_version=2))
    assert proof.outcome is ProofOutcome.VERSION_RETIRED


async def test_a_version_from_the_future_is_named(desk):
    card = desk.card()
    await desk.bind(card, replace(desk.question, key_version=3))
    proof = await desk.tap(card, replace(desk.question, key_version=2))
    assert proof.outcome is ProofOutcome.VERSION_UNSUPPORTED


async def test_a_card_can_not_talk_the_lock_down_to_an_older_version(desk):
    """Both versions on the card, the old one preferred by it: the new one is asked."""
    card = desk.card()
    await desk.bind(card)
    record = bytes((1, 1 if desk.suite_name == "gm" else 2, 0xA5, Slot.A, 1, 2, 0))

    def claiming(apdu: bytes) -> bytes:
        if apdu[1] == 0xB0:
            return record.ljust(16, b"\x00") + b"\x90\x00"
        return card.transmit(apdu)

    card.reset()
    question = replace(desk.question, key_version=2, accepted_key_versions=(1,))
    proof = await desk.tap_on(claiming, question)
    assert (proof.outcome, proof.key_version) == (ProofOutcome.FAILED, 2)


async def test_a_card_can_not_choose_the_suite(desk):
    card = desk.card()
    await desk.bind(card)
    other = "intl" if desk.suite_name == "gm" else "gm"
    proof = await desk.tap(card, replace(desk.question, suite=other))
    assert proof.outcome is ProofOutcome.VERSION_UNSUPPORTED


async def test_an_element_without_the_version_is_unavailable(desk):
    card = desk.card()
    await desk.bind(card, replace(desk.question, key_version=3))
    lock = Desk(desk.suite_name)
    lock.element._versions.pop(3)
    proof = await lock.tap(card, replace(desk.question, key_version=3))
    assert (proof.outcome, proof.card_id) == (ProofOutcome.ELEMENT_UNAVAILABLE, SERIAL.hex())


async def test_a_failing_element_is_no_failure_of_the_card(desk, monkeypatch):
    card = desk.card()
    await desk.bind(card)

    async def broken(*_):
        raise ElementUnavailable("the contact slot is empty")

    monkeypatch.setattr(desk.element, "check", broken)
    assert (await desk.tap(card)).outcome is ProofOutcome.ELEMENT_UNAVAILABLE


async def test_a_card_that_leaves_is_told_to_the_caller(desk):
    card = desk.card()
    await desk.bind(card)

    def leaving(apdu: bytes) -> bytes:
        if apdu[1] == INTERNAL_AUTHENTICATE:
            raise CardRemoved("gone")
        return card.transmit(apdu)

    card.reset()
    with pytest.raises(CardRemoved):
        await desk.tap_on(leaving)


@pytest.mark.parametrize(
    "answer", ["", "90", "9000", "6d00", "6e00", "6a82", "6f009000", "6f8490009000", "00" * 300]
)
async def test_a_card_that_makes_no_sense_is_unreadable(desk, answer):
    proof = await desk.tap_on(lambda _: bytes.fromhex(answer))
    assert (proof.outcome, proof.card_id) == (ProofOutcome.UNREADABLE, None)


async def test_a_serial_of_another_length_is_no_card_id(desk):
    fci = Response(bytes.fromhex("6f0ba5099f0c0611223344556677")[:-1], 0x9000).encode()
    proof = await desk.tap_on(lambda _: fci)
    assert (proof.outcome, proof.card_id) == (ProofOutcome.UNREADABLE, None)


@given(
    st.lists(st.binary(max_size=300) | st.binary(max_size=40).map(lambda b: b + b"\x90\x00")),
    st.integers(0, 6),
)
async def test_no_bytes_of_a_card_prove_or_crash_anything(answers, honest):
    """The card is real for some commands, then says whatever it likes."""
    desk = Desk("intl")
    card = desk.card()
    await desk.bind(card)
    card.reset()
    told = iter(answers)
    count = 0

    def hostile(apdu: bytes) -> bytes:
        nonlocal count
        count += 1
        if count <= honest and apdu[1] != INTERNAL_AUTHENTICATE:
            return card.transmit(apdu)
        return next(told, b"\x6f\x00")

    assert (await desk.tap_on(hostile)).outcome is not ProofOutcome.PROVED


def test_the_question_comes_from_policy():
    settings = DoorSettings(
        domain="front", suite="gm", key_version=4, accepted_key_versions=(2, 3), mutual=False
    )
    question = UnlockQuestion.of("demo", settings)
    assert question == UnlockQuestion("demo", "front", "gm", 4, (3, 2), False)
