"""The international suite: ECDSA on P-256 (FIPS 186-5), SHA-256, AES-128."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import algorithms

from schemas.errors import BadSignature, MalformedKey
from schemas.suites.suite import (
    CARD_ID_BYTES,
    POINT_BYTES,
    SCALAR_BYTES,
    PublicKey,
    RandomBytes,
    SuiteName,
    check_signature_form,
)
from schemas.suites.symmetric import BlockCipher

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
SYSTEM_ID = b"Ostiary/1"
_CURVE = ec.SECP256R1()
_ECDSA = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True)
class IntlPublicKey:
    """A point on P-256."""

    suite: IntlSuite = field(repr=False)
    point: bytes
    _key: ec.EllipticCurvePublicKey = field(repr=False, compare=False)

    def verify(self, message: bytes, signature: bytes) -> None:
        """ECDSA with SHA-256 over the message."""
        check_signature_form(signature, ORDER)
        try:
            self._key.verify(signature, message, _ECDSA)
        except InvalidSignature:
            raise BadSignature("the signature is not by this key over these bytes") from None


@dataclass(frozen=True)
class IntlPrivateKey:
    """A P-256 key pair."""

    public: IntlPublicKey
    scalar: bytes = field(repr=False)
    _key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    def sign(self, message: bytes) -> bytes:
        """ECDSA with SHA-256 over the message; OpenSSL draws the nonce."""
        return self._key.sign(message, _ECDSA)

    def agree(self, other: PublicKey) -> bytes:
        """ECDH (SP 800-56A 5.7.1.2) with a point of P-256."""
        point = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, other.point)
        return self._key.exchange(ec.ECDH(), point)


class IntlSuite(BlockCipher):
    """`intl` behind the Suite interface."""

    name: SuiteName = "intl"
    spki_prefix = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")

    def __init__(self) -> None:
        super().__init__(algorithms.AES128)

    def generate(self, random: RandomBytes) -> IntlPrivateKey:
        """A key pair from `random`, by rejection (FIPS 186-5 A.2.2)."""
        while True:
            scalar = random(SCALAR_BYTES)
            if 0 < int.from_bytes(scalar) < ORDER:
                return self.private_key(scalar)

    def private_key(self, scalar: bytes) -> IntlPrivateKey:
        """Raises MalformedKey unless 0 < scalar < n."""
        value = int.from_bytes(scalar)
        if len(scalar) != SCALAR_BYTES or not 0 < value < ORDER:
            raise MalformedKey("a P-256 private key is 32 bytes and between 1 and n-1")
        key = ec.derive_private_key(value, _CURVE)
        numbers = key.public_key().public_numbers()
        point = b"\x04" + numbers.x.to_bytes(32) + numbers.y.to_bytes(32)
        return IntlPrivateKey(IntlPublicKey(self, point, key.public_key()), scalar, key)

    def public_key(self, point: bytes) -> IntlPublicKey:
        """Raises MalformedKey unless `point` is 04 || x || y on the curve."""
        if len(point) != POINT_BYTES or point[0] != 4:
            raise MalformedKey("a P-256 public key is 65 bytes and starts with 04")
        try:
            key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point)
        except ValueError:
            raise MalformedKey("the point is not on P-256") from None
        return IntlPublicKey(self, point, key)

    def digest(self, data: bytes) -> bytes:
        """SHA-256 (FIPS 180-4)."""
        return hashlib.sha256(data).digest()

    def diversify(self, key: bytes, card_id: bytes) -> bytes:
        """NXP AN10922 2.2 over the card id and our system identifier."""
        if len(card_id) != CARD_ID_BYTES:
            raise ValueError(f"a card id is 8 bytes, not {len(card_id)}")
        return self.an10922(key, card_id + SYSTEM_ID)

    def an10922(self, key: bytes, diversification_input: bytes) -> bytes:
        """AES-128 diversification: CMAC of 01 || input.

        AN10922 always pads to two blocks, plain CMAC to whole ones; the two agree for inputs of
        16 to 31 bytes, so others are refused.
        """
        if not 16 <= len(diversification_input) <= 31:
            raise ValueError("AN10922 input here is 16 to 31 bytes long")
        return self.cmac(key, b"\x01" + diversification_input)


INTL = IntlSuite()
