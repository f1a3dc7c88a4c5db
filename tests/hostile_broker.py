"""A broker that is the attacker: it speaks MQTT as it likes, and says what it likes to an agent."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


def packet(first: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (0x80 if size else 0))
        if not size:
            return bytes((first,)) + bytes(length) + body


def publication(
    topic: bytes, payload: bytes = b"x", *, qos: int = 0, mid: int = 1, retain: bool = False
) -> bytes:
    name = struct.pack(">H", len(topic)) + topic
    first = 0x30 | qos << 1 | retain
    return packet(first, name + (struct.pack(">H", mid) if qos else b"") + payload)


class HostileBroker:
    """Greets as it should, and after each subscription does what `attack` says."""

    def __init__(
        self, attack: Callable[[HostileBroker, asyncio.StreamWriter], Awaitable[None]] | None = None
    ) -> None:
        self.attack = attack
        self.port = 0
        self.connections: asyncio.Queue[None] = asyncio.Queue()
        self.heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        """What the client published: topic and payload."""
        self.sent_bytes = 0
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self.sent_bytes += len(data)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Let the newest client have this."""
        assert self._writer is not None, "nobody is connected"
        await self.send(self._writer, publication(topic.encode(), payload, retain=retain))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attack = None
        try:
            while True:
                (first,) = await reader.readexactly(1)
                size = shift = 0
                while True:
                    (digit,) = await reader.readexactly(1)
                    size, shift = size | (digit & 127) << shift, shift + 7
                    if not digit & 128:
                        break
                body = await reader.readexactly(size)
                if first >> 4 == 1:
                    writer.write(packet(0x20, b"\0\0"))
                elif first >> 4 == 8:
                    writer.write(packet(0x90, body[:2] + bytes(_filters(body))))
                    self._writer = writer
                    self.connections.put_nowait(None)
                    if self.attack is not None:
                        attack = asyncio.ensure_future(self.attack(self, writer))
                elif first >> 4 == 3:
                    after = 2 + struct.unpack(">H", body[:2])[0]
                    writer.write(packet(0x40, body[after : after + 2]))
                    self.heard.put_nowait((body[2:after].decode(), body[after + 2 :]))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            if attack is not None:
                attack.cancel()
                await asyncio.gather(attack, return_exceptions=True)
            writer.close()


def _filters(subscribe: bytes) -> list[int]:
    """One granted QoS for each filter of a SUBSCRIBE packet."""
    at, granted = 2, []
    while at < len(subscribe):
        at += 2 + struct.unpack(">H", subscribe[at : at + 2])[0] + 1
        granted.append(1)
    return granted


@asynccontextmanager
async def listening(broker: HostileBroker) -> AsyncIterator[HostileBroker]:
    """The broker on a free port of its own."""
    listener = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    broker.port = listener.sockets[0].getsockname()[1]
    try:
        yield broker
    finally:
        listener.close()
