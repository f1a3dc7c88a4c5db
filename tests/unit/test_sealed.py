"""Secrets at rest open only unchanged, under their key, as what they are."""

from __future__ import annotations

import secrets

import pytest

from schemas.errors import BadSignature
from schemas.sealed import KEK_BYTES, seal_secret, unseal_secret

KEK = bytes(range(KEK_BYTES))
SEALED = seal_secret(KEK, b"secret", "policy key", secrets.token_bytes)


def test_a_sealed_secret_opens():
    assert unseal_secret(KEK, SEALED, "policy key") == b"secret"


def test_the_same_secret_is_sealed_differently_each_time():
    assert seal_secret(KEK, b"secret", "policy key", secrets.token_bytes) != SEALED


def test_the_secret_does_not_show():
    assert b"secret" not in SEALED


def test_no_byte_may_change_and_none_may_be_missing_or_more():
    for place in range(len(SEALED)):
        changed = bytearray(SEALED)
        changed[place] ^= 1
        with pytest.raises(BadSignature):
            unseal_secret(KEK, bytes(changed), "policy key")
        with pytest.raises(BadSignature):
            unseal_secret(KEK, SEALED[:place], "policy key")
    with pytest.raises(BadSignature):
        unseal_secret(KEK, SEALED + b"\0", "policy key")


def test_another_key_or_another_context_opens_nothing():
    with pytest.raises(BadSignature):
        unseal_secret(bytes(KEK_BYTES), SEALED, "policy key")
    with pytest.raises(BadSignature):
        unseal_secret(KEK, SEALED, "online key")


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_encryption_key_of_another_length_is_refused(length):
    with pytest.raises(ValueError, match="32 bytes"):
        seal_secret(bytes(length), b"secret", "policy key", secrets.token_bytes)
    with pytest.raises(ValueError, match="32 bytes"):
        unseal_secret(bytes(length), SEALED, "policy key")
