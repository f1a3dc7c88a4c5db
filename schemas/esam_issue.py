"""What else only the holder of an ESAM's control key can tell it, in the form of `schemas.esam`.

Each is a WRITE KEY whose data is index || C || MAC, where C is whole blocks under the session key:

    control key   P1 00, index 0       C of: the new control key
    lent key      P1 02, the domain's  C of: card id (8) || zeros (8) || the card's transport key

A lent key is for binding one card once. Without it an ESAM enciphers no key for a card that has
none yet: who may name the key it is enciphered under could read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.esam import (
    CLA_SECURE,
    CONTROL_KEY,
    LENT_KEY,
    WRITE_KEY,
    bound_to,
    open_data,
    seal_data,
)
from schemas.secure_messaging import MAC_BYTES, BadProtection
from schemas.suites import Suite
from schemas.suites.suite import BLOCK_BYTES, CARD_ID_BYTES, KEY_BYTES

_FILL = bytes(BLOCK_BYTES - CARD_ID_BYTES)


@dataclass(frozen=True)
class ControlKey:
    """The writing side: who holds it makes what one ESAM will take, once."""

    suite: Suite
    serial: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"ControlKey({self.suite.name}, {self.serial.hex()})"

    def successor(self, challenge: bytes, version: int, key: bytes) -> bytes:
        """The data of 84 D4 00 `version`. A blank ESAM's control key is its maker's."""
        return self._seal(challenge, CONTROL_KEY, version, index=0, blocks=_checked(key))

    def lend(
        self, challenge: bytes, *, index: int, version: int, card_id: bytes, transport_key: bytes
    ) -> bytes:
        """The data of 84 D4 02 `version`: that version may be written to this one card."""
        blocks = b"".join(lent_blocks(card_id, transport_key))
        return self._seal(challenge, LENT_KEY, version, index=index, blocks=blocks)

    def _seal(self, challenge: bytes, p1: int, p2: int, *, index: int, blocks: bytes) -> bytes:
        bound = bound_to(_header(p1, p2), self.serial, index)
        return seal_data(self.suite, self.key, challenge, bound, blocks)

    def open(self, challenge: bytes, header: bytes, data: bytes) -> bytes:
        """The blocks in the data of any command under the control key: what an ESAM does.

        Raises BadProtection; the MAC is checked before all else.
        """
        whole = len(data) - 1 - MAC_BYTES
        if whole < 0 or whole % BLOCK_BYTES:
            raise BadProtection("the data is an index, whole blocks and a MAC")
        bound = bound_to(header, self.serial, data[0])
        return open_data(self.suite, self.key, challenge, bound, data)


def lent_blocks(card_id: bytes, transport_key: bytes) -> tuple[bytes, bytes]:
    """What C of a lent key enciphers."""
    if len(card_id) != CARD_ID_BYTES:
        raise ValueError(f"a card's id is {CARD_ID_BYTES} bytes, not {len(card_id)}")
    return card_id + _FILL, _checked(transport_key)


def lent_header(version: int) -> bytes:
    """CLA INS P1 P2 of a lent key, which its MAC covers."""
    return _header(LENT_KEY, version)


def _header(p1: int, p2: int) -> bytes:
    return bytes((CLA_SECURE, WRITE_KEY, p1, p2))


def lent(blocks: bytes) -> tuple[bytes, bytes] | None:
    """Card id and transport key of a lent key, or None for what is none."""
    if len(blocks) != 2 * BLOCK_BYTES or blocks[CARD_ID_BYTES:BLOCK_BYTES] != _FILL:
        return None
    return blocks[:CARD_ID_BYTES], blocks[BLOCK_BYTES:]


def _checked(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key is {KEY_BYTES} bytes, not {len(key)}")
    return key
