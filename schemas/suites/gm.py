"""The national suite: SM2 (GB/T 32918), SM3 (GB/T 32905), SM4 (GB/T 32907)."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers import algorithms

from schemas.errors import BadSignature, MalformedKey
from schemas.suites import sm2_openssl
from schemas.suites.sm2 import (
    ORDER,
    Sm2Provider,
    Sm2Signer,
    Sm2Verifier,
    check_point,
    sm3,
    z_value,
)
from schemas.suites.sm2_gmssl import GmsslProvider
from schemas.suites.suite import (
    CARD_ID_BYTES,
    SCALAR_BYTES,
    PublicKey,
    RandomBytes,
    SuiteName,
    check_signature_form,
)
from schemas.suites.symmetric import BlockCipher


@dataclass(frozen=True)
class GmPublicKey:
    """A point on the SM2 curve, with its Z value."""

    suite: GmSuite = field(repr=False)
    point: bytes
    _z: bytes = field(repr=False, compare=False)
    _verifier: Sm2Verifier = field(repr=False, compare=False)

    def verify(self, message: bytes, signature: bytes) -> None:
        """SM2 with SM3 and the standard's user id over the message."""
        r, s = check_signature_form(signature, ORDER)
        if not self._verifier.verify(sm3(self._z + message), r, s):
            raise BadSignature("the signature is not by this key over these bytes")


@dataclass(frozen=True)
class GmPrivateKey:
    """An SM2 key pair."""

    public: GmPublicKey
    scalar: bytes = field(repr=False)
    _signer: Sm2Signer = field(repr=False, compare=False)

    def sign(self, message: bytes) -> bytes:
        """SM2 with SM3 over the message, as DER (GM/T 0009-2012 7.3)."""
        return encode_dss_signature(*self._signer.sign(sm3(self.public._z + message)))

    def agree(self, other: PublicKey) -> bytes:
        """The x of scalar * point, on the SM2 curve. Not in constant time: for keys used once."""
        return GmsslProvider().multiple(self.scalar, other.point)


class GmSuite(BlockCipher):
    """`gm` behind the Suite interface, with the SM2 provider it is given."""

    name: SuiteName = "gm"
    spki_prefix = sm2_openssl.SPKI_PREFIX

    def __init__(self, provider: Sm2Provider | None = None) -> None:
        super().__init__(algorithms.SM4)
        self.provider = provider or best_provider()

    def generate(self, random: RandomBytes) -> GmPrivateKey:
        """A key pair from `random`, by rejection (GB/T 32918.1 6.1)."""
        while True:
            scalar = random(SCALAR_BYTES)
            if 0 < int.from_bytes(scalar) < ORDER - 1:
                return self.private_key(scalar)

    def private_key(self, scalar: bytes) -> GmPrivateKey:
        """Raises MalformedKey unless 0 < scalar < n-1."""
        if len(scalar) != SCALAR_BYTES or not 0 < int.from_bytes(scalar) < ORDER - 1:
            raise MalformedKey("an SM2 private key is 32 bytes and between 1 and n-2")
        public = self.public_key(self.provider.public_point(scalar))
        return GmPrivateKey(public, scalar, self.provider.signer(scalar))

    def public_key(self, point: bytes) -> GmPublicKey:
        """Raises MalformedKey unless `point` is 04 || x || y on the curve."""
        check_point(point)
        return GmPublicKey(self, point, z_value(point), self.provider.verifier(point))

    def digest(self, data: bytes) -> bytes:
        """SM3."""
        return sm3(data)

    def diversify(self, key: bytes, card_id: bytes) -> bytes:
        """JR/T 0025 (PBOC) key dispersion: SM4(key, id || NOT id), as PSAMs do in hardware."""
        if len(card_id) != CARD_ID_BYTES:
            raise ValueError(f"a card id is 8 bytes, not {len(card_id)}")
        return self.encrypt_block(key, card_id + bytes(b ^ 0xFF for b in card_id))


def best_provider() -> Sm2Provider:
    """OpenSSL where this machine's libcrypto has SM2; else gmssl, pure Python, runs anywhere."""
    return sm2_openssl.load() or GmsslProvider()


GM = GmSuite()
