from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.card import layout
from edge_agent.card.apdu import Response, StatusWord
from edge_agent.virtual.card_memory import Image
from edge_agent.virtual.card_os import VirtualCard
from edge_agent.virtual.chip import BadImage, CardTorn, Tear, TearMoment
from schemas.secure_messaging import pad
from schemas.suites import suite
from tests.card_desk import SERIAL, TRANSPORT_KEY, Desk, repeatable, send

SELECT_MF = "00a40000023f00"
FRONT = layout.application_id("demo", "front").hex()
SELECT_FRONT = f"00a4040010{FRONT}"


@pytest.fixture(params=["gm", "intl"])
def desk(request):
    return Desk(request.param)


@pytest.fixture
async def bound(desk):
    card = desk.card()
    await desk.bind(card)
    card.reset()
    return card


def answer(card: VirtualCard, key: bytes, *, length: int = 16) -> str:
    """What answers the card's challenge under `key`, in hex."""
    challenge = send(card, f"00840000{length:02x}").data
    block = challenge if length == 16 else pad(challenge)
    return suite(card.image.suite).encrypt_block(key, block).hex()


def open_with_transport_key(card: VirtualCard) -> None:
    send(card, SELECT_MF)
    assert send(card, f"0082000010{answer(card, TRANSPORT_KEY, length=8)}").ok


def key_of(card: VirtualCard, reference: int) -> bytes:
    (application,) = card.image.applications.values()
    return application.keys[reference].key


def test_the_root_names_the_serial(desk):
    assert layout.serial_in(send(desk.card(), SELECT_MF).data) == SERIAL


def test_the_root_is_selected_by_its_pboc_name_too(desk):
    name = b"1PAY.SYS.DDF01"
    assert send(desk.card(), f"00a404000e{name.hex()}").ok


@pytest.mark.parametrize(
    ("apdu", "status"),
    [
        ("00a4040005a000000003", StatusWord.FILE_NOT_FOUND),
        ("00a40000021234", StatusWord.FILE_NOT_FOUND),
        ("00a4000001ff", StatusWord.WRONG_LENGTH),
        ("00a4020000", StatusWord.WRONG_PARAMETERS),
        ("0084000004", StatusWord.WRONG_LENGTH),
        ("0084000108", StatusWord.WRONG_PARAMETERS),
        ("00b0810010", StatusWord.NO_CURRENT_FILE),
        ("008800001000000000000000000000000000000000", StatusWord.CONDITIONS_NOT_SATISFIED),
        ("008200001000000000000000000000000000000000", StatusWord.CHALLENGE_MISSING),
        ("008200071000000000000000000000000000000000", StatusWord.KEY_NOT_FOUND),
        ("80e0df01023800", StatusWord.WRONG_LENGTH),
        ("80e0df010538001001ff", StatusWord.SECURITY_NOT_SATISFIED),
        ("800e0000", StatusWord.SECURITY_NOT_SATISFIED),
        ("80d4011101ff", StatusWord.MAC_MISSING),
        ("00ff0000", StatusWord.UNKNOWN_INSTRUCTION),
        ("ff840000", StatusWord.UNKNOWN_CLASS),
        ("00", StatusWord.WRONG_LENGTH),
    ],
)
def test_refusals_are_named(desk, apdu, status):
    assert send(desk.card(), apdu).status is status


def test_a_wrong_answer_costs_a_try_and_the_last_one_blocks_the_key(desk):
    card = desk.card()
    left = []
    for _ in range(5):
        left.append(send(card, f"0082000010{answer(card, bytes(16))}").tries_left)
    assert left == [4, 3, 2, 1, 0]
    right = answer(card, TRANSPORT_KEY, length=8)
    assert send(card, f"0082000010{right}").status is StatusWord.BLOCKED


def test_a_right_answer_gives_the_tries_back(desk):
    card = desk.card()
    send(card, f"0082000010{answer(card, bytes(16))}")
    open_with_transport_key(card)
    assert card.image.transport.tries_left == layout.KEY_TRIES


@pytest.mark.parametrize("write", [1, 2])
def test_tearing_gives_no_free_tries(desk, write):
    """Torn in either write of a right answer: tries are spent, never gained."""
    card = desk.card()
    card.reset()
    right = answer(card, TRANSPORT_KEY, length=8)
    card.arm(Tear(TearMoment.IN_WRITE, write))
    with pytest.raises(CardTorn):
        send(card, f"0082000010{right}")
    card.reset()
    assert card.image.transport.tries_left == layout.KEY_TRIES - (write - 1)


def test_a_wrong_answer_torn_before_its_status_word_has_cost_its_try(desk):
    card = desk.card()
    wrong = answer(card, bytes(16))
    card.arm(Tear(TearMoment.AFTER_APDU, 1))
    with pytest.raises(CardTorn):
        send(card, f"0082000010{wrong}")
    assert card.image.transport.tries_left == layout.KEY_TRIES - 1


def test_a_challenge_is_good_for_one_answer(desk):
    card = desk.card()
    right = answer(card, TRANSPORT_KEY, length=8)
    assert send(card, f"0082000010{right}").ok
    assert send(card, f"0082000010{right}").status is StatusWord.CHALLENGE_MISSING


def test_any_other_command_drops_the_challenge(desk):
    card = desk.card()
    right = answer(card, TRANSPORT_KEY, length=8)
    send(card, SELECT_MF)
    assert send(card, f"0082000010{right}").status is StatusWord.CHALLENGE_MISSING


def test_power_on_forgets_what_was_proved(desk):
    card = desk.card()
    open_with_transport_key(card)
    card.reset()
    assert send(card, "800e0000").status is StatusWord.SECURITY_NOT_SATISFIED


async def test_a_key_does_one_thing(bound):
    send(bound, SELECT_FRONT)
    challenge = "00" * 16
    for reference in (0x12, 0x13):
        refused = send(bound, f"008800{reference:02x}10{challenge}")
        assert refused.status is StatusWord.CONDITIONS_NOT_SATISFIED
    for reference in (0x11, 0x13):
        cryptogram = answer(bound, key_of(bound, reference))
        refused = send(bound, f"008200{reference:02x}10{cryptogram}")
        assert refused.status is StatusWord.CONDITIONS_NOT_SATISFIED


async def test_a_card_bound_for_mutual_authentication_is_no_oracle(bound):
    send(bound, SELECT_FRONT)
    refused = send(bound, "0088001110" + "00" * 16)
    assert refused.status is StatusWord.SECURITY_NOT_SATISFIED
    assert send(bound, f"0082001210{answer(bound, key_of(bound, 0x12))}").ok
    assert send(bound, "0088001110" + "00" * 16).ok


async def test_selecting_an_application_forgets_the_readers_proof(bound):
    send(bound, SELECT_FRONT)
    assert send(bound, f"0082001210{answer(bound, key_of(bound, 0x12))}").ok
    send(bound, SELECT_FRONT)
    refused = send(bound, "0088001110" + "00" * 16)
    assert refused.status is StatusWord.SECURITY_NOT_SATISFIED


async def test_the_info_file_is_read_freely_and_written_only_protected(bound):
    send(bound, SELECT_FRONT)
    assert len(send(bound, "00b0810010").data) == 16
    assert send(bound, "00b0810000").data == send(bound, "00b0810010").data
    assert send(bound, "00b0811010").status is StatusWord.OFFSET_OUTSIDE
    assert send(bound, "00b0820010").status is StatusWord.FILE_NOT_FOUND
    assert send(bound, "00d6810001ff").status is StatusWord.MAC_MISSING
    body = "00" * 24
    assert send(bound, f"04d6810018{body}").status is StatusWord.SECURITY_NOT_SATISFIED
    assert send(bound, f"0082001210{answer(bound, key_of(bound, 0x12))}").ok
    assert send(bound, f"04d6810018{body}").status is StatusWord.CHALLENGE_MISSING
    send(bound, "0084000010")
    assert send(bound, f"04d6810018{body}").status is StatusWord.MAC_WRONG


async def test_a_slot_can_not_be_overwritten_under_its_own_key(bound):
    send(bound, SELECT_FRONT)
    assert send(bound, f"0082001210{answer(bound, key_of(bound, 0x12))}").ok
    send(bound, "0084000010")
    refused = send(bound, "84d4011118" + "00" * 24)
    assert refused.status is StatusWord.SECURITY_NOT_SATISFIED
    send(bound, "0084000010")
    assert send(bound, "84d4012118" + "00" * 24).status is StatusWord.MAC_WRONG


async def test_erasing_takes_the_transport_key_and_gives_the_memory_back(bound):
    send(bound, SELECT_FRONT)
    assert send(bound, "800e0000").status is StatusWord.SECURITY_NOT_SATISFIED
    open_with_transport_key(bound)
    send(bound, SELECT_FRONT)
    assert send(bound, "800e0000").ok
    assert bound.image.applications == {}
    assert bound.image.free == bound.image.capacity
    assert send(bound, SELECT_FRONT).status is StatusWord.FILE_NOT_FOUND


def test_a_file_that_exists_is_not_created_twice(desk):
    card = desk.card()
    open_with_transport_key(card)
    create = f"80e0df01153800880101{FRONT}"
    assert send(card, create).ok
    assert send(card, create).status is StatusWord.FILE_EXISTS
    assert send(card, create.replace("df01", "df02")).status is StatusWord.FILE_EXISTS


def test_an_application_larger_than_the_card_is_refused(desk):
    card = desk.card()
    open_with_transport_key(card)
    assert send(card, f"80e0df011538ffff0101{FRONT}").status is StatusWord.MEMORY_FULL


async def test_a_card_survives_in_its_file(desk, tmp_path):
    path = tmp_path / "card.json"
    card = VirtualCard(path, desk.suite_name, SERIAL, TRANSPORT_KEY, desk.random)
    await desk.bind(card)
    again = VirtualCard.open(path, repeatable(9))
    assert again.image == card.image
    assert (await desk.tap(again)).outcome == "proved"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_kept_card_is_taken_up_again_and_not_mistaken_for_another(desk, tmp_path):
    path = tmp_path / "card.json"
    card = VirtualCard(path, desk.suite_name, SERIAL, TRANSPORT_KEY, desk.random)
    send(card, f"0082000010{answer(card, bytes(16))}")
    same = VirtualCard(path, desk.suite_name, SERIAL, TRANSPORT_KEY, desk.random)
    assert same.image.transport.tries_left == layout.KEY_TRIES - 1
    with pytest.raises(ValueError, match=SERIAL.hex()):
        VirtualCard(path, desk.suite_name, bytes(8), TRANSPORT_KEY, desk.random)


async def test_a_write_torn_half_way_leaves_the_old_file(desk, tmp_path):
    path = tmp_path / "card.json"
    card = VirtualCard(path, desk.suite_name, SERIAL, TRANSPORT_KEY, desk.random)
    card.arm(Tear(TearMoment.IN_WRITE, 3))
    with pytest.raises(CardTorn):
        await desk.bind(card)
    again = VirtualCard.open(path, desk.random)
    assert again.image == card.image
    assert again.image.applications == {}


def test_a_torn_card_has_no_power_until_it_is_held_to_a_reader_again(desk):
    card = desk.card()
    card.arm(Tear(TearMoment.BEFORE_APDU, 1))
    for _ in range(2):
        with pytest.raises(CardTorn):
            send(card, SELECT_MF)
    card.reset()
    assert send(card, SELECT_MF).ok


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"applications": 3}', '{"applications": {}}'])
def test_a_file_that_is_no_card_is_refused(desk, tmp_path, content):
    path = tmp_path / "card.json"
    path.write_text(content)
    with pytest.raises(BadImage):
        VirtualCard.open(path, desk.random)


INSTRUCTIONS = st.sampled_from([0x0E, 0x82, 0x84, 0x88, 0xA4, 0xB0, 0xD4, 0xD6, 0xE0])
NEAR_COMMANDS = st.builds(
    lambda cla, ins, p1, p2, body: bytes((cla, ins, p1, p2)) + body,
    st.sampled_from([0x00, 0x04, 0x80, 0x84]),
    INSTRUCTIONS,
    st.sampled_from([0, 1, 4, 0x81, 0xDF]) | st.integers(0, 255),
    st.sampled_from([0, 1, 0x11, 0x12, 0x13, 0x21]) | st.integers(0, 255),
    st.binary(max_size=40)
    | st.binary(max_size=255).map(lambda data: bytes((len(data),)) + data)
    | st.just(bytes.fromhex("10" + FRONT)),
)


@given(st.lists(NEAR_COMMANDS | st.binary(max_size=300), max_size=30), st.booleans())
async def test_a_card_answers_any_bytes_with_a_status_word(apdus, opened):
    desk = Desk("intl")
    card = desk.card()
    await desk.bind(card)
    card.reset()
    if opened:
        open_with_transport_key(card)
        send(card, SELECT_FRONT)
    for apdu in apdus:
        Response.decode(card.transmit(apdu))
    assert Image.decode(card.image.encode()) == card.image
