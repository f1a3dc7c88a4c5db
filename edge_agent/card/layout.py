"""What our application looks like on a card: names, files, key references, the info record.

The virtual card and the scripts share this module, as two programs share a header file. Every
number here is described in docs/card.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

from edge_agent.card import tlv
from edge_agent.card.apdu import MalformedApdu
from edge_agent.secure_element.port import Purpose
from schemas.suites import SuiteName
from schemas.suites.suite import CARD_ID_BYTES, KEY_BYTES

AID_PREFIX = b"\xf0OSTY\x01"
"""F: proprietary, unregistered (ISO/IEC 7816-4), then our name and the layout's number."""
AID_BYTES = 16

MF_ID = 0x3F00
INFO_SFI = 1
INFO_BYTES = 16
KEY_FILE_RECORDS = 6
ADF_IDS = range(0xDF01, 0xDF10)
TRANSPORT_KEY = 0x00
"""The reference of the MF's transport key."""

CHALLENGE_BYTES = 16
TRANSPORT_CHALLENGE_BYTES = 8
CRYPTOGRAM_BYTES = 16
KEY_TRIES = 5

CLA_ISO = 0x00
CLA_SECURE = 0x04  # bits 4-3 are 01: secure messaging in a form of our own (ISO/IEC 7816-4)
CLA_COS = 0x80
CLA_COS_SECURE = 0x84

ERASE = 0x0E
EXTERNAL_AUTHENTICATE = 0x82
GET_CHALLENGE = 0x84
INTERNAL_AUTHENTICATE = 0x88
SELECT = 0xA4
READ_BINARY = 0xB0
WRITE_KEY = 0xD4
UPDATE_BINARY = 0xD6
CREATE_FILE = 0xE0


class FileKind(IntEnum):
    """The first byte of CREATE FILE's data."""

    BINARY = 0x28
    APPLICATION = 0x38
    KEYS = 0x3F


class Right(IntEnum):
    """What must have been proved before a key or file may be used."""

    ALWAYS = 0x00
    TRANSPORT = 0x01
    """The MF's transport key."""
    ADMIT = 0x02
    """The `admit` key of the same slot."""
    MAINTAIN = 0x03
    """`admit` of a slot, and secure messaging with that slot's `maintain` key."""
    NEVER = 0xFF


class Slot(IntEnum):
    """The two places for a version's three keys; one is in use while the other is written."""

    A = 1
    B = 2

    @property
    def other(self) -> Slot:
        """The idle one."""
        return Slot.B if self is Slot.A else Slot.A

    def key(self, purpose: Purpose) -> int:
        """The key reference: slot in the high nibble, purpose in the low one."""
        return self << 4 | purpose


def application_id(site: str, domain: str) -> bytes:
    """The 16-byte AID of a key domain's application.

    SHA-256 in both suites: it only spreads names; that one domain is not another is for keys.
    """
    spread = hashlib.sha256(f"{site}/{domain}".encode()).digest()
    return AID_PREFIX + spread[: AID_BYTES - len(AID_PREFIX)]


SUITE_CODES: dict[SuiteName, int] = {"gm": 1, "intl": 2}
_LAYOUT = 1
_COMMITTED = 0xA5


@dataclass(frozen=True)
class Info:
    """The info record. It is a claim: it may choose between what policy allows, no more."""

    suite: SuiteName
    versions: dict[Slot, int]
    """Key version by slot; an empty slot is absent."""
    preferred: Slot
    admit_first: bool
    """The card answers a challenge only to a reader that has proved itself."""

    def encode(self) -> bytes:
        """Layout, suite, commit flag, preferred, version of A and of B, flags, then zeros."""
        record = (
            _LAYOUT,
            SUITE_CODES[self.suite],
            _COMMITTED,
            self.preferred,
            self.versions.get(Slot.A, 0),
            self.versions.get(Slot.B, 0),
            int(self.admit_first),
        )
        return bytes(record).ljust(INFO_BYTES, b"\x00")

    @classmethod
    def decode(cls, record: bytes) -> Info | None:
        """None if binding was never finished. Raises MalformedApdu for what is no info record."""
        if len(record) != INFO_BYTES:
            raise MalformedApdu(f"info record is {len(record)} bytes, not {INFO_BYTES}")
        layout, code, committed, preferred, a, b, flags = record[:7]
        if committed != _COMMITTED:
            return None
        suites = {code: name for name, code in SUITE_CODES.items()}
        versions = {slot: v for slot, v in ((Slot.A, a), (Slot.B, b)) if v}
        if layout != _LAYOUT or code not in suites or preferred not in versions:
            raise MalformedApdu(f"info record makes no sense: {record.hex()}")
        return cls(suites[code], versions, Slot(preferred), bool(flags & 1))


def key_header(purpose: Purpose, version: int, *, use: Right) -> bytes:
    """What stands before a key's 16 bytes in WRITE KEY: type, right to use, version, tries."""
    return bytes((KEY_TYPES[purpose], use, version, KEY_TRIES))


KEY_TYPES = {Purpose.AUTH: 0x34, Purpose.ADMIT: 0x39, Purpose.MAINTAIN: 0x36}
"""FMCOS's numbers for internal authentication, external authentication and line protection."""
KEY_RECORD_BYTES = 4 + KEY_BYTES


def fci(name: bytes, serial: bytes) -> bytes:
    """A file control information template with the chip's serial in it."""
    return tlv.encode(
        tlv.FCI,
        tlv.encode(tlv.DF_NAME, name) + tlv.encode(tlv.PROPRIETARY, tlv.encode(tlv.SERIAL, serial)),
    )


def serial_in(template: bytes) -> bytes | None:
    """The 8-byte serial in an answer to SELECT, or None. Raises MalformedApdu."""
    proprietary = tlv.decode(tlv.decode(template).get(tlv.FCI, b"")).get(tlv.PROPRIETARY, b"")
    serial = tlv.decode(proprietary).get(tlv.SERIAL)
    return serial if serial is not None and len(serial) == CARD_ID_BYTES else None
