"""The little of BER-TLV that a card's answer to SELECT needs (ISO/IEC 7816-4)."""

from __future__ import annotations

from edge_agent.card.apdu import MalformedApdu

FCI = 0x6F
DF_NAME = 0x84
PROPRIETARY = 0xA5
SERIAL = 0x9F0C


def encode(tag: int, value: bytes) -> bytes:
    """One data object. Values here are at most 255 bytes long."""
    tag_bytes = tag.to_bytes(2 if tag > 0xFF else 1)
    length = bytes((len(value),)) if len(value) < 0x80 else bytes((0x81, len(value)))
    return tag_bytes + length + value


def decode(data: bytes) -> dict[int, bytes]:
    """The data objects side by side in `data`, the first of each tag.

    Raises MalformedApdu. Tags of one or two bytes, definite lengths below 256.
    """
    objects: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        tag, at = data[at], at + 1
        if tag & 0x1F == 0x1F:
            tag, at = tag << 8 | _byte(data, at), at + 1
        length, at = _byte(data, at), at + 1
        if length == 0x81:
            length, at = _byte(data, at), at + 1
        elif length >= 0x80:
            raise MalformedApdu("data object has a length of more than one byte")
        if at + length > len(data):
            raise MalformedApdu(f"data object {tag:X} is cut short")
        objects.setdefault(tag, data[at : at + length])
        at += length
    return objects


def _byte(data: bytes, at: int) -> int:
    if at >= len(data):
        raise MalformedApdu("data object is cut short")
    return data[at]
