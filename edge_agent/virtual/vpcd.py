"""Puts a virtual card or ESAM into a virtual PC/SC reader of Debian's vsmartcard-vpcd.

https://frankmorgner.github.io/vsmartcard/virtualsmartcard/api.html: frames of a 2-byte big-endian
length and that many bytes. A frame of one byte is about power; any longer one is an APDU.
"""

from __future__ import annotations

import asyncio
from typing import Any

from edge_agent.readers.port import CardRemoved
from edge_agent.virtual.chip import Chip

VPCD_PORT = 35963
"""The first reader; the second listens on the next port."""

_POWER_ON, _RESET, _ATR = b"\x01", b"\x02", b"\x04"  # 00 is power off


async def hold_in_reader(card: Chip[Any], port: int = VPCD_PORT) -> None:
    """Keep `card` in the reader until cancelled (which takes it out) or torn.

    Raises OSError if no pcscd with vpcd listens there.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            frame = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            answer = _answer(card, frame)
            if answer is not None:
                writer.write(len(answer).to_bytes(2) + answer)
                await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, CardRemoved):
        return  # pcscd has gone, or the card lost its power
    finally:
        writer.close()


def _answer(card: Chip[Any], frame: bytes) -> bytes | None:
    if len(frame) > 1:
        return card.transmit(frame)
    if frame == _ATR:
        return card.answer_to_reset
    if frame in (_POWER_ON, _RESET):
        card.reset()
    return None
