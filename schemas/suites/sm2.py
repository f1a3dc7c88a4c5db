"""SM2 signatures (GB/T 32918.2): the scheme, whoever does the curve arithmetic.

The scheme's own part, binding the signer's id and public key into the digest (`Z`, 5.5), stands
here once. A *provider* signs and verifies the resulting 32-byte value `e` and nothing else.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.hazmat.primitives import hashes

from schemas.errors import MalformedKey

USER_ID = b"1234567812345678"  # GM/T 0009-2012 10: the default id when none is agreed
P = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
A = P - 3
B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
ORDER = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
GX = 0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7
GY = 0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0


class Sm2Signer(Protocol):
    """A private key inside a provider."""

    def sign(self, e: bytes) -> tuple[int, int]:
        """(r, s) over the 32-byte `e`, with a fresh secret nonce."""


class Sm2Verifier(Protocol):
    """A public key inside a provider."""

    def verify(self, e: bytes, r: int, s: int) -> bool:
        """Whether (r, s), both already known to be in 1..n-1, is over `e`."""


class Sm2Provider(Protocol):
    """Who does the arithmetic."""

    @property
    def name(self) -> str: ...

    def public_point(self, scalar: bytes) -> bytes:
        """04 || x || y of scalar * G."""

    def signer(self, scalar: bytes) -> Sm2Signer: ...

    def verifier(self, point: bytes) -> Sm2Verifier: ...


def sm3(data: bytes) -> bytes:
    """The SM3 digest (GB/T 32905), 32 bytes."""
    h = hashes.Hash(hashes.SM3())
    h.update(data)
    return h.finalize()


def z_value(point: bytes, user_id: bytes = USER_ID) -> bytes:
    """GB/T 32918.2 5.5: the digest of id, curve and public key that each signature binds."""
    curve = b"".join(n.to_bytes(32) for n in (A, B, GX, GY))
    return sm3((len(user_id) * 8).to_bytes(2) + user_id + curve + point[1:])


def check_point(point: bytes) -> None:
    """Raise MalformedKey unless `point` is 04 || x || y on the SM2 curve (cofactor 1)."""
    if len(point) != 65 or point[0] != 4:
        raise MalformedKey("an SM2 public key is 65 bytes and starts with 04")
    x, y = int.from_bytes(point[1:33]), int.from_bytes(point[33:])
    if not (x < P and y < P) or (y * y - (x * x * x + A * x + B)) % P:
        raise MalformedKey("the point is not on the SM2 curve")
