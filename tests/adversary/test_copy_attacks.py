"""Who copies, relays, replays or bends a card: each is denied, with the reason that says why.

What is played against the door are the real scripts, a virtual card and the real decision; between
them sits whoever the test is about. Who has the card's own keys, or stands next to the card with a
fast enough radio, is not in here: those pass (docs/card.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from edge_agent.card import layout
from edge_agent.card.apdu import Command, Response
from edge_agent.card.application import UnlockQuestion, unlock
from edge_agent.card.binding import BindOutcome
from edge_agent.card.layout import Info, Slot
from edge_agent.card.rekeying import RekeyOutcome
from edge_agent.card.session import perform
from edge_agent.core.decision import Circumstances, Decision, DoorView, decide
from edge_agent.core.proof import Proof
from edge_agent.secure_element.port import Purpose
from edge_agent.virtual.card_memory import Image
from edge_agent.virtual.card_os import VirtualCard
from schemas.policy import WEEKDAYS, DoorSettings, PolicyCard, Schedule, Window
from schemas.reasons import Reason
from tests.card_desk import SERIAL, Channel, Desk, TickingClock, send

Answer = Callable[[bytes], bytes]
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
ALWAYS = Schedule(windows=(Window(start="00:00", end="24:00", days=WEEKDAYS),))
OTHER = bytes.fromhex("00112233445566bb")
HOLDERS = {
    serial.hex(): PolicyCard(
        card=serial.hex(), person=person, groups=("staff",), domains=("front",)
    )
    for serial, person in ((SERIAL, "ada"), (OTHER, "bob"))
}


class Lock:
    """A door of the domain `front` that lets both holders in at any time."""

    def __init__(self, desk: Desk, **settings: object) -> None:
        self.desk = desk
        self.settings = DoorSettings.model_validate(
            {"domain": "front", "suite": desk.suite_name, **settings}
        )
        self.denied: frozenset[int] = frozenset()
        self.floor = 1
        self.clock = TickingClock()
        self.proof: Proof | None = None
        self.channel = Channel(lambda _: b"")

    @property
    def question(self) -> UnlockQuestion:
        held = self.desk.element.held
        return UnlockQuestion.of("demo", self.settings, held, self.denied, self.floor)

    async def present(self, answer: Answer) -> Decision:
        """Hold up anything that answers APDUs."""
        self.channel = Channel(answer)
        script = unlock(self.question, self.desk.random)
        self.proof = await perform(script, self.channel, self.desk.element, self.clock)
        return decide(
            DoorView(self.settings, ZoneInfo("UTC"), (("staff", ALWAYS),)),
            HOLDERS.get(self.proof.card_id or ""),
            denial=None,
            proof=self.proof,
            circumstances=Circumstances(
                direction="in",
                now=NOW,
                heartbeat_age_s=10.0,
                denied_versions=self.denied,
                key_floor=self.floor,
            ),
        )

    async def reason(self, answer: Answer) -> Reason | None:
        """Why it was denied; None: it was not."""
        return (await self.present(answer)).reason


@pytest.fixture(params=["gm", "intl"])
def desk(request):
    return Desk(request.param)


@pytest.fixture
def lock(desk):
    return Lock(desk)


@pytest.fixture
async def card(desk):
    """Ada's, bound."""
    card = desk.card()
    assert (await desk.bind(card)).outcome is BindOutcome.BOUND
    card.reset()
    return card


def overlap(desk: Desk, **settings: object) -> Lock:
    """A lock that holds version 2 and takes version 1 still."""
    return Lock(desk, key_version=2, accepted_key_versions=(1,), **settings)


async def rekeyed(desk: Desk, card: VirtualCard) -> VirtualCard:
    """The card, with versions 1 and 2 on it."""
    question = overlap(desk).question
    proof = await desk.tap(card, question)
    assert await desk.rekey(card, question, proof) is RekeyOutcome.REKEYED
    card.reset()
    return card


def chip(desk: Desk, image: Image) -> VirtualCard:
    """Another chip with that content."""
    copy = desk.card()
    copy._memory.write(image)
    copy.reset()
    return copy


def without_keys(card: VirtualCard, desk: Desk) -> Image:
    """All that can be read of a card, and keys of the copier's own where its own can't be."""
    image = card.image
    applications = {
        file_id: replace(
            application,
            keys={
                at: replace(key, key=desk.random(16), tries_left=5)
                for at, key in application.keys.items()
            },
        )
        for file_id, application in image.applications.items()
    }
    return replace(image, applications=applications)


def instead(card: VirtualCard, ins: int, answer: Callable[[Command], bytes]) -> Answer:
    """The card, but for one command, which is answered by who holds it."""

    def between(apdu: bytes) -> bytes:
        if apdu[1] == ins:
            return answer(Command.decode(apdu))
        return card.transmit(apdu)

    return between


def saying(card: VirtualCard, info: Info) -> Answer:
    """The card, with another info record read from it."""
    return instead(card, layout.READ_BINARY, lambda _: info.encode() + b"\x90\x00")


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
    reads = [c.ins for c in lock.channel.commands]
    assert layout.READ_BINARY in reads  # it was as far as the original
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


async def test_a_card_that_claims_the_other_suite_is_denied(lock, card, desk):
    other = "intl" if desk.suite_name == "gm" else "gm"
    claim = Info(other, {Slot.A: 1}, Slot.A, True)
    assert await lock.reason(saying(card, claim)) is Reason.KEY_VERSION_UNSUPPORTED
    asked = {command.ins for command in lock.channel.commands}
    assert layout.INTERNAL_AUTHENTICATE not in asked


async def test_a_card_of_the_other_suite_is_denied_whatever_it_claims(lock, desk):
    """Bound in the same domain, of the same secrets even, by a lock of the other suite."""
    weaker = Desk("intl" if desk.suite_name == "gm" else "gm")
    card = weaker.card()
    assert (await weaker.bind(card)).outcome is BindOutcome.BOUND
    card.reset()
    assert await lock.reason(card.transmit) is Reason.KEY_VERSION_UNSUPPORTED
    card.reset()
    claim = Info(desk.suite_name, {Slot.A: 1}, Slot.A, True)
    assert await lock.reason(saying(card, claim)) is Reason.CARD_AUTH_FAILED


async def test_a_card_that_has_only_a_retired_version_is_denied(desk, card):
    assert await Lock(desk, key_version=2).reason(card.transmit) is Reason.KEY_VERSION_RETIRED


async def test_a_card_that_has_only_a_version_to_come_is_denied(desk):
    card = desk.card()
    await desk.bind(card, replace(desk.question, key_version=2))
    card.reset()
    assert await Lock(desk).reason(card.transmit) is Reason.KEY_VERSION_UNSUPPORTED


async def test_a_card_with_both_versions_is_asked_for_the_new_one_whatever_it_prefers(desk, card):
    both, lock = await rekeyed(desk, card), overlap(desk)
    claim = Info(desk.suite_name, {Slot.A: 1, Slot.B: 2}, Slot.A, True)
    assert await lock.reason(saying(both, claim)) is None
    assert lock.proof is not None
    assert lock.proof.key_version == 2


async def test_a_copy_with_the_old_keys_that_claims_both_versions_is_denied(desk, card):
    """It fails with the new version, and is not asked for the old one instead."""
    lock = overlap(desk)
    claim = Info(desk.suite_name, {Slot.A: 1, Slot.B: 2}, Slot.A, True)
    assert await lock.reason(saying(card, claim)) is Reason.CARD_AUTH_FAILED
    assert lock.proof is not None
    assert lock.proof.key_version == 2
    slots = {c.p2 >> 4 for c in lock.channel.commands if c.ins == layout.EXTERNAL_AUTHENTICATE}
    assert slots == {Slot.B}


async def test_hiding_the_new_version_gains_nothing_once_the_old_is_not_accepted(desk, card):
    """Who sits between shows the old version alone. During the overlap that is as good as the
    card, which opens with either; afterwards it is denied."""
    both = await rekeyed(desk, card)
    hidden = saying(both, Info(desk.suite_name, {Slot.A: 1}, Slot.A, True))
    assert await overlap(desk).reason(hidden) is None
    both.reset()
    assert await Lock(desk, key_version=2).reason(hidden) is Reason.KEY_VERSION_RETIRED
    both.reset()
    floor = overlap(desk)
    floor.floor = 2
    assert await floor.reason(hidden) is Reason.KEY_VERSION_RETIRED


async def test_a_denied_version_is_not_asked_for_though_the_policy_takes_it(desk, card):
    """The old secret is out: a copy that has the card's old keys is denied, the card is not."""
    both, lock = await rekeyed(desk, card), overlap(desk)
    lock.denied = frozenset({1})
    hidden = saying(both, Info(desk.suite_name, {Slot.A: 1}, Slot.A, True))
    assert await lock.reason(hidden) is Reason.KEY_VERSION_RETIRED
    assert layout.INTERNAL_AUTHENTICATE not in {c.ins for c in lock.channel.commands}
    both.reset()
    assert await lock.reason(both.transmit) is None


async def test_a_denied_new_version_lets_no_one_in_by_it(desk, card):
    both, lock = await rekeyed(desk, card), overlap(desk)
    lock.denied = frozenset({2})
    claim = Info(desk.suite_name, {Slot.B: 2}, Slot.B, True)
    assert await lock.reason(saying(both, claim)) is Reason.KEY_VERSION_UNSUPPORTED
    both.reset()
    assert await lock.reason(both.transmit) is None  # by version 1, which still counts
    assert lock.proof is not None
    assert lock.proof.key_version == 1


async def test_where_every_version_is_denied_the_proof_of_one_does_not_help(desk, card):
    lock = Lock(desk)
    lock.denied = frozenset({1})
    decision = await lock.present(card.transmit)
    assert decision.reason is Reason.KEY_VERSION_RETIRED
    assert decision.detail == "the key version was revoked"


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
