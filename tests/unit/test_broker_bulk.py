"""Many packets by one call to the system: none lost, none twice, and no flood has all our time."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import aiomqtt
import pytest

from schemas.wary_mqtt import be_wary
from server.broker.bulk import READ_AHEAD, in_bulk

TOPIC = b"ostiary/demo/up/front/events"


def publish(number: int, size: int = 500) -> bytes:
    body = len(TOPIC).to_bytes(2) + TOPIC + number.to_bytes(2) + bytes([number % 256]) * size
    length = bytes([len(body) & 0x7F | 0x80, len(body) >> 7])
    return b"\x32" + length + body


class Ends:
    """A client whose broker is the test, and how often it asked the system for something."""

    def __init__(self) -> None:
        self.client = aiomqtt.Client("127.0.0.1")
        self.paho = self.client._client
        ours, self.broker = socket.socketpair()
        ours.setblocking(False)
        self.paho._sock = ours
        self.paho.max_inflight_messages_set(5000)
        self.reads, self.sent = 0, []
        receive, send = self.paho._sock_recv, self.paho._sock_send
        self.paho._sock_recv = lambda size: (self._note_read(), receive(size))[1]
        self.paho._sock_send = lambda data: (self.sent.append(len(data)), send(data))[1]
        self.received: list[bytes] = []
        in_bulk(self.client, lambda _topic, payload, _kept: self.received.append(payload))
        be_wary(self.client, 1024 * 1024)

    def _note_read(self) -> None:
        self.reads += 1

    def got(self) -> list[bytes]:
        got, self.received = self.received, []
        return got

    def close(self) -> None:
        self.paho._sock.close()
        self.broker.close()
        self.paho._sock = None


@pytest.fixture
async def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


async def test_packets_that_came_together_are_read_together(ends):
    ends.broker.sendall(b"".join(publish(n) for n in range(1, 21)))
    ends.paho.loop_read()
    assert [payload[0] for payload in ends.got()] == list(range(1, 21))
    assert ends.reads == 1


async def test_each_message_is_confirmed_and_only_then(ends):
    ends.broker.sendall(publish(7) + publish(8)[:-1])
    ends.paho.loop_read()
    ends.paho.loop_write()
    assert ends.broker.recv(100) == b"\x40\x02\x00\x07"


async def test_a_message_cut_short_ends_the_connection(ends):
    ends.broker.sendall(b"\x32\x03\x00\x05a")
    assert ends.paho.loop_read() != 0
    assert ends.paho.socket() is None
    ends.paho._sock = socket.socket()


async def test_a_packet_that_comes_in_pieces_is_whole(ends):
    whole = publish(1) + publish(2)
    for byte in (whole[:1], whole[1:2], whole[2:400], whole[400:700], whole[700:]):
        ends.broker.sendall(byte)
        ends.paho.loop_read()
    assert [payload[0] for payload in ends.got()] == [1, 2]


async def test_a_packet_larger_than_what_is_read_ahead_is_whole(ends):
    ends.broker.sendall(publish(1) + publish(2, 16_000) + publish(3))
    for _ in range(4):
        ends.paho.loop_read()
    assert [len(payload) for payload in ends.got()] == [500, 16_000, 500]


async def test_a_flood_is_read_in_turns(ends):
    flood = b"".join(publish(n) for n in range(1, 201))
    ends.broker.sendall(flood)
    ends.paho.loop_read()
    first = len(ends.got())
    assert first <= READ_AHEAD // len(publish(1)) + 1
    rest = []
    while len(rest) < 200 - first:
        ends.paho.loop_read()
        rest += ends.got()
    assert [payload[0] for payload in rest] == list(range(first + 1, 201))


async def test_what_is_to_be_said_goes_out_as_one(ends):
    for number in range(30):
        ends.paho.publish("ostiary/demo/down/front/ack", bytes([number]) * 100, qos=1)
    queued = b"".join(bytes(p["packet"]) for p in ends.paho._out_packet)
    ends.paho.loop_write()
    assert ends.sent == [len(queued)]
    assert ends.broker.recv(len(queued) + 1) == queued
    assert not ends.paho.want_write()


async def test_what_the_system_does_not_take_at_once_follows(ends):
    for number in range(3000):
        ends.paho.publish("ostiary/demo/down/front/ack", bytes([number % 256]) * 500, qos=1)
    queued = b"".join(bytes(p["packet"]) for p in ends.paho._out_packet)
    ends.broker.setblocking(False)
    ends.paho.loop_write()
    assert ends.paho.want_write()
    got = b""
    while len(got) < len(queued):
        ends.paho.loop_write()
        try:
            while chunk := ends.broker.recv(65536):
                got += chunk
        except BlockingIOError:
            pass  # all that was sent is here
    assert got == queued


async def test_a_broker_that_hangs_up_ends_the_connection(ends):
    ends.broker.close()
    assert ends.paho.loop_read() != 0
    assert ends.paho.socket() is None
    ends.paho._sock = socket.socket()
