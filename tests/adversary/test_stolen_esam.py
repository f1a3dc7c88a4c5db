"""Who has a lock with its ESAM, and says to the chip what he likes.

The domain is shared: other locks have its keys too, so here a theft reaches beyond one door, if
anything comes out. What he can do with the chip is listed in docs/esam.md, and no more than that
happens here. The chip, the card and the other lock are the real ones; the thief has all that was
ever said, card ids, the challenges of his choice, and no control key.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.card import layout
from edge_agent.card.apdu import Command
from edge_agent.card.binding import bind
from edge_agent.card.layout import Info, Slot, key_header
from edge_agent.card.session import perform
from edge_agent.secure_element.esam import EsamElement
from edge_agent.secure_element.esam_chip import Esam
from edge_agent.secure_element.esam_layout import Operation
from edge_agent.secure_element.port import ElementUnavailable, Purpose
from edge_agent.secure_element.software import SoftwareElement
from schemas.keys import Item
from schemas.reasons import Reason
from schemas.secure_messaging import BadProtection, session_key, unprotect
from tests.card_desk import SERIAL, TRANSPORT_KEY, Channel, Desk, TickingClock, send
from tests.copy_desk import OTHER, Lock
from tests.esam_desk import ESAM_SERIAL, MAKERS_KEY, EsamDesk
from tests.esam_rig import Slot as ContactSlot

UPDATE = bytes.fromhex("04d68100")
WRONG_FORM = {0x6700, 0x6A80, 0x6A86, 0x6A88, 0x6985, 0x6982, 0x6300}


class Stolen:
    """An ESAM in a thief's hands, with versions 1 and 2, and another lock of its domain."""

    def __init__(self, name: str) -> None:
        self.esam = EsamDesk(name).issue().load(1, 2)
        self.desk = Desk(name)
        self.desk.element = SoftwareElement(self.esam.suite, self.esam.secrets)
        self.lock = Lock(self.desk)
        self.esam.power_on()
        self.esam.answers.clear()  # what was said in the making was said to others

    def write_header(self, purpose: Purpose) -> bytes:
        return bytes((layout.CLA_COS_SECURE, layout.WRITE_KEY, 1, Slot.B.key(purpose)))

    def protect_key(
        self, purpose: Purpose, version: int, card: bytes, challenge: bytes, *, under: int
    ):
        self.esam.init(purpose, version, card)
        header = key_header(purpose, version, use=layout.Right.ADMIT)
        return self.esam.crypt(
            Operation.PROTECT_KEY, header + self.write_header(purpose) + challenge, under
        )

    def secrets(self, *challenges: bytes) -> dict[str, bytes]:
        """What must never come out of it, by what it is."""
        esam, found = self.esam, {"control key": self.esam.control_key, "maker's": MAKERS_KEY}
        for version, purpose in itertools.product((1, 2), Purpose):
            found[f"secret {version} {purpose}"] = esam.secrets[version][purpose]
            for card in (SERIAL, OTHER):
                key = esam.card_key(purpose, version, card)
                found[f"key {version} {purpose} {card.hex()}"] = key
                for challenge in challenges:
                    if purpose is Purpose.AUTH:
                        right = esam.suite.encrypt_block(key, challenge)
                        found[f"answer {version} {card.hex()} {challenge.hex()}"] = right
                    for label in (1, 2):
                        session = session_key(esam.suite, key, label, challenge)
                        found[f"session {version} {purpose} {label} {challenge.hex()}"] = session
        return found

    def got(self, *challenges: bytes) -> list[str]:
        """Which of them are in what the chip has answered, at any place, half of one too."""
        said = b"\xff\xfe".join(self.esam.answers)
        return [
            what
            for what, value in self.secrets(*challenges).items()
            if value[:8] in said or value[8:] in said or value[::-1] in said
        ]


@pytest.fixture(params=["gm", "intl"])
def stolen(request):
    return Stolen(request.param)


def inputs(stolen: Stolen, challenge: bytes) -> list[bytes]:
    """Data of CRYPT in every form that it takes, around a challenge of the thief's choice."""
    info = Info(stolen.desk.suite_name, {Slot.A: 1}, Slot.A, False).encode()
    forms = [challenge, challenge * 2, UPDATE + challenge + info, UPDATE + challenge + challenge]
    for purpose, version in itertools.product(Purpose, (1, 2)):
        header = key_header(purpose, version, use=layout.Right.ALWAYS)
        forms.append(header + stolen.write_header(purpose) + challenge)
    return forms


def test_no_operation_with_any_key_gives_an_answer_or_a_key(stolen):
    """Every purpose, version and operation, with data in every form: also those that don't fit."""
    challenges = bytes(16), bytes(range(16)), stolen.esam.challenge()
    worked = set()
    for challenge, purpose, version in itertools.product(challenges, Purpose, (1, 2)):
        for operation, under, card in itertools.product(range(5), range(3), (SERIAL, OTHER)):
            for data in inputs(stolen, challenge):
                stolen.esam.init(purpose, version, card)
                answer = stolen.esam.crypt(operation, data, under)
                if answer.ok:
                    worked.add((Operation(operation), purpose, under > 0))
                else:
                    assert answer.sw in WRONG_FORM
                    assert answer.data == b""
    # Enough was tried: all that the chip does without a loan was done.
    assert worked == {
        (Operation.ENCIPHER, Purpose.ADMIT, False),
        (Operation.PROTECT, Purpose.MAINTAIN, False),
        *((Operation.PROTECT_KEY, purpose, True) for purpose in Purpose),
    }
    assert stolen.got(*challenges) == []


@given(
    st.sampled_from(["gm", "intl"]),
    st.binary(min_size=16, max_size=16),
    st.lists(
        st.tuples(
            st.sampled_from(Purpose),
            st.integers(0, 3),
            st.integers(0, 4),
            st.integers(0, 3),
            st.integers(0, 9),
            st.booleans(),
        ),
        max_size=30,
    ),
)
def test_what_it_answered_and_is_told_again_gives_nothing_either(name, challenge, steps):
    """Each answer is the data, or the challenge, of what is asked next."""
    stolen = Stolen(name)
    answered = challenge
    for purpose, version, operation, under, form, other in steps:
        stolen.esam.init(purpose, version, OTHER if other else SERIAL)
        data = inputs(stolen, answered)[form]
        answer = stolen.esam.crypt(operation, data, under)
        if len(answer.data) >= 16:
            answered = answer.data[-16:] if other else answer.data[:16]
    assert stolen.got(challenge, answered) == []


async def test_no_card_is_played_at_another_lock_of_the_domain(stolen):
    """He has Ada's card id and the chip; what the lock asks for, he asks the chip for."""

    def played(answer_to):
        selected = b"\x90\x00"

        def card(apdu: bytes) -> bytes:
            command = Command.decode(apdu)
            match command.ins:
                case layout.SELECT:
                    return layout.fci(stolen.lock.question.aid, SERIAL) + selected
                case layout.READ_BINARY:
                    info = Info(stolen.desk.suite_name, {Slot.A: 1}, Slot.A, True)
                    return info.encode() + selected
                case layout.GET_CHALLENGE:
                    return bytes(16) + selected
                case layout.EXTERNAL_AUTHENTICATE:
                    return selected
            return answer_to(command.data)[:16].ljust(16, b"\0") + selected

        return card

    def asking(purpose, operation, under, form):
        def answer(challenge: bytes) -> bytes:
            stolen.esam.init(purpose, 1, SERIAL)
            return stolen.esam.crypt(operation, inputs(stolen, challenge)[form], under).data

        return answer

    tried = itertools.product(Purpose, Operation, range(3), range(10))
    for purpose, operation, under, form in tried:
        answer = asking(purpose, operation, under, form)
        assert await stolen.lock.reason(played(answer)) is Reason.CARD_AUTH_FAILED
        assert stolen.lock.channel.commands[-1].ins == layout.INTERNAL_AUTHENTICATE
    key = stolen.esam.card_key(Purpose.AUTH, 1, SERIAL)
    right = played(lambda challenge: stolen.esam.suite.encrypt_block(key, challenge))
    assert await stolen.lock.reason(right) is None  # nothing but the answer was wrong


def test_a_protected_key_opens_with_nothing_that_he_has_or_can_make(stolen):
    """The body of PROTECT KEY, with all that the chip enciphers for him tried as its key."""
    challenge = bytes(range(16))
    body = stolen.protect_key(Purpose.AUTH, 1, SERIAL, challenge, under=1).data
    made = [bytes(16), TRANSPORT_KEY, challenge, body[:16], body[16:32]]
    for block in (bytes(16), challenge, SERIAL * 2, b"\x01" + challenge[:15], body[:16]):
        stolen.esam.init(Purpose.ADMIT, 1, SERIAL)
        made.append(stolen.esam.crypt(Operation.ENCIPHER, block).data)
    for key in made:
        with pytest.raises(BadProtection):
            unprotect(stolen.esam.suite, key, challenge, stolen.write_header(Purpose.AUTH), body)


def test_guesses_at_the_end_of_a_key_can_not_be_compared(stolen):
    """PROTECT and PROTECT KEY of one challenge encipher under one session key.

    Were a record of any length protected, its second block could be chosen so that it comes out as
    the key's does if five guessed bytes are right: 2^40 questions, and eleven bytes are left. What
    is written to cards has 16 bytes, so the last block holds one byte of his and 15 of the chip's.
    """
    challenge = bytes(16)
    body = stolen.protect_key(Purpose.AUTH, 1, SERIAL, challenge, under=1).data
    tail = stolen.esam.card_key(Purpose.AUTH, 1, SERIAL)[11:] + b"\x80" + bytes(10)
    wanted = bytes(a ^ b for a, b in zip(body[:16], tail, strict=True))  # the guess is right

    def protect(record: bytes):
        stolen.esam.init(Purpose.MAINTAIN, 1, SERIAL)
        return stolen.esam.crypt(Operation.PROTECT, UPDATE + challenge + record)

    assert protect(bytes(16)).ok
    for length in (*range(16), *range(17, 224)):
        assert protect(bytes(length)).sw == 0x6700
    key = stolen.esam.card_key(Purpose.MAINTAIN, 1, SERIAL)
    session = session_key(stolen.esam.suite, key, 1, challenge)
    first = stolen.esam.suite.encrypt_block(session, bytes((31,)) + bytes(15))
    chosen = bytes(15) + bytes(a ^ b for a, b in zip(first, wanted, strict=True))
    assert (
        stolen.esam.suite.encrypt_cbc(session, bytes(16), bytes((31,)) + chosen)[16:] == body[16:32]
    )
    assert protect(chosen).sw == 0x6700


async def test_no_blank_card_of_his_own_gets_keys(stolen):
    """He has a new card, its transport key, and whatever he likes to call a loan."""
    slot = ContactSlot(stolen.esam.chip)
    esam = Esam(slot, ESAM_SERIAL, ["front"])
    element = EsamElement(esam, "front", stolen.desk.suite_name)
    card = stolen.desk.card()
    recorded = stolen.esam.control.lend(  # an honest one, of another challenge
        bytes(16), index=1, version=1, card_id=SERIAL, transport_key=TRANSPORT_KEY
    )

    async def keys(_: str) -> bytes:
        return TRANSPORT_KEY

    for loan in (recorded, b"\x01" + bytes(40), b"\x01" + TRANSPORT_KEY * 2 + bytes(8)):

        async def lend(serial, challenge, asked, loan=loan):
            return loan

        esam.lend = lend
        card.reset()
        channel = Channel(card.transmit)
        script = bind(stolen.lock.question, stolen.desk.random)
        with pytest.raises(ElementUnavailable, match="6988"):
            await perform(script, channel, element, TickingClock(), keys)
        assert not any(each.keys for each in card.image.applications.values())
    assert stolen.esam.state.errors_left == 12
    stolen.esam.init(Purpose.AUTH, 1, SERIAL)
    for purpose, version in itertools.product(Purpose, (1, 2)):
        assert stolen.protect_key(purpose, version, SERIAL, bytes(16), under=0).sw == 0x6982
    assert stolen.got(bytes(16)) == []


def test_no_package_but_one_made_for_its_challenge_changes_it(stolen):
    """Old ones, those of other ESAMs with whatever serial, and guesses: keys and floors alike."""
    esam = stolen.esam
    old = [esam.package(item, 2) for item in (Item.KEYS, Item.FLOOR)]
    before = esam.table(), esam.whole_table().floor
    other = EsamDesk(esam.suite.name, serial=b"ESAM two", seed=11).issue().load(1)
    foreign = [
        other.package(item, version, challenge=esam.challenge(), **more)
        for item, version in ((Item.KEYS, 1), (Item.FLOOR, 3), (Item.KEYS, 3))
        for more in ({}, {"serial": esam.serial})
    ]
    mine = [
        esam.package(item, version, control_key=bytes(16)) for item in Item for version in (2, 3)
    ]
    tries = esam.state.errors_left
    for package in (*old, *foreign, *mine):
        esam.challenge()
        assert esam.send(package).sw in (0x6988, 0x6983)
        tries = max(0, tries - 1)
    assert (esam.table(), esam.whole_table().floor) == before
    assert esam.state.errors_left == tries


def test_a_floor_that_was_raised_stays(stolen):
    """Even for who has packages that were honestly made, with the right challenge, and kept."""
    esam = stolen.esam
    kept = esam.package(Item.KEYS, 1)
    assert esam.send(esam.package(Item.FLOOR, 2)).ok
    assert esam.send(kept).sw == 0x6984
    for item in (Item.FLOOR, Item.KEYS):  # for a challenge drawn now
        assert esam.send(esam.package(item, 1)).sw == 0x6985
    assert esam.whole_table().floor == 2
    assert set(esam.table()) == {2}
    for purpose in Purpose:
        assert esam.init(purpose, 1, SERIAL).sw == 0x6A88
        assert stolen.protect_key(purpose, 2, SERIAL, bytes(16), under=1).sw == 0x6A88


def test_who_knows_an_older_secret_too_gets_the_newer_keys_until_it_is_erased(stolen):
    """What docs/esam.md says to operators, and why a version that got out is to be erased."""
    maintain = stolen.esam.card_key(Purpose.MAINTAIN, 1, OTHER)  # from the secret that got out
    body = stolen.protect_key(Purpose.AUTH, 2, OTHER, bytes(16), under=1).data
    header = stolen.write_header(Purpose.AUTH)
    record = unprotect(stolen.esam.suite, maintain, bytes(16), header, body)
    assert record[4:] == stolen.esam.card_key(Purpose.AUTH, 2, OTHER)
    assert stolen.esam.send(stolen.esam.package(Item.FLOOR, 2)).ok
    assert stolen.protect_key(Purpose.AUTH, 2, OTHER, bytes(16), under=1).sw == 0x6A88


async def test_a_card_at_his_reader_can_be_spoiled_and_is_mended_by_binding_it_again(stolen):
    card, desk, esam = stolen.desk.card(), stolen.desk, stolen.esam
    await desk.bind(card)
    card.reset()
    send(card, f"00a4040010{stolen.lock.question.aid.hex()}00")
    challenge = send(card, "0084000010").data
    esam.init(Purpose.ADMIT, 1, SERIAL)
    admitted = esam.crypt(Operation.ENCIPHER, challenge).data
    assert send(card, f"0082001210{admitted.hex()}").ok
    challenge = send(card, "0084000010").data
    esam.init(Purpose.MAINTAIN, 1, SERIAL)
    body = esam.crypt(Operation.PROTECT, UPDATE + challenge + bytes(16)).data
    assert send(card, f"{UPDATE.hex()}28{body.hex()}").ok
    card.reset()
    assert await stolen.lock.reason(card.transmit) is Reason.CARD_AUTH_FAILED
    await desk.bind(card)
    card.reset()
    assert await stolen.lock.reason(card.transmit) is None
