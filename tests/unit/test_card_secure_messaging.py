from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.secure_messaging import (
    MAX_PLAINTEXT_BYTES,
    BadProtection,
    pad,
    protect,
    unprotect,
)
from schemas.suites import GM, INTL

SUITES = st.sampled_from([GM, INTL])
KEY, CHALLENGE, HEADER = b"k" * 16, b"c" * 16, bytes.fromhex("84d40111")


@given(SUITES, st.binary(max_size=MAX_PLAINTEXT_BYTES))
def test_what_is_protected_is_read_back(suite, plaintext):
    body = protect(suite, KEY, CHALLENGE, HEADER, plaintext)
    assert len(body) <= 255
    assert unprotect(suite, KEY, CHALLENGE, HEADER, body) == plaintext


@given(SUITES, st.data())
def test_a_changed_bit_anywhere_is_refused(suite, data):
    body = bytearray(protect(suite, KEY, CHALLENGE, HEADER, b"secret"))
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadProtection):
        unprotect(suite, KEY, CHALLENGE, HEADER, bytes(body))


@given(SUITES, st.binary(max_size=255))
def test_any_bytes_are_refused(suite, body):
    with pytest.raises(BadProtection):
        unprotect(suite, KEY, CHALLENGE, HEADER, body)


@pytest.mark.parametrize("suite", [GM, INTL], ids=["gm", "intl"])
def test_a_body_is_good_for_one_key_one_challenge_and_one_command(suite):
    body = protect(suite, KEY, CHALLENGE, HEADER, b"secret")
    for key, challenge, header in (
        (b"x" * 16, CHALLENGE, HEADER),
        (KEY, b"x" * 16, HEADER),
        (KEY, CHALLENGE, bytes.fromhex("84d40112")),
    ):
        with pytest.raises(BadProtection):
            unprotect(suite, key, challenge, header, body)


def test_padding_is_method_2_of_iso_9797():
    assert pad(b"").hex() == "80" + "00" * 15
    assert pad(b"a" * 15) == b"a" * 15 + b"\x80"
    assert pad(b"a" * 16) == b"a" * 16 + b"\x80" + bytes(15)
