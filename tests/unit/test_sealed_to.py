from __future__ import annotations

import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from schemas.errors import BadSignature
from schemas.sealed_to import open_sealed_to, seal_to
from schemas.suites import GM, INTL, Suite

SUITES = pytest.mark.parametrize("suite", [GM, INTL], ids=["gm", "intl"])


@SUITES
def test_the_recipient_and_nobody_else_reads_what_is_sealed_to_it(suite: Suite) -> None:
    recipient = suite.generate(secrets.token_bytes)
    sealed = seal_to(suite, recipient.public.point, b"secret", "context", secrets.token_bytes)
    assert open_sealed_to(recipient, sealed, "context") == b"secret"
    assert b"secret" not in sealed
    with pytest.raises(BadSignature):
        open_sealed_to(suite.generate(secrets.token_bytes), sealed, "context")
    with pytest.raises(BadSignature):
        open_sealed_to(recipient, sealed, "another context")


@SUITES
def test_a_changed_byte_anywhere_is_noticed(suite: Suite) -> None:
    recipient = suite.generate(secrets.token_bytes)
    sealed = seal_to(suite, recipient.public.point, b"secret", "context", secrets.token_bytes)
    for place in range(0, len(sealed), 7):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(BadSignature):
            open_sealed_to(recipient, bytes(changed), "context")
    for length in (0, 64, 65, len(sealed) - 1):
        with pytest.raises(BadSignature):
            open_sealed_to(recipient, sealed[:length], "context")


@SUITES
def test_the_same_secret_is_sealed_otherwise_each_time(suite: Suite) -> None:
    point = suite.generate(secrets.token_bytes).public.point
    first, second = (
        seal_to(suite, point, b"secret", "context", secrets.token_bytes) for _ in range(2)
    )
    assert first[:65] != second[:65]
    assert first[65:] != second[65:]


@SUITES
def test_both_sides_agree_on_the_same_x(suite: Suite) -> None:
    one, other = (suite.generate(secrets.token_bytes) for _ in range(2))
    assert one.agree(other.public) == other.agree(one.public)
    assert len(one.agree(other.public)) == 32


def test_the_agreed_x_is_that_of_the_scalar_times_the_point() -> None:
    # 1 * P is P: holds any implementation to the x coordinate itself.
    for suite in (GM, INTL):
        one = suite.private_key((1).to_bytes(32))
        other = suite.generate(secrets.token_bytes)
        assert one.agree(other.public) == other.public.point[1:33]


def test_intl_agrees_with_another_library_use_of_ecdh() -> None:
    ours = INTL.generate(secrets.token_bytes)
    theirs = ec.generate_private_key(ec.SECP256R1())
    numbers = theirs.public_key().public_numbers()
    point = b"\x04" + numbers.x.to_bytes(32) + numbers.y.to_bytes(32)
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), ours.public.point)
    assert ours.agree(INTL.public_key(point)) == theirs.exchange(ec.ECDH(), key)
