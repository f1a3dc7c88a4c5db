"""A package works on one ESAM, once, as it was made; and no loss of power changes that."""

from __future__ import annotations

import contextlib

import pytest

from edge_agent.card.apdu import StatusWord
from edge_agent.secure_element.esam_layout import ERROR_LIMIT, Operation
from edge_agent.virtual.chip import CardTorn, Tear, TearMoment
from edge_agent.virtual.esam_memory import EsamImage
from edge_agent.virtual.esam_os import VirtualEsam
from schemas.keys import Item, Purpose
from tests.card_desk import SERIAL as CARD
from tests.card_desk import TRANSPORT_KEY, repeatable
from tests.esam_desk import MAKERS_KEY, EsamDesk, protected

OTHER = bytes.fromhex("45534d0000000002")


@pytest.fixture(params=["gm", "intl"])
def desk(request):
    return EsamDesk(request.param).issue().load(1)


def refused(desk: EsamDesk, package: bytes, status: StatusWord) -> None:
    """It is, and changes no key."""
    before = desk.table()
    answer = desk.send(package)
    assert (answer.sw, answer.data) == (status, b"")
    assert desk.table() == before


def test_a_package_that_is_played_again_finds_its_challenge_used(desk):
    package = desk.package(Item.KEYS, 2)
    assert desk.send(package).ok
    refused(desk, package, StatusWord.CHALLENGE_MISSING)
    desk.challenge()
    refused(desk, package, StatusWord.MAC_WRONG)


def test_a_challenge_is_used_up_by_a_wrong_package_too(desk):
    good = desk.package(Item.KEYS, 2)
    bad = bytearray(good)
    bad[-1] ^= 1
    refused(desk, bytes(bad), StatusWord.MAC_WRONG)
    refused(desk, good, StatusWord.CHALLENGE_MISSING)


@pytest.mark.parametrize("malformed", ["84d4010201ff", "84d409023900" + "00" * 56, "84d60000"])
def test_a_challenge_is_used_up_by_a_malformed_package_too(desk, malformed):
    good = desk.package(Item.KEYS, 2)
    assert not desk.send(malformed).ok
    refused(desk, good, StatusWord.CHALLENGE_MISSING)


def test_only_the_newest_challenge_counts(desk):
    package = desk.package(Item.KEYS, 2)
    desk.challenge()
    refused(desk, package, StatusWord.MAC_WRONG)


def test_a_challenge_outlasts_the_work_for_doors_between(desk):
    """Packages take a while over the network; cards are held up meanwhile."""
    package = desk.package(Item.KEYS, 2)
    desk.init(Purpose.ADMIT, 1, CARD)
    assert desk.crypt(Operation.ENCIPHER, bytes(16)).ok
    assert desk.send(package).ok


@pytest.mark.parametrize("forget", ["power_on", "select"])
def test_a_challenge_is_forgotten_with_the_power_and_at_a_select(desk, forget):
    package = desk.package(Item.KEYS, 2)
    getattr(desk, forget)()
    refused(desk, package, StatusWord.CHALLENGE_MISSING)


def test_a_package_for_another_esam_is_refused_even_under_the_same_control_key(desk):
    other = EsamDesk(desk.suite.name, serial=OTHER)
    other.control_key = desk.control_key
    other.issue()
    challenge = desk.challenge()
    refused(desk, other.package(Item.KEYS, 2, challenge=challenge), StatusWord.MAC_WRONG)
    assert desk.send(desk.package(Item.KEYS, 2)).ok


def test_packages_out_of_order_are_refused(desk):
    first = desk.package(Item.KEYS, 2)
    second = desk.package(Item.KEYS, 3)
    assert desk.send(second).ok
    refused(desk, first, StatusWord.CHALLENGE_MISSING)


def test_every_flipped_bit_is_noticed(desk):
    """Header, place, keys and MAC alike; only CLA and Lc make it another command altogether."""
    length = len(desk.package(Item.KEYS, 2))
    for bit in range(8, 8 * length):
        package = bytearray(desk.package(Item.KEYS, 2))
        package[bit // 8] ^= 1 << bit % 8
        before = desk.table(), desk.table(2), desk.table(3)
        assert not desk.send(bytes(package)).ok, bit
        assert (desk.table(), desk.table(2), desk.table(3)) == before
        desk.send(desk.package(Item.KEYS, 1))  # all tries back


def test_cut_or_lengthened_packages_are_refused(desk):
    package = desk.package(Item.KEYS, 2)
    data = package[5:]
    short, two = data[:1] + data[9:], data[:1] + data[17:]
    for changed in (data[:-1], data + b"\x00", data[:-8], short, two, b"\x01"):
        desk.challenge()
        refused(desk, protected("84d40102", changed), StatusWord.WRONG_LENGTH)
    assert desk.state.errors_left == ERROR_LIMIT


def test_keys_are_never_taken_for_a_control_key_or_the_other_way_round(desk):
    package = desk.package(Item.KEYS, 2)
    refused(desk, b"\x84\xd4\x00\x02" + package[4:], StatusWord.WRONG_LENGTH)
    data = desk.control.successor(desk.challenge(), 2, bytes(16))
    refused(desk, protected("84d40102", b"\x01" + data[1:]), StatusWord.WRONG_LENGTH)
    for what in (0, 2):  # whatever its length: the MAC is over the command too
        data = desk.control._seal(desk.challenge(), what, 2, index=1, blocks=bytes(48))
        refused(desk, protected("84d40102", data), StatusWord.MAC_WRONG)


def test_keys_in_another_order_are_refused(desk):
    """A block at another place would be a key for another purpose."""
    package = desk.package(Item.KEYS, 2)
    before, blocks, mac = package[:6], package[6:-8], package[-8:]
    swapped = blocks[16:32] + blocks[:16] + blocks[32:]
    refused(desk, before + swapped + mac, StatusWord.MAC_WRONG)


def spoil(desk: EsamDesk, times: int) -> None:
    for _ in range(times):
        package = bytearray(desk.package(Item.KEYS, 2))
        package[-1] ^= 1
        assert desk.send(bytes(package)).sw == StatusWord.MAC_WRONG


def test_fifteen_wrong_macs_end_its_taking_keys_for_ever(desk):
    spoil(desk, ERROR_LIMIT - 1)
    assert desk.state.errors_left == 1
    assert desk.send(desk.package(Item.KEYS, 2)).ok
    assert desk.state.errors_left == ERROR_LIMIT
    spoil(desk, ERROR_LIMIT)
    for _ in range(2):
        assert desk.state.errors_left == 0
        refused(desk, desk.package(Item.KEYS, 2), StatusWord.BLOCKED)
        refused(desk, desk.package(Item.FLOOR, 2), StatusWord.BLOCKED)
        data = desk.control.successor(desk.challenge(), 2, bytes(16))
        refused(desk, protected("84d40002", data), StatusWord.BLOCKED)
        assert desk.lend(CARD, TRANSPORT_KEY).sw == StatusWord.BLOCKED
        desk.power_on()


def test_a_worn_out_one_still_opens_doors(desk):
    spoil(desk, ERROR_LIMIT)
    desk.init(Purpose.ADMIT, 1, CARD)
    assert desk.crypt(Operation.ENCIPHER, bytes(16)).ok


@pytest.mark.parametrize("moment", TearMoment)
def test_no_loss_of_power_gives_a_try_free(desk, moment):
    """Guessing is counted, at whatever moment the power is taken away."""
    guesses = 0
    while desk.state.errors_left and guesses < 50:
        package = bytearray(desk.package(Item.KEYS, 2))
        package[-1] ^= 1
        left = desk.state.errors_left
        desk.arm(Tear(moment, 1))
        with contextlib.suppress(CardTorn):
            desk.send(bytes(package))
        desk.power_on()
        if moment in (TearMoment.BEFORE_APDU, TearMoment.IN_WRITE):
            # Nothing was compared: it never got so far, and the challenge is gone.
            assert desk.state.errors_left == left
            refused(desk, bytes(package), StatusWord.CHALLENGE_MISSING)
            break
        guesses += 1
        assert desk.state.errors_left == left - 1
    else:
        assert guesses == ERROR_LIMIT


def writes_of(desk: EsamDesk, change) -> int:
    """How many memory writes a change takes, tried on a copy of the chip."""
    copy = EsamDesk(desk.suite.name)
    copy.control_key, copy.secrets = desk.control_key, desk.secrets
    copy.issue().load(1)
    copy.arm(None)
    change(copy)
    return copy.chip.counted[1]


def keys(desk):
    return desk.package(Item.KEYS, 2)


def other_keys(desk):
    """A version that is there is written again."""
    return desk.package(Item.KEYS, 1, keys=bytes(range(48)))


def floor(desk):
    return desk.package(Item.FLOOR, 2)


def control(desk):
    return protected("84d40002", desk.control.successor(desk.challenge(), 2, b"n" * 16))


@pytest.mark.parametrize("change", [keys, other_keys, floor, control])
@pytest.mark.parametrize("moment", [TearMoment.IN_WRITE, TearMoment.AFTER_WRITE])
def test_power_lost_in_any_memory_write_leaves_the_old_state_or_the_new(
    desk, change, moment, tmp_path
):
    count = writes_of(desk, lambda copy: copy.send(change(copy)))
    assert count == 2
    for at in range(1, count + 1):
        path = tmp_path / f"{at}.bin"
        torn = EsamDesk(desk.suite.name, path=path)
        torn.control_key, torn.secrets = desk.control_key, desk.secrets
        torn.issue().load(1)
        old = torn.chip.image
        package = change(torn)
        torn.arm(Tear(moment, at))
        with pytest.raises(CardTorn):
            torn.send(package)
        kept = EsamImage.decode(path.read_bytes())
        assert kept == torn.chip.image
        done = (moment, at) == (TearMoment.AFTER_WRITE, count)
        assert ((kept.domains, kept.control_key) != (old.domains, old.control_key)) is done
        assert kept.errors_left == (ERROR_LIMIT if done or (moment, at) == FIRST else 14)
        torn.chip = VirtualEsam.open(path, repeatable(9))
        torn.select()
        if not done:  # what was torn is simply asked for again
            assert torn.send(change(torn)).ok
            assert torn.state.errors_left == ERROR_LIMIT


FIRST = (TearMoment.IN_WRITE, 1)


@pytest.mark.parametrize("moment", [TearMoment.IN_WRITE, TearMoment.AFTER_WRITE])
@pytest.mark.parametrize("at", [1, 2])
def test_an_issuing_that_is_torn_leaves_it_blank_or_issued(moment, at):
    desk = EsamDesk("intl")
    makers = desk.control
    makers = type(makers)(desk.suite, desk.serial, MAKERS_KEY)
    package = protected("84d40001", makers.successor(desk.challenge(), 1, desk.control_key))
    desk.arm(Tear(moment, at))
    with pytest.raises(CardTorn):
        desk.send(package)
    desk.power_on()
    if (moment, at) == (TearMoment.AFTER_WRITE, 2):
        assert desk.state.control_version == 1
    else:
        assert desk.state.control_version == 0
        desk.issue()
    assert desk.load(1).state.errors_left == ERROR_LIMIT


def everything(desk: EsamDesk) -> None:
    """Use all that it can do, and all that it refuses."""
    desk.issue().load(1, 2).load(1, index=2)
    desk.select()
    desk.lend(CARD, TRANSPORT_KEY)
    for purpose in Purpose:
        for under in (0, 1, 2):
            desk.init(purpose, 1, CARD)
            header = bytes((0x84, 0xD4, 0x01, 0x10 | purpose))
            kinds = {Purpose.AUTH: 0x34, Purpose.ADMIT: 0x39, Purpose.MAINTAIN: 0x36}
            record = bytes((kinds[purpose], 0, 1, 5))
            desk.crypt(Operation.PROTECT_KEY, record + header + bytes(16), under)
        for operation, data in {
            Operation.ENCIPHER: bytes(16),
            Operation.VERIFY: bytes(32),
            Operation.PROTECT: bytes.fromhex("04d68100") + bytes(32),
        }.items():
            desk.init(purpose, 1, CARD)
            desk.crypt(operation, data)
    for p1 in range(256):
        for ins in (0xCA, 0xB0, 0xFA, 0x1A, 0xC0, 0xD4, 0xD6):
            desk.send(bytes((0x80, ins, p1, 1, 0)))
            desk.send(bytes((0x84, ins, p1, 1, 0)))
    for index in range(16):
        desk.send(bytes((0x80, 0xCA, 1, index, 0)))
    spoil(desk, 3)
    desk.send(desk.package(Item.FLOOR, 2))


def told(desk: EsamDesk) -> list[bytes]:
    """The keys of which a part, forwards, backwards or in hex, is in some answer."""
    secrets = [key for version in desk.secrets.values() for key in version.values()]
    keys = [desk.control_key, MAKERS_KEY, TRANSPORT_KEY, *secrets]
    keys += [desk.suite.diversify(secret, CARD) for secret in secrets]
    answers = b"\x00".join(desk.answers)
    return [
        key
        for key in keys
        for part in (key[:8], key[8:], key[::-1][:8], key.hex()[:12].encode())
        if part in answers
    ]


@pytest.mark.parametrize("suite", ["gm", "intl"])
def test_no_answer_to_anything_holds_a_key(suite):
    desk = EsamDesk(suite)
    everything(desk)
    assert sum(len(answer) > 2 for answer in desk.answers) > 30
    assert told(desk) == []
    key = desk.suite.diversify(desk.secrets[1][Purpose.AUTH], CARD)
    desk.answers.append(b"before" + key[8:] + b"\x90\x00")
    assert told(desk) == [key], "the search itself finds nothing"
