from __future__ import annotations

import pytest

from edge_agent.files import UnsafeKeyFile, read_kek, write_private
from edge_agent.secure_element.port import ElementUnavailable, Purpose
from edge_agent.secure_element.software import SoftwareElement
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
    assert first.versions == again.versions == {1}
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
