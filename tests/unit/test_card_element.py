from __future__ import annotations

import json

import pytest

from edge_agent.files import UnsafeKeyFile, read_kek, write_private
from edge_agent.secure_element.port import ElementUnavailable, Purpose
from edge_agent.secure_element.software import SoftwareElement, TooManyVersions
from schemas.sealed import seal_secret
from schemas.suites import GM, INTL
from tests.card_desk import SERIAL, repeatable

KEK = bytes(32)


def element(path, *, kek=KEK, suite=GM, domain="front", seed=1):
    return SoftwareElement.open(path, kek=kek, suite=suite, domain=domain, random=repeatable(seed))


@pytest.mark.parametrize("suite", [GM, INTL], ids=["gm", "intl"])
async def test_secrets_are_made_at_first_use_and_kept(tmp_path, suite):
    path = tmp_path / "front.sealed"
    first = element(path, suite=suite)
    again = element(path, suite=suite, seed=2)
    assert first.held == again.held == {1}
    cryptogram = await first.admit(SERIAL, 1, b"c" * 16)
    assert await again.admit(SERIAL, 1, b"c" * 16) == cryptogram
    assert path.stat().st_mode & 0o777 == 0o600


async def test_each_purpose_card_and_version_has_its_own_key(tmp_path):
    lock = element(tmp_path / "front.sealed")
    challenge = b"c" * 16
    cryptogram = await lock.admit(SERIAL, 1, challenge)
    assert cryptogram != await lock.admit(bytes(8), 1, challenge)
    assert not await lock.check(SERIAL, 1, challenge, cryptogram)
    with pytest.raises(ElementUnavailable, match="version 2"):
        await lock.admit(SERIAL, 2, challenge)


async def test_a_cryptogram_of_another_length_is_wrong_and_no_error(tmp_path):
    lock = element(tmp_path / "front.sealed")
    for cryptogram in (b"", b"x", bytes(17)):
        assert not await lock.check(SERIAL, 1, b"c" * 16, cryptogram)


async def test_no_secret_lies_on_the_disk_or_in_a_repr(tmp_path):
    path = tmp_path / "front.sealed"
    lock = element(path)
    for purpose in Purpose:
        secret = lock._versions[1][purpose]
        assert secret not in path.read_bytes()
        assert secret.hex().encode() not in path.read_bytes()
        assert secret.hex() not in repr(lock)


@pytest.mark.parametrize(
    "other",
    [{"kek": b"k" * 32}, {"suite": INTL}, {"domain": "back"}],
    ids=["kek", "suite", "domain"],
)
def test_an_element_of_another_lock_is_refused_with_advice(tmp_path, other):
    path = tmp_path / "front.sealed"
    element(path)
    with pytest.raises(ElementUnavailable, match="bind every card again"):
        element(path, **other)


def test_a_changed_file_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "front.sealed"
    element(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ElementUnavailable):
        element(path)
    assert path.read_bytes() == content


def test_a_sealing_key_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "sealing.key"
    kek = read_kek(path, repeatable(1))
    assert len(kek) == 32
    assert read_kek(path, repeatable(2)) == kek
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_sealing_key_others_can_read_is_refused(tmp_path):
    path = tmp_path / "sealing.key"
    read_kek(path, repeatable(1))
    path.chmod(0o644)
    with pytest.raises(UnsafeKeyFile, match="chmod 600"):
        read_kek(path, repeatable(1))


def test_a_short_sealing_key_is_refused_and_not_replaced(tmp_path):
    path = tmp_path / "sealing.key"
    write_private(path, b"short")
    with pytest.raises(UnsafeKeyFile, match="5 bytes"):
        read_kek(path, repeatable(1))
    assert path.read_bytes() == b"short"


def test_a_private_file_is_replaced_whole_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "secret"
    write_private(path, b"old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    write_private(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]


def test_a_drawn_version_is_on_disk_before_it_counts(tmp_path):
    path = tmp_path / "front.sealed"
    lock = element(path)
    lock.draw(2, repeatable(7))
    assert lock.held == element(path).held == {1, 2}
    assert lock.check_values() == element(path).check_values()


def test_a_version_whose_file_was_not_written_does_not_count(tmp_path):
    path = tmp_path / "gone" / "front.sealed"
    path.parent.mkdir()
    lock = element(path)
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(OSError, match="gone"):
        lock.draw(2, repeatable(7))
    assert lock.held == {1}


def test_drawing_again_changes_nothing(tmp_path):
    lock = element(tmp_path / "front.sealed")
    lock.draw(2, repeatable(7))
    before = lock.check_values()
    lock.draw(2, repeatable(8))
    assert lock.check_values() == before


async def test_what_is_below_the_floor_is_erased_for_ever(tmp_path):
    path = tmp_path / "front.sealed"
    lock = element(path)
    lock.draw(2, repeatable(7))
    lock.raise_floor(2)
    lock.raise_floor(1)
    for each in (lock, element(path)):
        assert (each.held, each.floor) == ({2}, 2)
        with pytest.raises(ElementUnavailable, match="version 1"):
            await each.admit(SERIAL, 1, b"c" * 16)
        with pytest.raises(ValueError, match="below the floor"):
            each.draw(1, repeatable(8))


def test_there_is_room_for_eight_versions(tmp_path):
    lock = element(tmp_path / "front.sealed")
    for version in range(2, 9):
        lock.draw(version, repeatable(version))
    with pytest.raises(TooManyVersions):
        lock.draw(9, repeatable(9))
    lock.raise_floor(3)
    lock.draw(9, repeatable(9))
    assert lock.held == {3, 4, 5, 6, 7, 8, 9}


async def test_an_element_of_before_there_were_floors_still_opens(tmp_path):
    path = tmp_path / "front.sealed"
    lock = element(path)
    old = {"1": {p.name.lower(): lock._versions[1][p].hex() for p in Purpose}}
    context = "secure element of domain front, suite gm"
    write_private(path, seal_secret(KEK, json.dumps(old).encode(), context, repeatable(5)))
    again = element(path)
    assert (again.held, again.floor) == ({1}, 1)
    assert await again.admit(SERIAL, 1, b"c" * 16) == await lock.admit(SERIAL, 1, b"c" * 16)


def test_a_key_that_another_process_makes_at_the_same_moment_counts(tmp_path):
    path = tmp_path / "sealing.key"
    others = b"o" * 32

    def random(count: int) -> bytes:  # asked after it was seen that no key is there
        write_private(path, others)
        return b"m" * count

    assert read_kek(path, random) == read_kek(path, random) == others
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
