"""What key authority and ESAM agree on: how keys get in, and nobody else can put one there.

    data = index || C || MAC
    C    = CBC(K_enc, IV 0, auth || admit || maintain)      nothing for RAISE FLOOR
    MAC  = first 8 bytes of CMAC(K_mac, CLA INS P1 P2 || serial (8) || index || L || C)

K_enc and K_mac are those of `schemas.secure_messaging`, from the ESAM's control key and challenge.
A key is always one block, so it has neither length nor padding: a token that never shows a key can
still wrap the three in this form, each chained to the one before (PKCS #11, `CKM_AES_CBC`). L
counts C and MAC. The MAC covers the command, the place it writes to, and which ESAM it is for,
though the control key says that too.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from schemas.keys import CheckValues, Item, Purpose
from schemas.secure_messaging import MAC_BYTES, BadProtection, message_mac, session_key
from schemas.suites import Suite
from schemas.suites.suite import BLOCK_BYTES, KEY_BYTES

SERIAL_BYTES = 8
CHALLENGE_BYTES = 16
CHECK_VALUE_BYTES = 3
CLA_SECURE = 0x84
WRITE_KEY = 0xD4
RAISE_FLOOR = 0xD6
CONTROL_KEY, VERSION_KEYS, LENT_KEY = range(3)
"""P1 of WRITE KEY. The control key and lent keys are in `schemas.esam_issue`."""
_ZERO_IV = bytes(BLOCK_BYTES)  # each challenge has its own key, so no IV is used twice with one


@dataclass(frozen=True)
class KeyPlace:
    """What one command changes, in which ESAM."""

    serial: bytes
    index: int
    item: Item
    version: int

    @property
    def header(self) -> bytes:
        """CLA INS P1 P2."""
        if self.item is Item.FLOOR:
            return bytes((CLA_SECURE, RAISE_FLOOR, 0, self.version))
        return bytes((CLA_SECURE, WRITE_KEY, VERSION_KEYS, self.version))

    @property
    def bound(self) -> bytes:
        """What the MAC covers before L."""
        return bound_to(self.header, self.serial, self.index)

    @property
    def key_bytes(self) -> int:
        """The length of what is enciphered."""
        return 0 if self.item is Item.FLOOR else KEY_BYTES * len(Purpose)


def bound_to(header: bytes, serial: bytes, index: int) -> bytes:
    """What the MAC of any command under the control key covers before L.

    Raises ValueError for a serial of another length.
    """
    if len(serial) != SERIAL_BYTES:
        raise ValueError(f"an ESAM's serial is {SERIAL_BYTES} bytes, not {len(serial)}")
    return header + serial + bytes((index,))


def seal_data(
    suite: Suite, control_key: bytes, challenge: bytes, bound: bytes, blocks: bytes
) -> bytes:
    """The data of any command under the control key: `bound` ends with its index.

    Raises ValueError for a challenge of another length.
    """
    if len(challenge) != CHALLENGE_BYTES:
        raise ValueError(f"an ESAM's challenge is {CHALLENGE_BYTES} bytes, not {len(challenge)}")
    enciphered = suite.encrypt_cbc(session_key(suite, control_key, 1, challenge), _ZERO_IV, blocks)
    return bound[-1:] + enciphered + message_mac(suite, control_key, challenge, bound, enciphered)


def open_data(
    suite: Suite, control_key: bytes, challenge: bytes, bound: bytes, data: bytes
) -> bytes:
    """The blocks that `seal_data` was given. Raises BadProtection: the MAC is checked first."""
    enciphered, mac = data[1:-MAC_BYTES], data[-MAC_BYTES:]
    expected = message_mac(suite, control_key, challenge, bound, enciphered)
    if not hmac.compare_digest(mac, expected):
        raise BadProtection("the MAC is wrong")
    return suite.decrypt_cbc(session_key(suite, control_key, 1, challenge), _ZERO_IV, enciphered)


def seal_for_esam(
    suite: Suite, control_key: bytes, challenge: bytes, place: KeyPlace, keys: bytes
) -> bytes:
    """The data of the command; `keys` is auth || admit || maintain, empty for RAISE FLOOR.

    Raises ValueError for a challenge or keys of another length.
    """
    if len(keys) != place.key_bytes:
        raise ValueError(f"{place.item} does not take {len(keys)} bytes")
    return seal_data(suite, control_key, challenge, place.bound, keys)


def open_in_esam(
    suite: Suite, control_key: bytes, challenge: bytes, place: KeyPlace, data: bytes
) -> bytes:
    """The keys that `seal_for_esam` was given: what an ESAM does with the data of the command.

    Raises BadProtection; the MAC is checked before all else.
    """
    if len(data) != 1 + place.key_bytes + MAC_BYTES or data[:1] != bytes((place.index,)):
        raise BadProtection("not the data of this command")
    return open_data(suite, control_key, challenge, place.bound, data)


def check_value(suite: Suite, key: bytes) -> bytes:
    """The first 3 bytes of the zero block under `key`."""
    return suite.encrypt_block(key, bytes(BLOCK_BYTES))[:CHECK_VALUE_BYTES]


def key_of(keys: bytes, purpose: Purpose) -> bytes:
    """One of the three keys of a version, of auth || admit || maintain."""
    return keys[(purpose - 1) * KEY_BYTES : purpose * KEY_BYTES]


def check_values(suite: Suite, keys: bytes) -> CheckValues:
    """Those of auth || admit || maintain."""
    checks = {p.name.lower(): check_value(suite, key_of(keys, p)).hex() for p in Purpose}
    return CheckValues(**checks)
