"""SM2 by `gmssl`, pure Python: runs anywhere, and is the oracle the other provider is tested by.

Traps of the library are closed here: its own random source is not cryptographic, so the nonce
always comes from `secrets`; it strips leading digits 0 and 4 from a public key whose x starts with
04; and its `verify` is wrong for two equal points and crashes on a sum at infinity, so only its
curve arithmetic is used. It does not check what it is given: callers check first
(`suite.check_signature_form`, `sm2.check_point`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from gmssl.sm2 import CryptSM2, default_ecc_table

from schemas.suites.sm2 import ORDER


def _secret_nonce() -> int:
    return 1 + secrets.randbelow(ORDER - 1)


class GmsslSigner:
    """A private key; `nonce` is replaced only by the published vectors."""

    def __init__(self, scalar: bytes, nonce: Callable[[], int] = _secret_nonce) -> None:
        self._crypt = CryptSM2(private_key=scalar.hex(), public_key="")
        self._nonce = nonce

    def sign(self, e: bytes) -> tuple[int, int]:
        """(r, s) over `e`."""
        while True:
            signature = self._crypt.sign(e, f"{self._nonce():064x}")
            if signature is not None:  # None: the nonce gave r or s = 0, draw again
                return int(signature[:64], 16), int(signature[64:], 16)


class GmsslVerifier:
    """A public key."""

    def __init__(self, point: bytes) -> None:
        self._curve = CryptSM2(private_key="", public_key="")
        self._point = point[1:].hex()

    def verify(self, e: bytes, r: int, s: int) -> bool:
        """Whether (r, s) is over `e` (GB/T 32918.2 7.1)."""
        t = (r + s) % ORDER
        if t == 0:  # B5
            return False
        x = self._x_of_sum(
            self._curve._kg(s, default_ecc_table["g"]), self._curve._kg(t, self._point)
        )
        return x is not None and r == (int.from_bytes(e) + x) % ORDER

    def _x_of_sum(self, left: str, right: str) -> int | None:
        """The x of the sum of two affine points (x || y in hex); None at infinity."""
        if left == right:
            total = self._curve._kg(2, left)
        elif left[:64] == right[:64]:
            return None
        else:
            total = self._curve._convert_jacb_to_nor(self._curve._add_point(left + "1", right))
        return int(total[:64], 16)


class GmsslProvider:
    """Sm2Provider in pure Python."""

    name = "gmssl"

    def public_point(self, scalar: bytes) -> bytes:
        """04 || x || y of scalar * G."""
        crypt = CryptSM2(private_key="", public_key="")
        return b"\x04" + bytes.fromhex(crypt._kg(int.from_bytes(scalar), default_ecc_table["g"]))

    def multiple(self, scalar: bytes, point: bytes) -> bytes:
        """The 32-byte x of scalar * point, for a point that was checked to be on the curve."""
        crypt = CryptSM2(private_key="", public_key="")
        return bytes.fromhex(crypt._kg(int.from_bytes(scalar), point[1:].hex()))[:32]

    def signer(self, scalar: bytes) -> GmsslSigner:
        """A signer for the 32-byte scalar."""
        return GmsslSigner(scalar)

    def verifier(self, point: bytes) -> GmsslVerifier:
        """A verifier for the 65-byte point."""
        return GmsslVerifier(point)
