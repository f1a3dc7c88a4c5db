"""One MQTT connection among thousands: what a fleet needs of MQTT 3.1.1, and no more.

A client made for one connection, with a lock, a task and a timer of its own and a call to the
system for each byte of a header, would spend more on ten thousand of them than their agents do on
signatures. What goes over the wire is the same: QoS 1 both ways, clean session, last will.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

KEEPALIVE_S = 120
MAX_PACKET_BYTES = 1024 * 1024
"""Twice what our messages may have."""

_PINGREQ, _DISCONNECT = b"\xc0\x00", b"\xe0\x00"
_REFUSED = 0x80
_QOS_1 = 0x02


class _Kind:
    """The first byte of a packet, without its flags (MQTT 3.1.1, 2.2.1)."""

    CONNECT, CONNACK, PUBLISH, PUBACK = 0x10, 0x20, 0x30, 0x40
    SUBSCRIBE, SUBACK, PINGRESP = 0x80, 0x90, 0xD0


class Connection(asyncio.Protocol):
    """Connects once; `lost` is called when it ends, for whatever reason."""

    def __init__(
        self,
        client_id: str,
        topics: Sequence[str],
        *,
        up: Callable[[], None],
        message: Callable[[str, bytes], None],
        lost: Callable[[str], None],
        will: str | None = None,
    ) -> None:
        self._client_id, self._topics, self._will = client_id, topics, will
        self._up, self._message, self._lost = up, message, lost
        self._transport: asyncio.Transport | None = None
        self._read = bytearray()
        self._answers: list[bytes] | None = None
        """What is said while a read is worked through, to go out as one."""
        self._numbers = 0
        self._pinged = False

    async def open(self, host: str, port: int) -> None:
        """Begin. Raises OSError if nobody listens there."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, host, port)

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message of QoS 1; lost with the connection."""
        self._numbers = self._numbers % 0xFFFF + 1
        head = _text(topic) + self._numbers.to_bytes(2)
        self._write(_packet(_Kind.PUBLISH | _QOS_1, head + payload))

    def keep_alive(self) -> None:
        """To be called some times within the keep-alive period."""
        if self._pinged:  # not answered since the last call
            self.cut()
            return
        self._pinged = True
        self._write(_PINGREQ)

    def close(self) -> None:
        """Say good-bye: the broker then sends no will."""
        if self._transport is not None:
            self._write(_DISCONNECT)
            self._transport.close()

    def cut(self) -> None:
        """Break off as a power cut would."""
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce this client."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        flags, body = 0x02, _text(self._client_id)
        if self._will is not None:
            flags |= 0x04 | 0x08
            body += _text(self._will) + _text("")
        head = _text("MQTT") + bytes((4, flags)) + KEEPALIVE_S.to_bytes(2)
        self._write(_packet(_Kind.CONNECT, head + body))

    def data_received(self, data: bytes) -> None:
        """Take what came, packet by packet."""
        self._read += data
        self._answers = []
        try:
            self._take()  # what it raises of a broken packet ends the connection
        finally:
            answers, self._answers = self._answers, None
            if answers:
                self._write(b"".join(answers))

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._transport = None
        self._lost(str(exc or "closed"))

    def _take(self) -> None:
        read, at = self._read, 0
        while len(read) >= at + 2:
            size, body, shift = 0, at + 1, 0
            while body < len(read):
                byte = read[body]
                size |= (byte & 0x7F) << shift
                body, shift = body + 1, shift + 7
                if byte < 0x80:
                    break
                if shift > 21:
                    raise ValueError("a length of more than four bytes")
            else:
                break
            if size > MAX_PACKET_BYTES:
                raise ValueError(f"a packet of {size} bytes")
            if len(read) < body + size:
                break
            self._packet(read[at], bytes(read[body : body + size]))
            at = body + size
        del read[:at]

    def _packet(self, kind: int, body: bytes) -> None:
        match kind & 0xF0:
            case _Kind.PUBLISH:
                self._published(kind, body)
            case _Kind.CONNACK if body[1]:
                self.cut()
            case _Kind.CONNACK:
                filters = b"".join(_text(topic) + b"\x01" for topic in self._topics)
                self._write(_packet(_Kind.SUBSCRIBE | _QOS_1, b"\x00\x01" + filters))
            case _Kind.SUBACK if max(body[2:]) >= _REFUSED:
                self.cut()
            case _Kind.SUBACK:
                self._up()
            case _Kind.PINGRESP:
                self._pinged = False

    def _published(self, kind: int, body: bytes) -> None:
        end = 2 + int.from_bytes(body[:2])
        topic = body[2:end].decode()
        if kind & 0x06:
            self._write(bytes((_Kind.PUBACK, 2)) + body[end : end + 2])
            end += 2
        self._message(topic, body[end:])

    def _write(self, data: bytes) -> None:
        if self._answers is not None:
            self._answers.append(data)
        elif self._transport is not None:
            self._transport.write(data)


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2) + data


def _packet(kind: int, body: bytes) -> bytes:
    size, length = len(body), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes((kind, *length)) + body
