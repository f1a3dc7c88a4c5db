"""The one interface behind which the two algorithm suites stand.

A *suite* is a fixed set of algorithms: nothing negotiates inside it, and a message never names its
own algorithm. Keys know their suite; sign and verify are methods of keys.

Sizes shared by both suites: digest 32 bytes, private scalar 32 bytes, public point 65 bytes
(SEC 1 uncompressed, 2.3.3), symmetric key, block and CMAC 16 bytes, AEAD nonce 12 bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from schemas.errors import MalformedSignature

SuiteName = Literal["gm", "intl"]
RandomBytes = Callable[[int], bytes]
"""A cryptographic random source: `secrets.token_bytes` in production."""

SCALAR_BYTES = 32
POINT_BYTES = 65
KEY_BYTES = 16
BLOCK_BYTES = 16
CARD_ID_BYTES = 8
MAX_SIGNATURE_BYTES = 72  # SEQUENCE of two 33-byte INTEGERs


class PublicKey(Protocol):
    """A validated point on the suite's curve."""

    @property
    def suite(self) -> Suite: ...

    @property
    def point(self) -> bytes:
        """65 bytes, 04 || x || y."""

    def verify(self, message: bytes, signature: bytes) -> None:
        """Return if `signature` (canonical DER) is over `message`.

        Raises MalformedSignature or BadSignature.
        """


class PrivateKey(Protocol):
    """A private scalar and its public point."""

    @property
    def public(self) -> PublicKey: ...

    @property
    def scalar(self) -> bytes:
        """32 bytes, big-endian. Secret: never log it."""

    def sign(self, message: bytes) -> bytes:
        """A canonical DER signature over `message`."""

    def agree(self, other: PublicKey) -> bytes:
        """The 32-byte x of scalar * `other` (SEC 1, 3.3.1): what only the two key holders know."""


class Suite(Protocol):
    """Sign, verify, digest, block cipher, CMAC, AEAD, diversify: all a site needs."""

    @property
    def name(self) -> SuiteName: ...

    @property
    def spki_prefix(self) -> bytes:
        """What stands before the point in an X.509 SubjectPublicKeyInfo (RFC 5480)."""

    def generate(self, random: RandomBytes) -> PrivateKey:
        """A new key pair from `random`."""

    def private_key(self, scalar: bytes) -> PrivateKey:
        """Raises MalformedKey unless `scalar` is 32 bytes and in the suite's range."""

    def public_key(self, point: bytes) -> PublicKey:
        """Raises MalformedKey unless `point` is 65 bytes and on the curve."""

    def digest(self, data: bytes) -> bytes:
        """SM3 or SHA-256."""

    def encrypt_block(self, key: bytes, block: bytes) -> bytes:
        """One 16-byte block under SM4 or AES-128; what a card's crypto unit does."""

    def encrypt_cbc(self, key: bytes, iv: bytes, data: bytes) -> bytes:
        """CBC over whole blocks; padding is the caller's."""

    def decrypt_cbc(self, key: bytes, iv: bytes, data: bytes) -> bytes:
        """The inverse of `encrypt_cbc`."""

    def cmac(self, key: bytes, data: bytes) -> bytes:
        """16 bytes, NIST SP 800-38B."""

    def seal(self, key: bytes, nonce: bytes, plaintext: bytes, context: bytes) -> bytes:
        """Ciphertext || 16-byte tag, GCM; `context` is authenticated, not enciphered."""

    def unseal(self, key: bytes, nonce: bytes, sealed: bytes, context: bytes) -> bytes:
        """The plaintext of `seal`. Raises BadSignature if anything was changed."""

    def diversify(self, key: bytes, card_id: bytes) -> bytes:
        """The 16-byte key of one card (8-byte id) under a domain's key."""


def spki(key: PublicKey) -> bytes:
    """The key as DER SubjectPublicKeyInfo, the form OpenSSL and X.509 know."""
    return key.suite.spki_prefix + key.point


def keyid(key: PublicKey) -> str:
    """How envelopes name a key: hex digest (suite's own) of its SubjectPublicKeyInfo."""
    return key.suite.digest(spki(key)).hex()


def check_signature_form(signature: bytes, order: int) -> tuple[int, int]:
    """(r, s) of a canonical DER signature with 0 < r, s < order, else MalformedSignature.

    One encoding per signature: what passes here is the same to every verifier.
    """
    if not 8 <= len(signature) <= MAX_SIGNATURE_BYTES:
        raise MalformedSignature(f"signature is {len(signature)} bytes long, not 8 to 72")
    try:
        r, s = decode_dss_signature(signature)
    except ValueError:
        raise MalformedSignature("signature is not DER: SEQUENCE { INTEGER, INTEGER }") from None
    if not (0 < r < order and 0 < s < order):
        raise MalformedSignature("signature has r or s outside 1..n-1")
    if encode_dss_signature(r, s) != signature:
        raise MalformedSignature("signature is not in canonical DER")
    return r, s
