"""Keys and signatures as an attacker would make them: each is refused by name, on every provider.

A verifier that takes a second encoding of one signature, or a key that isn't a point of the curve,
gives an attacker a lever. Each case here fails when the check that refuses it is taken away.
"""

from __future__ import annotations

import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from schemas.errors import BadSignature, MalformedKey, MalformedSignature
from tests.schema_cast import CURVES, GMSSL, OPENSSL, key_of

MESSAGE = b"open the front door"
EACH_CURVE = pytest.mark.parametrize("curve", CURVES, ids=lambda c: c.label)


def integer(value: int, *, zeros: int = 0) -> bytes:
    """DER INTEGER, with `zeros` octets before it that DER forbids."""
    body = bytes(zeros) + value.to_bytes(value.bit_length() // 8 + 1)
    return b"\x02" + bytes([len(body)]) + body


def negative(value: int) -> bytes:
    """A DER INTEGER of 32 bytes whose sign bit is set."""
    return b"\x02\x20" + (value | 1 << 255).to_bytes(32)


def sequence(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return b"\x30" + bytes([len(body)]) + body


# Each takes r and s of a signature that holds, and the order n, and gives bytes to refuse.
MALFORMED = {
    "nothing": lambda r, s, n: b"",
    "one byte": lambda r, s, n: b"\x30",
    "an empty SEQUENCE": lambda r, s, n: b"\x30\x00",
    "an empty SEQUENCE and zeros": lambda r, s, n: b"\x30\x00" + bytes(6),
    "raw r and s": lambda r, s, n: r.to_bytes(32) + s.to_bytes(32),
    "r = 0": lambda r, s, n: encode_dss_signature(0, s),
    "s = 0": lambda r, s, n: encode_dss_signature(r, 0),
    "r = s = 0": lambda r, s, n: encode_dss_signature(0, 0),
    "r = n": lambda r, s, n: encode_dss_signature(n, s),
    "s = n": lambda r, s, n: encode_dss_signature(r, n),
    "r + n": lambda r, s, n: encode_dss_signature(r + n, s),
    "s + n": lambda r, s, n: encode_dss_signature(r, s + n),
    "r = 2^256 - 1": lambda r, s, n: encode_dss_signature(2**256 - 1, s),
    "negative r": lambda r, s, n: sequence(negative(r), integer(s)),
    "negative s": lambda r, s, n: sequence(integer(r), negative(s)),
    "a zero before r": lambda r, s, n: sequence(integer(r, zeros=1), integer(s)),
    "a zero before s": lambda r, s, n: sequence(integer(r), integer(s, zeros=1)),
    "a long-form length": lambda r, s, n: b"\x30\x81" + sequence(integer(r), integer(s))[1:],
    "a long-form INTEGER": lambda r, s, n: sequence(b"\x02\x81" + integer(r)[1:], integer(s)),
    "an indefinite length": lambda r, s, n: b"\x30\x80" + integer(r) + integer(s) + b"\0\0",
    "a byte after it": lambda r, s, n: sequence(integer(r), integer(s)) + b"\0",
    "a byte inside, after s": lambda r, s, n: sequence(integer(r), integer(s), b"\0"),
    "a third INTEGER": lambda r, s, n: sequence(integer(r), integer(s), integer(1)),
    "r alone": lambda r, s, n: sequence(integer(r)),
    "a SET": lambda r, s, n: b"\x31" + sequence(integer(r), integer(s))[1:],
    "an OCTET STRING for r": lambda r, s, n: sequence(b"\x04" + integer(r)[1:], integer(s)),
    "an INTEGER of no bytes": lambda r, s, n: sequence(b"\x02\x00", integer(s)),
    "a cut end": lambda r, s, n: encode_dss_signature(r, s)[:-1],
    "a length too small": lambda r, s, n: b"\x30\x08" + sequence(integer(r), integer(s))[2:],
    "a whole kilobyte": lambda r, s, n: encode_dss_signature(r, s) + bytes(1000),
    "PEM": lambda r, s, n: b"-----BEGIN SIGNATURE-----\n" + bytes(40),
}


@EACH_CURVE
@pytest.mark.parametrize("what", MALFORMED)
def test_a_signature_that_is_not_canonical_der_in_range_is_malformed(curve, what):
    key = key_of(curve.suite, "agent")
    r, s = decode_dss_signature(key.sign(MESSAGE))
    with pytest.raises(MalformedSignature):
        key.public.verify(MESSAGE, MALFORMED[what](r, s, curve.order))


@EACH_CURVE
@pytest.mark.parametrize("length", [0, 7, 73, 100_000])
def test_a_signature_of_an_impossible_length_is_refused_before_it_is_parsed(curve, length):
    with pytest.raises(MalformedSignature, match="bytes long"):
        key_of(curve.suite, "agent").public.verify(MESSAGE, b"\x30" * length)


@EACH_CURVE
def test_a_second_encoding_is_refused_even_if_the_library_would_take_it(curve, monkeypatch):
    key = key_of(curve.suite, "agent")
    module = sys.modules["schemas.suites.suite"]  # the package has a function of that name
    monkeypatch.setattr(module, "decode_dss_signature", lambda _der: (1, 1))
    with pytest.raises(MalformedSignature, match="canonical"):
        key.public.verify(MESSAGE, sequence(integer(1, zeros=1), integer(1)))


@EACH_CURVE
def test_the_der_this_test_builds_by_hand_is_what_holds_when_nothing_is_wrong(curve):
    key = key_of(curve.suite, "agent")
    r, s = decode_dss_signature(key.sign(MESSAGE))
    key.public.verify(MESSAGE, sequence(integer(r), integer(s)))


@EACH_CURVE
@pytest.mark.parametrize(
    "change",
    [
        lambda r, s, n: (r, n - s),
        lambda r, s, n: (n - r, s),
        lambda r, s, n: (s, r),
        lambda r, s, n: (r, s - 1 or 2),
        lambda r, s, n: (1, 1),
        lambda r, s, n: (n - 1, n - 1),
        lambda r, s, n: (r, n - r),
        lambda r, s, n: (1, n - 1),
    ],
    ids=["r, n-s", "n-r, s", "s, r", "r, s-1", "1, 1", "n-1, n-1", "r, n-r", "1, n-1"],
)
def test_a_well_formed_signature_over_something_else_is_bad(curve, change):
    key = key_of(curve.suite, "agent")
    r, s = decode_dss_signature(key.sign(MESSAGE))
    changed = encode_dss_signature(*change(r, s, curve.order))
    if curve.suite.name == "intl" and changed == encode_dss_signature(r, curve.order - s):
        # ECDSA's twin (r, n-s) holds by its mathematics, so a signature never serves as a name
        key.public.verify(MESSAGE, changed)
        return
    with pytest.raises(BadSignature):
        key.public.verify(MESSAGE, changed)


@EACH_CURVE
def test_a_signature_by_another_key_or_over_other_bytes_is_bad(curve):
    key, other = key_of(curve.suite, "agent"), key_of(curve.suite, "another")
    signature = key.sign(MESSAGE)
    with pytest.raises(BadSignature):
        other.public.verify(MESSAGE, signature)
    for message in (b"", MESSAGE + b"\0", MESSAGE[:-1], MESSAGE.upper()):
        with pytest.raises(BadSignature):
            key.public.verify(message, signature)


def shifted(point: bytes, prime: int, start: int) -> bytes:
    """The point with one coordinate written as itself plus the field's prime."""
    coordinate = int.from_bytes(point[start : start + 32]) + prime
    return point[:start] + coordinate.to_bytes(32) + point[start + 32 :]


MALFORMED_POINTS = {
    "nothing": lambda c, p: b"",
    "infinity": lambda c, p: b"\0",
    "infinity, padded": lambda c, p: bytes(65),
    "compressed": lambda c, p: bytes([2 + p[-1] % 2]) + p[1:33],
    "hybrid": lambda c, p: bytes([6 + p[-1] % 2]) + p[1:],
    "no prefix": lambda c, p: p[1:],
    "a wrong prefix": lambda c, p: b"\x05" + p[1:],
    "one byte less": lambda c, p: p[:-1],
    "one byte more": lambda c, p: p + b"\0",
    "y without leading zeros": lambda c, p: c.point_of_small_y[:33] + c.point_of_small_y[-1:],
    "y with one zero more": lambda c, p: p[:33] + b"\0" + p[33:],
    "the origin": lambda c, p: b"\x04" + bytes(64),
    "off the curve": lambda c, p: p[:-1] + bytes([p[-1] ^ 1]),
    "x and y exchanged": lambda c, p: b"\x04" + p[33:] + p[1:33],
    "x + p": lambda c, p: shifted(c.point_of_x_zero, c.prime, 1),
    "y + p": lambda c, p: shifted(c.point_of_small_y, c.prime, 33),
    "all ones": lambda c, p: b"\x04" + b"\xff" * 64,
}


@EACH_CURVE
@pytest.mark.parametrize("what", MALFORMED_POINTS)
def test_a_public_key_that_is_not_a_plain_point_of_the_curve_is_malformed(curve, what):
    point = key_of(curve.suite, "agent").public.point
    with pytest.raises(MalformedKey):
        curve.suite.public_key(MALFORMED_POINTS[what](curve, point))


@EACH_CURVE
def test_the_points_with_a_zero_or_small_coordinate_are_on_the_curve(curve):
    for point in (curve.point_of_x_zero, curve.point_of_small_y):
        assert curve.suite.public_key(point).point == point


def test_a_point_of_one_curve_is_no_key_on_the_other():
    gm, intl = CURVES[0], CURVES[2]
    for here, there in ((gm, intl), (intl, gm)):
        with pytest.raises(MalformedKey):
            there.suite.public_key(key_of(here.suite, "agent").public.point)


@EACH_CURVE
@pytest.mark.parametrize(
    "scalar",
    [
        lambda c: b"",
        lambda c: bytes(32),
        lambda c: c.order.to_bytes(32),
        lambda c: (c.order + 1).to_bytes(32),
        lambda c: (c.largest_scalar + 1).to_bytes(32),
        lambda c: b"\xff" * 32,
        lambda c: (5).to_bytes(31),
        lambda c: (5).to_bytes(33),
        lambda c: (5).to_bytes(64),
    ],
    ids=["empty", "0", "n", "n+1", "largest+1", "ones", "31 bytes", "33 bytes", "64 bytes"],
)
def test_a_private_key_out_of_range_or_length_is_malformed(curve, scalar):
    with pytest.raises(MalformedKey):
        curve.suite.private_key(scalar(curve))


@EACH_CURVE
def test_the_largest_private_key_of_the_range_serves(curve):
    key = curve.suite.private_key(curve.largest_scalar.to_bytes(32))
    key.public.verify(MESSAGE, key.sign(MESSAGE))


def test_the_sm2_private_key_n_minus_1_is_refused():
    # 1 + d would be 0, and signing divides by it (GB/T 32918.1 6.1)
    for curve in (OPENSSL, GMSSL):
        with pytest.raises(MalformedKey):
            curve.suite.private_key((curve.order - 1).to_bytes(32))
