"""The cursor: a place in one store's feed, the same for paging, long-poll and streams.

Opaque to clients. It names the store it was made for, so a cursor that outlived its store is told
so instead of silently skipping or repeating events.
"""

from __future__ import annotations

import binascii
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256

_VERSION = "1"
_FORM = struct.Struct(">8sQ")  # mark of the store, position
_LENGTH = 1 + 22  # version, then 16 bytes in unpadded base64url
MAX_POSITION = 2**63 - 1
"""What a signed 64-bit database column holds."""


class BadCursor(ValueError):
    """A text that was never a cursor."""


class ForeignCursor(Exception):
    """A cursor of another store, or of another version of this server."""


def encode(store_id: str, position: int) -> str:
    """The cursor just after the event at `position`; 0 is the beginning."""
    packed = _FORM.pack(_mark(store_id), position)
    return _VERSION + urlsafe_b64encode(packed).decode().rstrip("=")


def decode(store_id: str, cursor: str) -> int:
    """The position in `cursor`. Raises BadCursor or ForeignCursor."""
    version, body = cursor[:1], cursor[1:]
    if not cursor.isascii() or not version.isdecimal() or len(cursor) > 200:
        raise BadCursor("not a cursor: use one exactly as the server gave it")
    if version != _VERSION:
        raise ForeignCursor(f"cursor is of version {version}; this server gives {_VERSION}")
    try:
        mark, position = _FORM.unpack(urlsafe_b64decode(body + "=="))
    except (binascii.Error, struct.error):
        raise BadCursor("not a cursor: use one exactly as the server gave it") from None
    # base64 decoders forgive stray characters; a cursor has exactly one spelling.
    if (
        len(cursor) != _LENGTH
        or urlsafe_b64encode(_FORM.pack(mark, position))[:22] != body.encode()
    ):
        raise BadCursor("not a cursor: use one exactly as the server gave it")
    if mark != _mark(store_id):
        raise ForeignCursor("cursor was made by another event store than this one")
    if position > MAX_POSITION:
        raise BadCursor("not a cursor: use one exactly as the server gave it")
    return int(position)


def _mark(store_id: str) -> bytes:
    return sha256(store_id.encode()).digest()[:8]
