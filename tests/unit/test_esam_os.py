"""Each command of the virtual ESAM, and each of its status words."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.cmac import CMAC

from edge_agent.card import layout
from edge_agent.card.apdu import StatusWord
from edge_agent.secure_element.esam_layout import Identity, Operation
from schemas.esam import check_value, check_values
from schemas.keys import MAX_VERSIONS, Item, Purpose
from schemas.secure_messaging import protect, unprotect
from tests.card_desk import SERIAL as CARD
from tests.card_desk import TRANSPORT_KEY
from tests.esam_desk import ESAM_SERIAL, MAKERS_KEY, EsamDesk, protected

CHALLENGE = b"c" * 16
UPDATE = bytes.fromhex("04d68100")
HEADERS = {purpose: layout.key_header(purpose, 1, use=layout.Right.ALWAYS) for purpose in Purpose}


def write_header(purpose: Purpose) -> bytes:
    return bytes((0x84, 0xD4, 0x01, layout.Slot.A.key(purpose)))


@pytest.fixture(params=["gm", "intl"])
def desk(request):
    return EsamDesk(request.param).issue().load(1, 2)


def test_it_names_serial_layout_and_suite_when_it_is_selected(desk):
    identity = Identity.decode(desk.select().data)
    assert identity == Identity(ESAM_SERIAL, desk.suite.name)


def test_its_state_says_who_it_is_and_which_control_key_it_has(desk):
    state = desk.state
    assert (state.serial, state.suite, state.control_version) == (ESAM_SERIAL, desk.suite.name, 1)
    assert state.control_check == check_value(desk.suite, desk.control_key)
    assert state.errors_left == 15


def test_the_key_table_tells_versions_and_check_values_and_no_more(desk):
    table = desk.whole_table()
    assert table.floor == 0
    assert table.versions == {version: desk.checks(version) for version in (1, 2)}
    assert desk.whole_table(2).versions == {}


def test_a_version_that_is_written_again_has_none_of_the_keys_before(desk):
    keys = bytes(range(48))
    assert desk.send(desk.package(Item.KEYS, 1, keys=keys)).ok
    assert desk.table() == {1: check_values(desk.suite, keys), 2: desk.checks(2)}
    for purpose, key in zip(Purpose, (keys[:16], keys[16:32], keys[32:]), strict=True):
        desk.secrets[1][purpose] = key
        assert desk.lend(CARD, TRANSPORT_KEY).ok
        desk.init(purpose, 1, CARD)
        header = write_header(purpose)
        body = desk.crypt(Operation.PROTECT_KEY, HEADERS[purpose] + header + CHALLENGE)
        record = unprotect(desk.suite, TRANSPORT_KEY, CHALLENGE, header, body.data)
        assert record == HEADERS[purpose] + desk.suite.diversify(key, CARD)


def test_it_answers_a_cards_challenge_with_the_cards_own_key(desk):
    assert desk.init(Purpose.ADMIT, 1, CARD).ok
    answer = desk.crypt(Operation.ENCIPHER, CHALLENGE)
    key = desk.card_key(Purpose.ADMIT, 1, CARD)
    assert answer.ok
    assert answer.data == desk.suite.encrypt_block(key, CHALLENGE)


def test_it_says_whether_a_card_answered_rightly_and_nothing_else(desk):
    cryptogram = desk.suite.encrypt_block(desk.card_key(Purpose.AUTH, 2, CARD), CHALLENGE)
    desk.init(Purpose.AUTH, 2, CARD)
    right = desk.crypt(Operation.VERIFY, CHALLENGE + cryptogram)
    assert (right.sw, right.data) == (0x9000, b"")
    for at in range(16):
        wrong = bytearray(cryptogram)
        wrong[at] ^= 1
        desk.init(Purpose.AUTH, 2, CARD)
        refused = desk.crypt(Operation.VERIFY, CHALLENGE + wrong)
        assert (refused.sw, refused.data) == (0x6300, b"")


def test_it_protects_an_update_under_the_cards_maintain_key(desk):
    desk.init(Purpose.MAINTAIN, 1, CARD)
    body = desk.crypt(Operation.PROTECT, UPDATE + CHALLENGE + b"the info record.").data
    key = desk.card_key(Purpose.MAINTAIN, 1, CARD)
    assert unprotect(desk.suite, key, CHALLENGE, UPDATE, body) == b"the info record."


@pytest.mark.parametrize("purpose", Purpose)
def test_it_protects_a_key_for_a_card_whose_transport_key_is_lent(desk, purpose):
    assert desk.lend(CARD, TRANSPORT_KEY).ok
    header = write_header(purpose)
    desk.init(purpose, 1, CARD)
    body = desk.crypt(Operation.PROTECT_KEY, HEADERS[purpose] + header + CHALLENGE)
    record = unprotect(desk.suite, TRANSPORT_KEY, CHALLENGE, header, body.data)
    assert record == HEADERS[purpose] + desk.card_key(purpose, 1, CARD)


def test_it_protects_the_next_key_under_the_cards_own_maintain_key(desk):
    header, key_header = write_header(Purpose.AUTH), bytes.fromhex("34000205")
    desk.init(Purpose.AUTH, 2, CARD)
    body = desk.crypt(Operation.PROTECT_KEY, key_header + header + CHALLENGE, under=1)
    maintain = desk.card_key(Purpose.MAINTAIN, 1, CARD)
    record = unprotect(desk.suite, maintain, CHALLENGE, header, body.data)
    assert record == key_header + desk.card_key(Purpose.AUTH, 2, CARD)


@pytest.mark.parametrize("lent", ["nothing", "other card", "other version", "other domain", "used"])
def test_no_key_comes_out_under_a_key_that_was_not_lent_for_it(desk, lent):
    desk.load(1, index=2)
    match lent:
        case "other card":
            desk.lend(bytes(8), TRANSPORT_KEY)
        case "other version":
            desk.lend(CARD, TRANSPORT_KEY, version=2)
        case "other domain":
            desk.lend(CARD, TRANSPORT_KEY, index=2)
    data = HEADERS[Purpose.AUTH] + write_header(Purpose.AUTH) + CHALLENGE
    if lent == "used":
        desk.lend(CARD, TRANSPORT_KEY)
        desk.init(Purpose.AUTH, 1, CARD)
        assert desk.crypt(Operation.PROTECT_KEY, data).ok
    desk.init(Purpose.AUTH, 1, CARD)
    assert desk.crypt(Operation.PROTECT_KEY, data).sw == StatusWord.SECURITY_NOT_SATISFIED


def test_a_loan_that_is_none_is_refused_and_costs_no_try(desk):
    blocks = CARD + b"\x01" * 8 + TRANSPORT_KEY
    data = desk.control._seal(desk.challenge(), 2, 1, index=1, blocks=blocks)
    assert desk.send(protected("84d40201", data)).sw == StatusWord.WRONG_DATA
    assert desk.state.errors_left == 15


@pytest.mark.parametrize("how", ["power", "select"])
def test_a_lent_key_is_gone_with_the_power_and_with_the_next_select(desk, how):
    desk.lend(CARD, TRANSPORT_KEY)
    (desk.power_on if how == "power" else desk.select)()
    desk.init(Purpose.AUTH, 1, CARD)
    data = HEADERS[Purpose.AUTH] + write_header(Purpose.AUTH) + CHALLENGE
    assert desk.crypt(Operation.PROTECT_KEY, data).sw == StatusWord.SECURITY_NOT_SATISFIED


@pytest.mark.parametrize(
    ("operation", "purpose"),
    [
        (Operation.ENCIPHER, Purpose.AUTH),
        (Operation.ENCIPHER, Purpose.MAINTAIN),
        (Operation.VERIFY, Purpose.ADMIT),
        (Operation.VERIFY, Purpose.MAINTAIN),
        (Operation.PROTECT, Purpose.AUTH),
        (Operation.PROTECT, Purpose.ADMIT),
    ],
)
def test_a_key_does_the_work_of_its_purpose_and_no_other(desk, operation, purpose):
    desk.init(purpose, 1, CARD)
    data = {Operation.ENCIPHER: bytes(16), Operation.VERIFY: bytes(32)}
    refused = desk.crypt(operation, data.get(operation, UPDATE + CHALLENGE + b"x"))
    assert (refused.sw, refused.data) == (StatusWord.CONDITIONS_NOT_SATISFIED, b"")


@pytest.mark.parametrize(
    "between", ["0084000010", "80ca020000", "00ff0000", "801a0101090000000000000000", "00"]
)
def test_a_chosen_key_is_for_the_very_next_command_only(desk, between):
    desk.init(Purpose.ADMIT, 1, CARD)
    desk.send(between)
    assert desk.crypt(Operation.ENCIPHER, CHALLENGE).sw == StatusWord.CONDITIONS_NOT_SATISFIED


def test_a_chosen_key_works_once(desk):
    desk.init(Purpose.ADMIT, 1, CARD)
    assert desk.crypt(Operation.ENCIPHER, CHALLENGE).ok
    assert desk.crypt(Operation.ENCIPHER, CHALLENGE).sw == StatusWord.CONDITIONS_NOT_SATISFIED


@pytest.mark.parametrize(
    ("apdu", "status"),
    [
        ("00a4040005a000000003", StatusWord.FILE_NOT_FOUND),
        ("00a4000c023f00", StatusWord.WRONG_PARAMETERS),
        ("0084000008", StatusWord.WRONG_LENGTH),
        ("00840000", StatusWord.WRONG_LENGTH),
        ("0084000110", StatusWord.WRONG_PARAMETERS),
        ("80ca010000", StatusWord.WRONG_PARAMETERS),
        ("80ca011000", StatusWord.WRONG_PARAMETERS),
        ("80ca020100", StatusWord.WRONG_PARAMETERS),
        ("80ca030000", StatusWord.WRONG_PARAMETERS),
        ("80ca020001aa00", StatusWord.WRONG_LENGTH),
        ("801a01010801" + "00" * 7, StatusWord.WRONG_LENGTH),
        ("801a00010901" + "00" * 8, StatusWord.WRONG_PARAMETERS),
        ("801a04010901" + "00" * 8, StatusWord.WRONG_PARAMETERS),
        ("801a01090901" + "00" * 8, StatusWord.KEY_NOT_FOUND),
        ("801a01010902" + "00" * 8, StatusWord.KEY_NOT_FOUND),
        ("801a010109ff" + "00" * 8, StatusWord.KEY_NOT_FOUND),
        ("80fa000010" + "00" * 16, StatusWord.CONDITIONS_NOT_SATISFIED),
        ("80d4010139" + "00" * 57, StatusWord.MAC_MISSING),
        ("80d6000109" + "00" * 9, StatusWord.MAC_MISSING),
        ("84d401013901" + "00" * 56, StatusWord.CHALLENGE_MISSING),
        ("84d401013801" + "00" * 55, StatusWord.WRONG_LENGTH),
        ("84d401011901" + "00" * 24, StatusWord.WRONG_LENGTH),
        ("84d401012901" + "00" * 40, StatusWord.WRONG_LENGTH),
        ("84d401003901" + "00" * 56, StatusWord.WRONG_PARAMETERS),
        ("84d403013901" + "00" * 56, StatusWord.WRONG_PARAMETERS),
        ("84d401013900" + "00" * 56, StatusWord.WRONG_DATA),
        ("84d401013910" + "00" * 56, StatusWord.WRONG_DATA),
        ("84d400021901" + "00" * 24, StatusWord.WRONG_DATA),
        ("84d402011901" + "00" * 24, StatusWord.WRONG_LENGTH),
        ("84d601010901" + "00" * 8, StatusWord.WRONG_PARAMETERS),
        ("84d600010901" + "00" * 8, StatusWord.CHALLENGE_MISSING),
        ("00b0000000", StatusWord.UNKNOWN_INSTRUCTION),
        ("84ca010100", StatusWord.UNKNOWN_INSTRUCTION),
        ("ff840000", StatusWord.UNKNOWN_CLASS),
        ("00", StatusWord.WRONG_LENGTH),
        ("80fa0000ff", StatusWord.CONDITIONS_NOT_SATISFIED),
    ],
)
def test_what_it_can_not_do_is_refused_by_name_and_costs_nothing(desk, apdu, status):
    before = desk.chip.image
    refused = desk.send(apdu)
    assert (refused.sw, refused.data) == (status, b"")
    assert desk.chip.image == before


@pytest.mark.parametrize(
    ("operation", "purpose", "data", "status"),
    [
        (0, Purpose.ADMIT, bytes(15), StatusWord.WRONG_LENGTH),
        (0, Purpose.ADMIT, bytes(17), StatusWord.WRONG_LENGTH),
        (1, Purpose.AUTH, bytes(31), StatusWord.WRONG_LENGTH),
        (2, Purpose.MAINTAIN, UPDATE + CHALLENGE, StatusWord.WRONG_LENGTH),
        (2, Purpose.MAINTAIN, UPDATE + CHALLENGE + bytes(224), StatusWord.WRONG_LENGTH),
        (2, Purpose.MAINTAIN, b"\x84\xd4\x01\x11" + CHALLENGE + b"x" * 16, StatusWord.WRONG_DATA),
        (3, Purpose.AUTH, bytes(23), StatusWord.WRONG_LENGTH),
        (4, Purpose.AUTH, bytes(16), StatusWord.WRONG_PARAMETERS),
    ],
)
def test_data_that_does_not_fit_the_operation_is_refused(desk, operation, purpose, data, status):
    desk.init(purpose, 1, CARD)
    refused = desk.crypt(operation, data)
    assert (refused.sw, refused.data) == (status, b"")


@pytest.mark.parametrize(
    ("key_header", "command_header"),
    [
        ("39000105", "84d40111"),  # an auth key as an admit key
        ("34000205", "84d40111"),  # version 1's key as version 2's
        ("34000105", "84d40112"),  # into the place of admit
        ("34000105", "04d68100"),  # not WRITE KEY at all
        ("34000105", "84d40011"),
    ],
)
def test_a_key_is_protected_only_for_the_place_it_belongs_to(desk, key_header, command_header):
    desk.lend(CARD, TRANSPORT_KEY)
    desk.init(Purpose.AUTH, 1, CARD)
    data = bytes.fromhex(key_header + command_header) + CHALLENGE
    assert desk.crypt(Operation.PROTECT_KEY, data).sw == StatusWord.WRONG_DATA


@pytest.mark.parametrize("apdu", ["0084000010", "80ca020000", "80fa000010" + "00" * 16])
def test_nothing_is_done_before_it_is_selected(desk, apdu):
    desk.chip.reset()
    assert desk.send(apdu).sw == StatusWord.NO_CURRENT_FILE
    desk.select()
    desk.send("00a4040005a000000003")
    assert desk.send(apdu).sw == StatusWord.NO_CURRENT_FILE


@pytest.mark.parametrize("suite", ["gm", "intl"])
def test_a_blank_one_takes_a_control_key_and_nothing_before_it(suite):
    desk = EsamDesk(suite)
    assert desk.state.control_version == 0
    package = desk.package(Item.KEYS, 1, control_key=MAKERS_KEY)
    assert desk.send(package).sw == StatusWord.CONDITIONS_NOT_SATISFIED
    assert desk.issue().state.control_version == 1
    assert desk.send(desk.package(Item.KEYS, 1)).ok


def test_the_makers_key_is_worth_nothing_once_it_is_issued(desk):
    package = desk.package(Item.KEYS, 3, control_key=MAKERS_KEY)
    assert desk.send(package).sw == StatusWord.MAC_WRONG
    assert 3 not in desk.table()


def test_a_control_key_is_followed_only_by_one_of_a_higher_version(desk):
    def renew(version: int, key: bytes):
        data = desk.control.successor(desk.challenge(), version, key)
        return desk.send(protected(f"84d400{version:02x}", data))

    assert renew(1, bytes(16)).sw == StatusWord.CONDITIONS_NOT_SATISFIED
    assert desk.state.errors_left == 15
    assert renew(2, b"n" * 16).ok
    assert desk.send(desk.package(Item.KEYS, 3)).sw == StatusWord.MAC_WRONG
    desk.control_key = b"n" * 16
    assert desk.send(desk.package(Item.KEYS, 3)).ok
    assert set(desk.table()) == {1, 2, 3}


def test_a_raised_floor_erases_what_is_below_and_keeps_it_out(desk):
    assert desk.send(desk.package(Item.FLOOR, 2)).ok
    assert (desk.whole_table().floor, set(desk.table())) == (2, {2})
    assert desk.init(Purpose.AUTH, 1, CARD).sw == StatusWord.KEY_NOT_FOUND
    assert desk.send(desk.package(Item.KEYS, 1)).sw == StatusWord.CONDITIONS_NOT_SATISFIED
    assert desk.send(desk.package(Item.FLOOR, 1)).sw == StatusWord.CONDITIONS_NOT_SATISFIED
    assert desk.send(desk.package(Item.FLOOR, 2)).ok
    desk.power_on()
    assert (desk.whole_table().floor, set(desk.table())) == (2, {2})
    assert desk.state.errors_left == 15


def test_a_floor_is_of_its_own_domain(desk):
    desk.load(1, index=2)
    desk.send(desk.package(Item.FLOOR, 2))
    assert set(desk.table(2)) == {1}


def test_there_is_an_end_to_the_versions_it_holds(desk):
    for version in range(3, MAX_VERSIONS + 1):
        assert desk.send(desk.package(Item.KEYS, version, keys=bytes(48))).ok
    full = desk.package(Item.KEYS, MAX_VERSIONS + 1, keys=bytes(48))
    assert desk.send(full).sw == StatusWord.MEMORY_FULL
    assert desk.send(desk.package(Item.KEYS, 2)).ok, "one that is there is written again"
    assert len(desk.whole_table().encode()) <= 256
    assert desk.send(desk.package(Item.FLOOR, 2)).ok
    assert desk.send(desk.package(Item.KEYS, MAX_VERSIONS + 1, keys=bytes(48))).ok


def test_the_diversified_key_of_gm_is_the_standards_own_example():
    # GB/T 32907-2016, A.1, is SM4(key, id || NOT id) for this id.
    desk = EsamDesk("gm").issue()
    key = bytes.fromhex("0123456789abcdeffedcba9876543210")
    card_id = bytes.fromhex("0123456789abcdef")
    expected = bytes.fromhex("681edf34d206965e86b3e94f536e4246")
    desk.send(desk.package(Item.KEYS, 1, keys=bytes(16) + key + bytes(16)))
    desk.init(Purpose.ADMIT, 1, card_id)
    answer = desk.crypt(Operation.ENCIPHER, CHALLENGE)
    assert answer.data == desk.suite.encrypt_block(expected, CHALLENGE)


def test_the_check_values_are_those_of_the_standards_examples():
    # AES-128 and SM4 of the zero block: RFC 4493 section 4 gives AES(2b7e.., 0) = 7df76b0c...
    desk = EsamDesk("intl").issue()
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    desk.send(desk.package(Item.KEYS, 1, keys=key + bytes(32)))
    assert desk.table()[1].auth == "7df76b"


@pytest.mark.parametrize("algorithm", [algorithms.SM4, algorithms.AES], ids=["gm", "intl"])
def test_a_package_made_with_a_foreign_library_by_the_documentation_is_taken(algorithm):
    """docs/esam.md, computed with none of our own functions (CMAC: NIST SP 800-38B)."""
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    def cmac(key: bytes, data: bytes) -> bytes:
        mac = CMAC(algorithm(key))
        mac.update(data)
        return mac.finalize()

    desk = EsamDesk("gm" if algorithm is algorithms.SM4 else "intl").issue()
    challenge, header, keys = desk.challenge(), bytes.fromhex("84d40107"), bytes(range(48))
    session = cmac(desk.control_key, b"\x01" + challenge)
    encryptor = Cipher(algorithm(session), modes.CBC(bytes(16))).encryptor()
    enciphered = encryptor.update(keys) + encryptor.finalize()
    mac = cmac(
        cmac(desk.control_key, b"\x02" + challenge),
        header + ESAM_SERIAL + b"\x03" + b"\x38" + enciphered,
    )[:8]
    assert desk.send(header + b"\x39" + b"\x03" + enciphered + mac).ok
    assert desk.table(3) == {7: check_values(desk.suite, keys)}
    assert check_values(desk.suite, keys).admit == check_value(desk.suite, keys[16:32]).hex()


def test_no_repr_shows_a_key(desk):
    desk.lend(CARD, TRANSPORT_KEY)
    shown = repr(desk.chip.image) + repr(desk.control) + repr(vars(desk.chip._os))
    keys = [desk.control_key, *(k for v in desk.secrets.values() for k in v.values())]
    for key in (*keys, TRANSPORT_KEY):
        assert key.hex() not in shown
        assert repr(key)[2:-1] not in shown


def test_secure_messaging_of_the_chip_and_of_the_software_element_are_the_same(desk):
    desk.init(Purpose.MAINTAIN, 1, CARD)
    body = desk.crypt(Operation.PROTECT, UPDATE + CHALLENGE + b"x" * 16)
    key = desk.card_key(Purpose.MAINTAIN, 1, CARD)
    assert body.data == protect(desk.suite, key, CHALLENGE, UPDATE, b"x" * 16)
