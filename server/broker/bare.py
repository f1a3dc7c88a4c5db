"""A bare MQTT 3.1.1 client, for attempts that a well-behaved one refuses to make.

http://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from server.broker.limits import MOST_PACKET_BYTES

PATIENCE_S = 20.0
KEEPALIVE_S = 60
_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _PUBREC, _PUBREL = 0x10, 0x20, 0x30, 0x40, 0x50, 0x62
_SUBSCRIBE, _SUBACK, _DISCONNECT = 0x82, 0x90, 0xE0


class TurnedAway(Exception):
    """The broker ended the connection, or never let it come about."""


@dataclass(frozen=True)
class Heard:
    """A message that came."""

    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True)
class Will:
    """A message that the broker is to publish when the connection breaks."""

    topic: str
    payload: bytes


class Bare:
    """One connection. What it is sent is kept in `heard`, and acknowledged unless `mute`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.heard: list[Heard] = []
        self.mute = False
        self.on_message: Callable[[Heard], None] | None = None
        self.gone = asyncio.Event()
        self._news = asyncio.Event()
        self._acknowledged: dict[tuple[int, int], bytes] = {}
        self._next = 0

    async def subscribe(self, wanted: str) -> None:
        """Returns when the broker has answered, whatever it said. Raises TurnedAway."""
        number = self._number()
        self._send(_SUBSCRIBE, number + _text(wanted) + b"\x01")
        await self._answer(_SUBACK, number)

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False
    ) -> None:
        """Returns when the broker has answered, if it has to. Raises TurnedAway."""
        number = self._number() if qos else b""
        self._send(_PUBLISH | qos << 1 | retain, _text(topic) + number + payload)
        if qos == 1:
            await self._answer(_PUBACK, number)
        elif qos == 2:
            await self._answer(_PUBREC, number)
            self._send(_PUBREL, number)

    async def hears(self, payload: bytes, within_s: float = PATIENCE_S) -> bool:
        """Whether that comes, before the connection ends or the patience does."""
        return await self._until(lambda: self.has(payload), within_s)

    def has(self, payload: bytes) -> bool:
        """Whether that came."""
        return any(each.payload == payload for each in self.heard)

    async def hears_more_than(self, count: int, within_s: float) -> bool:
        """Whether so many messages come."""
        return await self._until(lambda: len(self.heard) > count, within_s)

    async def ends(self, within_s: float = PATIENCE_S) -> bool:
        """Whether the broker ends the connection meanwhile."""
        try:
            async with asyncio.timeout(within_s):
                await self.gone.wait()
        except TimeoutError:
            return False
        return True

    def abort(self) -> None:
        """As a cut cable would."""
        self._writer.transport.abort()

    async def listen(self) -> None:
        """Read what comes until the connection ends."""
        try:
            while True:
                await self._take()
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass  # told by `gone`
        finally:
            self.gone.set()
            self._news.set()

    async def _take(self) -> None:
        kind, body = await _packet(self._reader)
        if kind & 0xF0 == _PUBLISH:
            length = int.from_bytes(body[:2])
            topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
            number, payload = (rest[:2], rest[2:]) if kind & 0x06 else (b"", rest)
            message = Heard(topic, payload, bool(kind & 0x01))
            self.heard.append(message)
            if self.on_message is not None:
                self.on_message(message)
            if number and not self.mute:
                self._send(_PUBACK, number)
        else:
            self._acknowledged[kind & 0xF0, int.from_bytes(body[:2])] = body
        self._news.set()

    async def _answer(self, kind: int, number: bytes) -> None:
        wanted = kind, int.from_bytes(number)
        if not await self._until(lambda: wanted in self._acknowledged, PATIENCE_S):
            raise TurnedAway("the connection ended" if self.gone.is_set() else "no answer came")

    async def _until(self, there: Callable[[], bool], within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                while not there() and not self.gone.is_set():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        return there()

    def _number(self) -> bytes:
        self._next += 1
        return self._next.to_bytes(2)

    def _send(self, kind: int, body: bytes) -> None:
        if self.gone.is_set():
            raise TurnedAway("the connection ended")
        self._writer.write(_framed(kind, body))


@asynccontextmanager
async def bare(
    host: str,
    port: int,
    client_id: str,
    tls: ssl.SSLContext | None,
    will: Will | None = None,
) -> AsyncIterator[Bare]:
    """A connection that the broker has accepted. Raises TurnedAway."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=tls, server_hostname=host if tls else None
            )
    except (OSError, TimeoutError) as error:
        raise TurnedAway(f"no connection: {error}") from error
    try:
        await _connect(reader, writer, client_id, will)
        client = Bare(reader, writer)
        listening = asyncio.create_task(client.listen())
        try:
            yield client
        finally:
            if not client.gone.is_set():
                writer.write(_framed(_DISCONNECT, b""))
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    finally:
        writer.close()


async def _connect(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    client_id: str,
    will: Will | None,
) -> None:
    flags = 0x02 | (0x04 | 0x08 if will else 0)  # clean session; the will with QoS 1
    body = _text("MQTT") + bytes([4, flags]) + KEEPALIVE_S.to_bytes(2) + _text(client_id)
    if will is not None:
        body += _text(will.topic) + len(will.payload).to_bytes(2) + will.payload
    try:
        writer.write(_framed(_CONNECT, body))
        async with asyncio.timeout(PATIENCE_S):
            kind, answer = await _packet(reader)
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        raise TurnedAway("the connection ended") from error
    except TimeoutError as error:
        raise TurnedAway("no answer came") from error
    if kind != _CONNACK or answer[1:] != b"\x00":
        raise TurnedAway(f"refused, code {answer[-1] if answer else None}")


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    kind = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 21:
            raise ValueError("a length of more than four bytes")
    if length > 2 * MOST_PACKET_BYTES:
        raise ValueError(f"a packet of {length} bytes")
    return kind, await reader.readexactly(length)


def _framed(kind: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray()
    while True:
        length, digit = divmod(length, 0x80)
        encoded.append(digit | (0x80 if length else 0))
        if not length:
            return bytes([kind]) + encoded + body


def _text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(2) + encoded
