"""Short command and response APDUs (ISO/IEC 7816-4) and the status words by name.

Whatever bytes arrive, decoding gives a value or MalformedApdu, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

MAX_DATA_BYTES = 255
MAX_LE = 256
MAX_COMMAND_BYTES = 4 + 1 + MAX_DATA_BYTES + 1
MAX_RESPONSE_BYTES = MAX_LE + 2


class MalformedApdu(Exception):
    """Bytes that are not a short APDU; the message says why."""


class StatusWord(IntEnum):
    """SW1-SW2 with a name (ISO/IEC 7816-4, status bytes, and PBOC's 94xx)."""

    OK = 0x9000
    WRONG = 0x6300
    """Verification failed; 63CX also says how many tries are left."""
    MEMORY_FAILURE = 0x6581
    WRONG_LENGTH = 0x6700
    CHANNEL_UNSUPPORTED = 0x6881
    SECURE_MESSAGING_UNSUPPORTED = 0x6882
    WRONG_FILE_KIND = 0x6981
    SECURITY_NOT_SATISFIED = 0x6982
    BLOCKED = 0x6983
    CHALLENGE_MISSING = 0x6984
    CONDITIONS_NOT_SATISFIED = 0x6985
    NO_CURRENT_FILE = 0x6986
    MAC_MISSING = 0x6987
    MAC_WRONG = 0x6988
    WRONG_DATA = 0x6A80
    FUNCTION_UNSUPPORTED = 0x6A81
    FILE_NOT_FOUND = 0x6A82
    MEMORY_FULL = 0x6A84
    WRONG_PARAMETERS = 0x6A86
    KEY_NOT_FOUND = 0x6A88
    FILE_EXISTS = 0x6A89
    OFFSET_OUTSIDE = 0x6B00
    UNKNOWN_INSTRUCTION = 0x6D00
    UNKNOWN_CLASS = 0x6E00
    NO_DIAGNOSIS = 0x6F00
    NO_SUCH_KEY = 0x9403
    """PBOC's word for KEY_NOT_FOUND."""
    UNKNOWN = 0x0000
    """Any status word that has no name here."""


@dataclass(frozen=True)
class Command:
    """A command APDU; all four cases of ISO/IEC 7816-4, short fields only."""

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes = b""
    le: int | None = None
    """How many bytes are expected, 1 to 256; 256 means: as many as there are."""

    @property
    def header(self) -> bytes:
        """CLA INS P1 P2."""
        return bytes((self.cla, self.ins, self.p1, self.p2))

    def encode(self) -> bytes:
        """The bytes to send. Raises ValueError for a field out of range: a fault of the caller."""
        if len(self.data) > MAX_DATA_BYTES:
            raise ValueError(f"command data is {len(self.data)} bytes, the limit is 255")
        if self.le is not None and not 1 <= self.le <= MAX_LE:
            raise ValueError(f"Le is {self.le}, not 1 to 256")
        lc = bytes((len(self.data),)) if self.data else b""
        le = b"" if self.le is None else bytes((self.le % MAX_LE,))
        return self.header + lc + self.data + le

    @classmethod
    def decode(cls, apdu: bytes) -> Command:
        """Raises MalformedApdu for what is no short command APDU."""
        if not 4 <= len(apdu) <= MAX_COMMAND_BYTES:
            raise MalformedApdu(f"command is {len(apdu)} bytes, not 4 to {MAX_COMMAND_BYTES}")
        (cla, ins, p1, p2), body = apdu[:4], apdu[4:]
        if not body:
            return cls(cla, ins, p1, p2)
        if len(body) == 1:
            return cls(cla, ins, p1, p2, le=body[0] or MAX_LE)
        lc, rest = body[0], body[1:]
        if lc == 0 or not lc <= len(rest) <= lc + 1:
            raise MalformedApdu(f"command says {lc} bytes of data, {len(rest)} bytes follow")
        le = (rest[lc] or MAX_LE) if len(rest) > lc else None
        return cls(cla, ins, p1, p2, rest[:lc], le)


@dataclass(frozen=True)
class Response:
    """A response APDU."""

    data: bytes
    sw: int

    @property
    def ok(self) -> bool:
        """9000 and nothing else."""
        return self.sw == StatusWord.OK

    @property
    def status(self) -> StatusWord:
        """The name of the status word; 63CX is WRONG, 9403 is NO_SUCH_KEY."""
        if self.sw & 0xFFF0 == 0x63C0:
            return StatusWord.WRONG
        try:
            return StatusWord(self.sw)
        except ValueError:
            return StatusWord.UNKNOWN

    @property
    def tries_left(self) -> int | None:
        """X of 63CX, else None."""
        return self.sw & 0xF if self.sw & 0xFFF0 == 0x63C0 else None

    def encode(self) -> bytes:
        """Data || SW1 SW2."""
        if len(self.data) > MAX_LE:
            raise ValueError(f"response data is {len(self.data)} bytes, the limit is 256")
        return self.data + self.sw.to_bytes(2)

    @classmethod
    def decode(cls, apdu: bytes) -> Response:
        """Raises MalformedApdu unless there are 2 to 258 bytes and SW1 is 61 to 6F or 9X."""
        if not 2 <= len(apdu) <= MAX_RESPONSE_BYTES:
            raise MalformedApdu(f"response is {len(apdu)} bytes, not 2 to {MAX_RESPONSE_BYTES}")
        if apdu[-2] >> 4 not in (6, 9) or apdu[-2] == 0x60:
            raise MalformedApdu(f"response ends in {apdu[-2:].hex()}, which is no status word")
        return cls(apdu[:-2], int.from_bytes(apdu[-2:]))
