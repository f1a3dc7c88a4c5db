"""One MQTT connection among thousands: paho on the event loop, without a task for each.

A task and a timer a second for each connection, as a client of one device may well have, would
alone keep a core busy at ten thousand.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from schemas.wary_mqtt import SILENT

KEEPALIVE_S = 120


class Connection:
    """Connects once; `lost` is called when it ends, for whatever reason."""

    def __init__(
        self,
        client_id: str,
        topics: Sequence[str],
        *,
        up: Callable[[], None],
        message: Callable[[str, bytes, bool], None],
        lost: Callable[[str], None],
        tls: ssl.SSLContext | None = None,
        will: str | None = None,
    ) -> None:
        self._topics, self._up, self._message, self._lost = topics, up, message, lost
        self._loop = asyncio.get_running_loop()
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv311,
            clean_session=True,
        )
        client.enable_logger(SILENT)
        if tls is not None:
            client.tls_set_context(tls)
        if will is not None:
            client.will_set(will, b"", qos=1)
        client.on_socket_open = self._opened
        client.on_socket_close = self._closed
        client.on_socket_register_write = self._wants_to_write
        client.on_socket_unregister_write = self._has_written
        client.on_connect = self._connected
        client.on_subscribe = lambda *_: self._up()
        client.on_message = self._received
        client.on_disconnect = self._disconnected
        self._client = client

    def open(self, host: str, port: int) -> None:
        """Begin. Raises OSError if nobody listens there."""
        self._client.connect(host, port, keepalive=KEEPALIVE_S)

    def publish(self, topic: str, payload: bytes) -> None:
        """Queue a message of QoS 1; lost with the connection."""
        self._client.publish(topic, payload, qos=1)

    def keep_alive(self) -> None:
        """To be called some times within the keep-alive period."""
        self._client.loop_misc()

    def close(self) -> None:
        """Say good-bye: the broker then sends no will."""
        self._client.disconnect()

    def cut(self) -> None:
        """Break off as a power cut would."""
        sock = self._client.socket()
        if sock is not None:
            sock.close()

    def _opened(self, _client: Client, _userdata: Any, sock: Any) -> None:
        self._loop.add_reader(sock, self._readable)

    def _readable(self) -> None:
        self._client.loop_read()
        # TLS may hold a decrypted packet while the socket itself has nothing more to read
        sock = self._client.socket()
        while isinstance(sock, ssl.SSLSocket) and sock.pending():
            self._client.loop_read()
            sock = self._client.socket()

    def _closed(self, _client: Client, _userdata: Any, sock: Any) -> None:
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)

    def _wants_to_write(self, client: Client, _userdata: Any, sock: Any) -> None:
        self._loop.add_writer(sock, client.loop_write)

    def _has_written(self, _client: Client, _userdata: Any, sock: Any) -> None:
        self._loop.remove_writer(sock)

    def _connected(self, client: Client, _userdata: Any, _flags: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            client.disconnect()
            return
        result, _ = client.subscribe([(topic, 1) for topic in self._topics])
        if result is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            client.disconnect()

    def _received(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        self._message(message.topic, bytes(message.payload), message.retain)

    def _disconnected(self, _c: Client, _userdata: Any, _flags: Any, reason: Any, _p: Any) -> None:
        self._lost(str(reason))
