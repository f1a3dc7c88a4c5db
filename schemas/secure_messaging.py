"""Secure messaging: a command's data enciphered and authenticated for one chip and one challenge.

Cards, ESAMs and who writes to them share this one pure function; why it is not PBOC's single-key
MAC is in docs/card.md. Both keys live for one challenge of the chip only:

    K_enc = CMAC(K, 01 || challenge)      K_mac = CMAC(K, 02 || challenge)
    C = CBC(K_enc, IV 0, length || plaintext || 80 00..00)      body = C || MAC
    MAC = first 8 bytes of CMAC(K_mac, CLA INS P1 P2 || Lc || C)
"""

from __future__ import annotations

import hmac

from schemas.suites import Suite
from schemas.suites.suite import BLOCK_BYTES

MAC_BYTES = 8
MAX_PLAINTEXT_BYTES = 223
_ZERO_IV = bytes(BLOCK_BYTES)  # each challenge has its own key, so no IV is used twice with one


class BadProtection(Exception):
    """A body whose MAC is wrong, or which can't have been made by `protect`."""


def protect(
    suite: Suite, key: bytes, challenge: bytes, command_header: bytes, plaintext: bytes
) -> bytes:
    """The body of the command with this CLA INS P1 P2."""
    if len(plaintext) > MAX_PLAINTEXT_BYTES:
        raise ValueError(f"plaintext is {len(plaintext)} bytes, limit {MAX_PLAINTEXT_BYTES}")
    block = pad(bytes((len(plaintext),)) + plaintext)
    enciphered = suite.encrypt_cbc(session_key(suite, key, 1, challenge), _ZERO_IV, block)
    return enciphered + message_mac(suite, key, challenge, command_header, enciphered)


def unprotect(
    suite: Suite, key: bytes, challenge: bytes, command_header: bytes, body: bytes
) -> bytes:
    """The plaintext of `protect`. Raises BadProtection; the MAC is checked before all else."""
    enciphered, mac = body[:-MAC_BYTES], body[-MAC_BYTES:]
    if not enciphered or len(enciphered) % BLOCK_BYTES:
        raise BadProtection("a protected body is whole blocks and a MAC")
    if not hmac.compare_digest(mac, message_mac(suite, key, challenge, command_header, enciphered)):
        raise BadProtection("the MAC is wrong")
    block = suite.decrypt_cbc(session_key(suite, key, 1, challenge), _ZERO_IV, enciphered)
    plaintext = block[1 : 1 + block[0]]
    if pad(bytes((len(plaintext),)) + plaintext) != block:
        raise BadProtection("the padding is wrong")
    return plaintext


def pad(data: bytes) -> bytes:
    """ISO/IEC 9797-1 padding method 2, to whole blocks."""
    return data + b"\x80" + bytes(-(len(data) + 1) % BLOCK_BYTES)


def session_key(suite: Suite, key: bytes, label: int, challenge: bytes) -> bytes:
    """K_enc (label 1) or K_mac (label 2)."""
    return suite.cmac(key, bytes((label,)) + challenge)


def message_mac(
    suite: Suite, key: bytes, challenge: bytes, command_header: bytes, enciphered: bytes
) -> bytes:
    """The MAC over a command's header, Lc and enciphered data."""
    lc = bytes((len(enciphered) + MAC_BYTES,))
    key = session_key(suite, key, 2, challenge)
    return suite.cmac(key, command_header + lc + enciphered)[:MAC_BYTES]
