"""SM2 by `gmssl`, pure Python: runs anywhere, and is the oracle the other provider is tested by.

Two traps of the library are closed here: its own random source is not cryptographic, so the nonce
always comes from `secrets`; and it does not check what it is given, so callers check first
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
        self._crypt = CryptSM2(private_key="", public_key=point[1:].hex())

    def verify(self, e: bytes, r: int, s: int) -> bool:
        """Whether (r, s) is over `e`."""
        if (r + s) % ORDER == 0:  # GB/T 32918.2 7.1 B6
            return False
        return bool(self._crypt.verify(f"{r:064x}{s:064x}", e))


class GmsslProvider:
    """Sm2Provider in pure Python."""

    name = "gmssl"

    def public_point(self, scalar: bytes) -> bytes:
        """04 || x || y of scalar * G."""
        crypt = CryptSM2(private_key="", public_key="")
        return b"\x04" + bytes.fromhex(crypt._kg(int.from_bytes(scalar), default_ecc_table["g"]))

    def signer(self, scalar: bytes) -> GmsslSigner:
        """A signer for the 32-byte scalar."""
        return GmsslSigner(scalar)

    def verifier(self, point: bytes) -> GmsslVerifier:
        """A verifier for the 65-byte point."""
        return GmsslVerifier(point)
