"""Holds an MQTT client to what a sane broker sends; anything else ends the connection.

The client library stores a packet of any size before anyone sees it, keeps QoS 2 messages without
bound, and, if a topic is not what a topic may be, meets the same packet again for ever, at the
price of a whole core and a line of log each time. A broker is not trusted with that much.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import aiomqtt
from paho.mqtt.enums import MQTTErrorCode

from schemas.errors import EndlessData

_PUBLISH_QOS_2 = 0x34
_TYPE_AND_QOS = 0xF6

_silent = logging.getLogger(f"{__name__}.silent")
_silent.setLevel(logging.CRITICAL + 1)
SILENT = _silent
"""The logger to give a client: what a broker can repeat without end must not fill a disk."""


def be_wary(
    client: aiomqtt.Client,
    max_packet_bytes: int,
    refused: Callable[[EndlessData], None] = lambda _: None,
) -> None:
    """Let `client`, which is not connected yet, take no larger packet, no QoS 2, no bad topic.

    What breaks these rules is a lost connection: the caller meets MqttError. `refused` is told of a
    packet that is too large.
    """
    paho = client._client  # neither library has a public way to bound a packet
    receive, handle = paho._sock_recv, paho._packet_handle

    def receive_at_most(bufsize: int) -> bytes:
        # Once a packet's header is read, all of its rest is asked for at once.
        if bufsize > max_packet_bytes:
            why = f"the broker sends a packet of {bufsize} bytes, the limit is {max_packet_bytes}"
            refused(EndlessData(why))
            raise ConnectionError(why)
        return receive(bufsize)

    def handle_soundly() -> MQTTErrorCode:
        if paho._in_packet["command"] & _TYPE_AND_QOS == _PUBLISH_QOS_2:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        try:
            return handle()
        except (ValueError, LookupError):  # aiomqtt of a topic, paho of a packet cut short
            return MQTTErrorCode.MQTT_ERR_PROTOCOL

    paho._sock_recv = receive_at_most  # type: ignore[method-assign]
    paho._packet_handle = handle_soundly  # type: ignore[method-assign]
