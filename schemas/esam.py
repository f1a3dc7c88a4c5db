"""What key authority and ESAM agree on: how a key gets in, and nobody else can put one there.

    data = index || protect(control key, the ESAM's challenge, bound header, plaintext)
    bound header = CLA INS P1 P2 || serial (8) || index (1)

`protect` is `schemas.secure_messaging`. Its MAC so covers the command, the place it writes to, and
which ESAM it is for, though the control key alone says that too. The plaintext is the 16-byte key,
or nothing for RAISE FLOOR.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.keys import Item
from schemas.secure_messaging import BadProtection, protect, unprotect
from schemas.suites import Suite
from schemas.suites.suite import BLOCK_BYTES, KEY_BYTES

SERIAL_BYTES = 8
CHALLENGE_BYTES = 16
CHECK_VALUE_BYTES = 3
CLA_SECURE = 0x84
WRITE_KEY = 0xD4
RAISE_FLOOR = 0xD6


@dataclass(frozen=True)
class KeyPlace:
    """What one command changes, in which ESAM."""

    serial: bytes
    index: int
    item: Item
    version: int

    @property
    def header(self) -> bytes:
        """CLA INS P1 P2: WRITE KEY with purpose and version, or RAISE FLOOR with 0 and version."""
        purpose = self.item.purpose
        if purpose is None:
            return bytes((CLA_SECURE, RAISE_FLOOR, 0, self.version))
        return bytes((CLA_SECURE, WRITE_KEY, purpose, self.version))

    @property
    def bound(self) -> bytes:
        """What the MAC covers besides the enciphered data."""
        if len(self.serial) != SERIAL_BYTES:
            raise ValueError(f"an ESAM's serial is {SERIAL_BYTES} bytes, not {len(self.serial)}")
        return self.header + self.serial + bytes((self.index,))


def seal_for_esam(
    suite: Suite, control_key: bytes, challenge: bytes, place: KeyPlace, plaintext: bytes
) -> bytes:
    """The data of the command. Raises ValueError for a challenge or plaintext of another length."""
    if len(challenge) != CHALLENGE_BYTES:
        raise ValueError(f"an ESAM's challenge is {CHALLENGE_BYTES} bytes, not {len(challenge)}")
    if len(plaintext) != (0 if place.item is Item.FLOOR else KEY_BYTES):
        raise ValueError(f"{place.item} does not take {len(plaintext)} bytes")
    body = protect(suite, control_key, challenge, place.bound, plaintext)
    return bytes((place.index,)) + body


def open_in_esam(
    suite: Suite, control_key: bytes, challenge: bytes, place: KeyPlace, data: bytes
) -> bytes:
    """The plaintext of `seal_for_esam`: what an ESAM does. Raises BadProtection."""
    if data[:1] != bytes((place.index,)):
        raise BadProtection("the data is for another place")
    plaintext = unprotect(suite, control_key, challenge, place.bound, data[1:])
    if len(plaintext) != (0 if place.item is Item.FLOOR else KEY_BYTES):
        raise BadProtection("the plaintext is not of this command")
    return plaintext


def check_value(suite: Suite, key: bytes) -> bytes:
    """The first 3 bytes of the zero block under `key`."""
    return suite.encrypt_block(key, bytes(BLOCK_BYTES))[:CHECK_VALUE_BYTES]
