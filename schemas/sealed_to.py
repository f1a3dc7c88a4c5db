"""A secret for one recipient, who made a key pair to have it sealed to.

    sealed = 04 || x || y of a key made for this || AEAD(K, nonce 0, secret)
    K      = first 16 bytes of digest("Ostiary sealed to 1" || that point || recipient || agreed x)

The form is ECIES (SEC 1, 5.1) with the suite's own digest and GCM. Each K is used once, so the
nonce is zero. Recipients' keys are for this alone: an identity's key signs and does nothing else.
"""

from __future__ import annotations

from schemas.errors import BadSignature, MalformedKey
from schemas.suites import PrivateKey, RandomBytes, Suite
from schemas.suites.suite import KEY_BYTES, POINT_BYTES

_LABEL = b"Ostiary sealed to 1"
_NONCE = bytes(12)


def seal_to(
    suite: Suite, recipient: bytes, secret: bytes, context: str, random: RandomBytes
) -> bytes:
    """The secret for who has the private key of the point `recipient`. Raises MalformedKey."""
    public = suite.public_key(recipient)
    made = suite.generate(random)
    point = made.public.point
    key = _key(suite, point, recipient, made.agree(public))
    return point + suite.seal(key, _NONCE, secret, context.encode())


def open_sealed_to(private: PrivateKey, sealed: bytes, context: str) -> bytes:
    """The secret of `seal_to`. Raises BadSignature if anything is other than it was."""
    suite, point = private.public.suite, sealed[:POINT_BYTES]
    try:
        made = suite.public_key(point)
    except MalformedKey:
        raise BadSignature("not sealed to anybody") from None
    key = _key(suite, point, private.public.point, private.agree(made))
    return suite.unseal(key, _NONCE, sealed[POINT_BYTES:], context.encode())


def _key(suite: Suite, made: bytes, recipient: bytes, agreed: bytes) -> bytes:
    return suite.digest(_LABEL + made + recipient + agreed)[:KEY_BYTES]
