"""Secrets at rest: AES-256-GCM under a key-encryption key that is kept elsewhere.

A sealed secret says what it is (`context`), so one can't be put in another's place. The format is
the same whatever the site's suite: what lies on a disk is read by this machine alone.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.errors import BadSignature
from schemas.suites import RandomBytes

KEK_BYTES = 32
_MAGIC = b"OSTSEAL1"
_NONCE_BYTES = 12


def seal_secret(kek: bytes, secret: bytes, context: str, random: RandomBytes) -> bytes:
    """Magic || nonce || ciphertext || tag."""
    nonce = random(_NONCE_BYTES)
    return _MAGIC + nonce + AESGCM(_checked(kek)).encrypt(nonce, secret, _MAGIC + context.encode())


def unseal_secret(kek: bytes, sealed: bytes, context: str) -> bytes:
    """The secret. Raises BadSignature if the key or context is another or a byte was changed."""
    nonce, body = sealed[8:20], sealed[20:]
    if not sealed.startswith(_MAGIC) or len(nonce) != _NONCE_BYTES:
        raise BadSignature("not a sealed secret")
    try:
        return AESGCM(_checked(kek)).decrypt(nonce, body, _MAGIC + context.encode())
    except InvalidTag:
        raise BadSignature(
            f"the sealed {context} was changed, or the key-encryption key is another"
        ) from None


def _checked(kek: bytes) -> bytes:
    if len(kek) != KEK_BYTES:
        raise ValueError(f"a key-encryption key is {KEK_BYTES} bytes, not {len(kek)}")
    return kek
