"""What is said to an ESAM: its name, commands, and the forms of what it tells.

The virtual ESAM and the adapter share this module; every number here is described in docs/esam.md.
How keys get in is in `schemas.esam`, which the key authority shares too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from edge_agent.card import layout, tlv
from edge_agent.card.apdu import MalformedApdu
from schemas.esam import CHECK_VALUE_BYTES, SERIAL_BYTES
from schemas.keys import MAX_DOMAIN_INDEX, MAX_VERSIONS, CheckValues, Purpose
from schemas.suites import SuiteName

AID = b"\xf0OSTY\x02ESAM"
LAYOUT = 1
INDEXES = range(1, MAX_DOMAIN_INDEX + 1)
ERROR_LIMIT = 15
"""Wrong MACs in a row after which an ESAM takes no more keys, for ever."""

GET_DATA = 0xCA
INIT_FOR_CRYPT = 0x1A
CRYPT = 0xFA
KEY_TABLE, STATE = 0x01, 0x02
"""P1 of GET DATA."""

_LAYOUT_TAG, _SUITE_TAG = 0x9F08, 0x9F09


class Operation(IntEnum):
    """P1 of CRYPT; each works with keys of its own purpose only."""

    ENCIPHER = 0
    """`admit`: one block in, one block out."""
    VERIFY = 1
    """`auth`: challenge and cryptogram in, a verdict out. No cryptogram ever comes out."""
    PROTECT = 2
    """`maintain`: data for UPDATE BINARY on the card."""
    PROTECT_KEY = 3
    """Any: the chosen key itself, enciphered for the card it is of."""


UNDER_LENT = 0
"""P2 of PROTECT_KEY: under the lent transport key. Any other: under `maintain` of that version."""


@dataclass(frozen=True)
class Identity:
    """What an ESAM says of itself when it is selected."""

    serial: bytes
    suite: SuiteName

    def encode(self) -> bytes:
        """The file control information template."""
        proprietary = (
            tlv.encode(tlv.SERIAL, self.serial)
            + tlv.encode(_LAYOUT_TAG, bytes((LAYOUT,)))
            + tlv.encode(_SUITE_TAG, bytes((layout.SUITE_CODES[self.suite],)))
        )
        return tlv.encode(
            tlv.FCI, tlv.encode(tlv.DF_NAME, AID) + tlv.encode(tlv.PROPRIETARY, proprietary)
        )

    @classmethod
    def decode(cls, template: bytes) -> Identity:
        """Raises MalformedApdu for another chip, layout or suite."""
        proprietary = tlv.decode(
            tlv.decode(tlv.decode(template).get(tlv.FCI, b"")).get(tlv.PROPRIETARY, b"")
        )
        serial = proprietary.get(tlv.SERIAL, b"")
        suites = {bytes((code,)): name for name, code in layout.SUITE_CODES.items()}
        suite = suites.get(proprietary.get(_SUITE_TAG, b""))
        if proprietary.get(_LAYOUT_TAG) != bytes((LAYOUT,)):
            raise MalformedApdu(f"it is no ESAM of layout {LAYOUT}")
        if len(serial) != SERIAL_BYTES or suite is None:
            raise MalformedApdu("it names no serial of 8 bytes, or no suite that we know")
        return cls(serial, suite)


@dataclass(frozen=True)
class State:
    """What GET DATA tells of the chip itself."""

    serial: bytes
    suite: SuiteName
    control_version: int
    """0: blank, as it came from its maker."""
    control_check: bytes
    errors_left: int
    """0: it takes no more keys, for ever."""

    def encode(self) -> bytes:
        """16 bytes."""
        numbers = (layout.SUITE_CODES[self.suite], LAYOUT, self.control_version)
        limits = (self.errors_left, MAX_DOMAIN_INDEX)
        return self.serial + bytes(numbers) + self.control_check + bytes(limits)

    @classmethod
    def decode(cls, data: bytes) -> State:
        """Raises MalformedApdu."""
        suites = {code: name for name, code in layout.SUITE_CODES.items()}
        if len(data) != SERIAL_BYTES + 8 or data[8] not in suites:
            raise MalformedApdu(f"the state of an ESAM makes no sense: {data.hex()}")
        return cls(data[:8], suites[data[8]], data[10], data[11:14], data[14])


@dataclass(frozen=True)
class KeyTable:
    """What GET DATA tells of one domain's keys: which there are, never what they are."""

    floor: int
    versions: Mapping[int, CheckValues]

    def encode(self) -> bytes:
        """Floor, then 10 bytes a version: number, check values."""
        entries = [
            bytes((version,)) + bytes.fromhex(checks.auth + checks.admit + checks.maintain)
            for version, checks in sorted(self.versions.items())
        ]
        return bytes((self.floor,)) + b"".join(entries)

    @classmethod
    def decode(cls, data: bytes) -> KeyTable:
        """Raises MalformedApdu."""
        size = 1 + CHECK_VALUE_BYTES * len(Purpose)
        if len(data) % size != 1:
            raise MalformedApdu(f"a key table is {len(data)} bytes long")
        versions = {}
        for at in range(1, len(data), size):
            auth, admit, maintain = (
                data[start : start + CHECK_VALUE_BYTES].hex()
                for start in range(at + 1, at + size, CHECK_VALUE_BYTES)
            )
            if data[at] == 0 or data[at] in versions:
                raise MalformedApdu(f"a key table names version {data[at]}, or names it twice")
            versions[data[at]] = CheckValues(auth=auth, admit=admit, maintain=maintain)
        if len(versions) > MAX_VERSIONS:
            raise MalformedApdu(f"a key table has {len(versions)} versions, {MAX_VERSIONS} at most")
        return cls(data[0], versions)
