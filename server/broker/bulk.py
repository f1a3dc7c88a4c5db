"""Reads and writes many MQTT packets by one call to the system, where the library makes four each.

A server hears thousands of agents through one connection, each with a message of some hundred
bytes: most of its time would go into asking for one byte more, and into waking up for each packet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import aiomqtt
from paho.mqtt.enums import MessageType, MQTTErrorCode

READ_AHEAD = 16 * 1024
"""Some 25 messages, for which the event loop is held up two milliseconds."""
WRITE_AT_ONCE = 64 * 1024

_QOS, _QOS_1, _RETAINED = 0x06, 0x02, 0x01
_PLAIN = (MessageType.PUBACK, MessageType.PUBLISH)
"""What may be joined: nothing is to happen when such a packet is written. (PUBLISH: of QoS 1.)"""


Received = Callable[[str, bytes, bool], None]
"""Takes the topic, the payload, and whether the broker had kept the message."""


def in_bulk(client: aiomqtt.Client, received: Received) -> None:
    """Let `client`, which is not connected yet, read and write in bulk.

    Messages of QoS 1 go to `received`, not to the client's queue.
    """
    paho = client._client  # the library has no public way to give it a buffer
    receive, write, publish = paho._sock_recv, paho._packet_write, paho._handle_publish
    ahead, at, looked = b"", 0, False

    def receive_ahead(bufsize: int) -> bytes:
        nonlocal ahead, at, looked
        if at == len(ahead):
            if looked:  # only the end of what was begun: else a flood would have all of our time
                return receive(bufsize)
            ahead, at, looked = receive(max(bufsize, READ_AHEAD)), 0, True
        taken = ahead[at : at + bufsize]
        at += len(taken)
        return taken

    def read_ahead(max_packets: int = 1) -> MQTTErrorCode:
        del max_packets
        nonlocal looked
        looked = False
        while paho.socket() is not None:
            result = paho._packet_read()
            if result > 0:
                return paho._loop_rc_handle(result)
            if result == MQTTErrorCode.MQTT_ERR_AGAIN or at == len(ahead):
                return MQTTErrorCode.MQTT_ERR_SUCCESS
        return MQTTErrorCode.MQTT_ERR_NO_CONN

    def write_joined() -> MQTTErrorCode:
        _join(paho._out_packet)
        return write()

    def take_message() -> MQTTErrorCode:
        # The library makes three objects of each message and asks of whom it might be.
        packet = paho._in_packet
        if packet["command"] & _QOS != _QOS_1:
            return publish()
        body = bytes(packet["packet"])
        end = 2 + int.from_bytes(body[:2])
        if len(body) < end + 2:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        retained = bool(packet["command"] & _RETAINED)
        received(body[2:end].decode(), body[end + 2 :], retained)
        return paho._send_puback(int.from_bytes(body[end : end + 2]))

    paho._handle_publish = take_message  # type: ignore[method-assign]
    paho._sock_recv = receive_ahead  # type: ignore[method-assign]
    paho.loop_read = read_ahead  # type: ignore[method-assign]
    paho._packet_write = write_joined  # type: ignore[method-assign]


def _join(packets: deque[Any]) -> None:
    """Make one of the packets at the front that go out as they are."""
    parts: list[bytes] = []
    size = 0
    while packets and size < WRITE_AT_ONCE:
        packet = packets[0]
        if packet["command"] & 0xF0 not in _PLAIN or not packet["qos"] or packet["pos"]:
            break
        parts.append(packets.popleft()["packet"])
        size += len(parts[-1])
    if parts:
        joined = b"".join(parts)
        packets.appendleft(
            {
                "command": MessageType.PUBACK,
                "mid": 0,
                "qos": 1,
                "pos": 0,
                "to_process": len(joined),
                "packet": joined,
                "info": None,
            }
        )
