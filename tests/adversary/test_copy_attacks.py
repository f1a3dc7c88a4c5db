"""Who copies, relays, replays or bends a card: each is denied, with the reason that says why.

What is played against the door are the real scripts, a virtual card and the real decision; between
them sits whoever the test is about. Who has the card's own keys, or stands next to the card with a
fast enough radio, is not in here: those pass (docs/card.md).
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.card import layout
from edge_agent.card.apdu import Command, Response
from edge_agent.card.layout import Info, Slot
from edge_agent.card.rekeying import RekeyOutcome, rekey
from edge_agent.secure_element.port import Purpose
from edge_agent.virtual.card_os import VirtualCard
from schemas.reasons import Reason
from tests.card_desk import SERIAL, Desk, send
from tests.copy_desk import OTHER, Lock, chip, instead, overlap, rekeyed, without_keys


async def test_the_card_itself_opens(lock, card):
    assert await lock.reason(card.transmit) is None


async def test_a_copied_serial_is_denied(lock, card, desk):
    assert desk.card().serial == card.serial
    decision = await lock.present(desk.card().transmit)
    assert decision.reason is Reason.CARD_AUTH_FAILED
    assert decision.detail == "a bound card's serial, without its keys"


async def test_a_copied_serial_of_nobody_is_unknown(lock, desk):
    nobody = VirtualCard(None, desk.suite_name, bytes(8), bytes(16), desk.random)
    assert await lock.reason(nobody.transmit) is Reason.UNKNOWN_CARD


async def test_a_copy_of_all_memory_but_the_keys_is_denied(lock, card, desk):
    copy = chip(desk, without_keys(card, desk))
    assert send(copy, "00b0810010").data == b""  # nothing is selected yet
    assert await lock.reason(copy.transmit) is Reason.CARD_AUTH_FAILED
    # It comes as far as the original, refuses the lock's proof, and is asked no more.
    assert lock.channel.commands[-1].ins == layout.EXTERNAL_AUTHENTICATE
    assert lock.channel.responses[1] == b"".join(
        (Info(desk.suite_name, {Slot.A: 1}, Slot.A, True).encode(), b"\x90\x00")
    )


async def test_a_copy_whose_chip_admits_any_reader_is_denied(lock, card, desk):
    copy = chip(desk, without_keys(card, desk))
    application = next(iter(copy.image.applications.values()))
    auth = application.keys[Slot.A.key(Purpose.AUTH)].key

    def cracked(apdu: bytes) -> bytes:
        command = Command.decode(apdu)
        if command.ins == layout.EXTERNAL_AUTHENTICATE:
            return b"\x90\x00"
        if command.ins == layout.INTERNAL_AUTHENTICATE:
            return desk.suite.encrypt_block(auth, command.data) + b"\x90\x00"
        return copy.transmit(apdu)

    assert await lock.reason(cracked) is Reason.CARD_AUTH_FAILED
    assert lock.channel.commands[-1].ins == layout.INTERNAL_AUTHENTICATE


async def test_a_card_that_says_it_is_another_holders_is_denied(lock, card):
    """Ada's card, with Bob's serial read from it: keys are of one serial."""

    def renamed(apdu: bytes) -> bytes:
        return card.transmit(apdu).replace(SERIAL, OTHER)

    assert await lock.reason(renamed) is Reason.CARD_AUTH_FAILED
    assert lock.proof is not None
    assert lock.proof.card_id == OTHER.hex()


async def test_a_recorded_conversation_is_denied(lock, card):
    assert await lock.reason(card.transmit) is None
    recording = iter(lock.channel.responses)
    assert await lock.reason(lambda _: next(recording)) is Reason.CARD_AUTH_FAILED
    assert lock.channel.commands[-1].ins == layout.INTERNAL_AUTHENTICATE


async def test_the_answers_of_many_recorded_conversations_are_denied(desk, card):
    """A card that admits any reader has answered them all, for this lock and for the copier."""
    lock = Lock(desk, mutual=False)
    await desk.bind(fresh := desk.card(), lock.question)
    answers: dict[bytes, bytes] = {}
    for _ in range(50):
        fresh.reset()
        assert await lock.reason(fresh.transmit) is None
        answers[lock.channel.commands[-1].data] = lock.channel.responses[-1]
    assert len(answers) == 50  # no challenge came twice
    guess = next(iter(answers.values()))
    copier = instead(fresh, layout.INTERNAL_AUTHENTICATE, lambda c: answers.get(c.data, guess))
    fresh.reset()
    assert await lock.reason(copier) is Reason.CARD_AUTH_FAILED


async def test_a_relay_that_is_too_slow_is_denied(lock, card):
    """The true card, far away: every answer is right, and late."""

    def relayed(apdu: bytes) -> bytes:
        lock.clock.seconds += 0.001 * (lock.settings.max_response_ms + 1)
        return card.transmit(apdu)

    decision = await lock.present(relayed)
    assert decision.reason is Reason.CARD_AUTH_FAILED
    assert f"the limit is {lock.settings.max_response_ms} ms" in (decision.detail or "")


async def test_a_relay_is_measured_where_it_can_not_answer_ahead(lock, card):
    """Fast in all that it could have asked beforehand, slow where the challenge had to travel."""
    late = 0.001 * (lock.settings.max_response_ms + 1)

    def relayed(apdu: bytes) -> bytes:
        if apdu[1] == layout.INTERNAL_AUTHENTICATE:
            lock.clock.seconds += late
        return card.transmit(apdu)

    assert await lock.reason(relayed) is Reason.CARD_AUTH_FAILED
    assert lock.proof is not None
    assert lock.proof.outcome == "proved"  # nothing but the time was wrong


async def test_a_relay_within_the_bound_passes_and_its_time_is_known(lock, card):
    """What measuring time can't do; the bound of the door is for its operator to choose."""

    def relayed(apdu: bytes) -> bytes:
        lock.clock.seconds += 0.5 * 0.001 * lock.settings.max_response_ms
        return card.transmit(apdu)

    assert await lock.reason(relayed) is None
    assert lock.proof is not None
    assert lock.proof.response_ms is not None
    assert lock.proof.response_ms > lock.settings.max_response_ms / 2


async def test_a_card_answers_no_challenge_to_who_was_not_admitted(card, desk):
    """So nobody next to a card in a pocket collects answers."""
    assert send(card, f"00a4040010{desk.question.aid.hex()}00").ok
    asked = Command(0, layout.INTERNAL_AUTHENTICATE, 0, 0x11, bytes(16), 16)
    assert card.transmit(asked.encode()) == bytes.fromhex("6982")


async def test_a_cards_challenge_is_good_once(lock, card, desk):
    """What the lock once said to be admitted, said again to the card by who listened."""
    assert await lock.reason(card.transmit) is None
    (said,) = (c for c in lock.channel.commands if c.ins == layout.EXTERNAL_AUTHENTICATE)
    assert card.transmit(said.encode()) == bytes.fromhex("6984")
    card.reset()
    assert send(card, f"00a4040010{desk.question.aid.hex()}00").ok
    assert len(send(card, "0084000010").data) == 16
    assert card.transmit(said.encode()) == bytes.fromhex("63c4")


async def test_the_locks_challenge_sent_back_is_denied(lock, card):
    echo = instead(card, layout.INTERNAL_AUTHENTICATE, lambda c: c.data + b"\x90\x00")
    assert await lock.reason(echo) is Reason.CARD_AUTH_FAILED


async def test_the_answer_of_another_reader_of_the_lock_is_denied(lock, card, desk):
    """Two readers, one question: each is asked for what the other wants to hear."""
    there = Lock(desk)
    challenge: list[bytes] = []

    def listening(command: Command) -> bytes:
        challenge.append(command.data)
        return bytes(16) + b"\x90\x00"

    await lock.reason(instead(card, layout.INTERNAL_AUTHENTICATE, listening))
    # The other reader proves itself with that very challenge: E(admit, challenge).
    chosen = instead(card, layout.GET_CHALLENGE, lambda _: challenge[0] + b"\x90\x00")
    await there.reason(chosen)
    (said,) = (c for c in there.channel.commands if c.ins == layout.EXTERNAL_AUTHENTICATE)
    lock.desk.random = lambda _: challenge[0]  # even if this reader asked the same again
    card.reset()
    oracle = instead(card, layout.INTERNAL_AUTHENTICATE, lambda _: said.data + b"\x90\x00")
    assert await lock.reason(oracle) is Reason.CARD_AUTH_FAILED
    assert lock.channel.commands[-1].data == challenge[0]


async def test_a_cards_own_answer_does_not_admit_to_it(desk):
    card = desk.card()
    await desk.bind(card, replace(desk.question, mutual=False))
    card.reset()
    assert send(card, f"00a4040010{desk.question.aid.hex()}00").ok
    challenge = send(card, "0084000010").data
    answer = send(card, f"0088001110{challenge.hex()}10").data
    assert len(answer) == 16
    # By then the challenge is gone; and had it not been, the keys differ.
    assert send(card, f"0082001210{answer.hex()}").sw == 0x6984
    auth = await desk.element.check(SERIAL, 1, challenge, answer)
    admit = await desk.element.admit(SERIAL, 1, challenge)
    assert auth
    assert admit != answer


async def test_a_recorded_rekeying_gives_a_copy_no_keys(desk, card):
    """The copy has all but the keys; what the lock wrote to the original is said to it again."""
    copy = chip(desk, without_keys(card, desk))
    await rekeyed(desk, card)
    said = list(desk.channel.commands)
    copied = [copy.transmit(command.encode()) for command in said]
    written = [
        answer
        for command, answer in zip(said, copied, strict=True)
        if command.ins in (layout.WRITE_KEY, layout.UPDATE_BINARY)
    ]
    assert len(written) >= 4
    assert all(not Response.decode(answer).ok for answer in written)
    assert copy.image.applications.keys() == card.image.applications.keys()
    assert all(
        Slot.B.key(Purpose.AUTH) not in each.keys for each in copy.image.applications.values()
    )
    copy.reset()
    assert await overlap(desk).reason(copy.transmit) is Reason.CARD_AUTH_FAILED


@given(
    st.sampled_from(["gm", "intl"]),
    st.dictionaries(
        st.tuples(st.booleans(), st.integers(0, 13)),
        st.binary(max_size=60) | st.binary(max_size=30).map(lambda b: b + b"\x90\x00"),
        max_size=3,
    ),
    st.booleans(),
)
async def test_who_sits_between_while_a_card_is_rekeyed_spoils_no_card(suite, lies, third):
    """Whatever he makes of what lock and card say to each other, both versions stay whole."""
    desk = Desk(suite)
    card = desk.card()
    await desk.bind(card)
    old, new = (2, 3) if third else (1, 2)
    if third:
        await rekeyed(desk, card)
    question = replace(desk.question, key_version=new, accepted_key_versions=(old,))
    proof = await desk.tap(card, question)
    assert proof.key_version == old
    count = -1

    def between(apdu: bytes) -> bytes:
        nonlocal count
        count += 1
        answer = card.transmit(lies.get((True, count), apdu))
        return lies.get((False, count), answer)

    outcome = await desk.run(rekey(SERIAL, question, old, desk.random), between)
    for lock in (question, replace(question, key_version=old, accepted_key_versions=(new,))):
        seen = await desk.tap(card, lock)
        assert seen.outcome == "proved"
        # That the last write was done is said by who answers; the next tap shows it.
        if outcome is RekeyOutcome.REKEYED and not lies.keys() & {(True, count), (False, count)}:
            assert seen.key_version == lock.key_version
