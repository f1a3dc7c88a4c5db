"""amqtt as a broker that strangers may reach: what it leaves open, closed.

As it comes, it ends a session for whoever names its client id before it asks who that is, lets any
last will through, takes packets of any size, any number of them at once, never hangs up on a client
that is gone, and keeps what nobody fetches. It has no public way to change any of that.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from amqtt.adapters import ReaderAdapter, StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action, BrokerConfig, ListenerConfig, ListenerType
from amqtt.errors import MQTTError
from amqtt.mqtt.connack import NOT_AUTHORIZED, ConnackPacket
from amqtt.mqtt.constants import QOS_2
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket
from amqtt.session import OutgoingApplicationMessage, Session

from server.broker.admission import Entry, Rules, subject_of
from server.broker.limits import (
    MOST_CONNECTIONS,
    MOST_FILTERS,
    MOST_IN_FLIGHT,
    MOST_PACKET_BYTES,
    MOST_QUEUED,
    MOST_QUEUED_BYTES,
)

CONNECT_S = 10
"""For the TLS handshake, and again for the first packet."""
MOST_KEEPALIVE_S = 600
_REFUSED = 0x80
_RULES = "rules"
_MOST_WAITING = 1000
"""Messages of all clients together that are let in and not yet passed on."""


class Inbound(StreamReaderAdapter):  # type: ignore[misc]  # amqtt is untyped
    """Reads no packet that is too long, and of a packet no more than it has."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._left = 0
        self._header: list[int] | None = None

    async def read(self, n: int = -1) -> bytes:
        """Raises ConnectionError, which ends the connection."""
        if n == 0:  # an empty last will or message, which may be the end of its packet
            return b""
        if self._left == 0 and self._header is None:
            self._header = []
        # amqtt reads a header byte by byte; asked for more, it is beyond the end of a packet
        if n != 1 if self._header is not None else not 0 <= n <= self._left:
            raise ConnectionError("a packet that does not add up")
        data: bytes = await super().read(n)
        if self._header is None:
            self._left -= len(data)
        else:
            self._header += data
            if len(self._header) > 1 and self._header[-1] < 0x80:
                length = sum(b % 0x80 << 7 * i for i, b in enumerate(self._header[1:]))
                if length > MOST_PACKET_BYTES:
                    raise ConnectionError(f"a packet of {length} bytes")
                self._left, self._header = length, None
        return data


class Outbound(StreamWriterAdapter):  # type: ignore[misc]
    """A connection: who it is, and a way to end it at once."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__(writer)
        self.who = subject_of(writer.get_extra_info("ssl_object"))
        self.session: Session | None = None

    def abort(self) -> None:
        """Whatever still waits to be written is dropped."""
        self._writer.transport.abort()


class Handler(BrokerProtocolHandler):  # type: ignore[misc]
    """One connection's packets, so many at once and no more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._taking = 0
        self._sending, self._sending_bytes = 0, 0
        self._in_flight = asyncio.Semaphore(MOST_IN_FLIGHT)

    def handle_read_timeout(self) -> None:
        """A client that says nothing for longer than it promised is gone (3.1.2.10)."""
        self._abort()

    async def handle_publish(self, publish_packet: PublishPacket) -> None:
        if publish_packet.qos == QOS_2:  # nobody here uses it, and it would have to be remembered
            self._abort()
            return
        with self._one_more():
            await super().handle_publish(publish_packet)

    async def handle_subscribe(self, subscribe: SubscribePacket) -> None:
        if subscribe.payload is not None and len(subscribe.payload.topics) > MOST_FILTERS:
            self._abort()
            return
        with self._one_more():
            await super().handle_subscribe(subscribe)

    async def handle_unsubscribe(self, unsubscribe: UnsubscribePacket) -> None:
        with self._one_more():
            await super().handle_unsubscribe(unsubscribe)

    async def mqtt_publish(
        self,
        topic: str,
        data: bytes | bytearray,
        qos: int | None,
        retain: bool,
        ack_timeout: int | None = None,
    ) -> OutgoingApplicationMessage:
        """A client that takes nothing is not kept waiting for: it has to come again."""
        if self._sending >= MOST_QUEUED or self._sending_bytes + len(data) > MOST_QUEUED_BYTES:
            self._abort()
            return OutgoingApplicationMessage(None, topic, qos, data, retain)
        self._sending, self._sending_bytes = self._sending + 1, self._sending_bytes + len(data)
        try:
            async with self._in_flight:
                return await super().mqtt_publish(topic, data, qos, retain, ack_timeout)
        finally:
            self._sending, self._sending_bytes = self._sending - 1, self._sending_bytes - len(data)

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        if self._taking >= MOST_IN_FLIGHT:
            self._abort()
        self._taking += 1
        try:
            yield
        finally:
            self._taking -= 1

    def _abort(self) -> None:
        if isinstance(self.writer, Outbound):
            self.writer.abort()


class GuardedBroker(Broker):  # type: ignore[misc]
    """A broker that asks `entry` who may come in and what they may do."""

    def __init__(
        self, address: str, port: int, entry: Entry, tls: ssl.SSLContext | None = None
    ) -> None:
        bind = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        listener = ListenerConfig(bind=bind, max_connections=-1)
        super().__init__(BrokerConfig(listeners={"default": listener}, plugins={}))
        self._entry, self._tls = entry, tls
        self._connections: set[Outbound] = set()
        self._broadcast_queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_MOST_WAITING)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._servers["default"].instance.sockets[0].getsockname()[1])

    def refresh(self) -> None:
        """Cut off at once whoever is not let in any more."""
        if not self._entry.refresh():
            return
        for connection in list(self._connections):
            if not self._entry.admits(connection.who):
                if connection.session is not None:
                    connection.session.will_flag = False  # it has no more to say
                connection.abort()

    async def shutdown(self) -> None:
        """End every connection, also those that have not said who they are."""
        for connection in self._connections:
            if connection.session is None:
                connection.abort()
        await super().shutdown()

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Serve one connection to its end."""
        connection = Outbound(writer)
        self.refresh()
        if len(self._connections) >= MOST_CONNECTIONS or not self._entry.admits(connection.who):
            connection.abort()
            return
        self._connections.add(connection)
        try:
            await self._client_connected(listener_name, Inbound(reader), connection)
        finally:
            self._connections.discard(connection)
            connection.abort()
            await self._forget(connection.session)

    async def retain_message(
        self,
        source_session: Session | None,
        topic_name: str | None,
        data: bytes | bytearray | None,
        qos: int | None = None,
    ) -> None:
        """Keep it for those who come later, if who sent it may ask for that."""
        if source_session is not None and _rules(source_session).retain:
            await super().retain_message(source_session, topic_name, data, qos)

    async def add_subscription(self, subscription: tuple[str, int], session: Session) -> int:
        """So many filters a client, and no more."""
        held = session.attributes.setdefault("filters", set())
        if subscription[0] not in held and len(held) >= MOST_FILTERS:
            return _REFUSED
        granted = int(await super().add_subscription(subscription, session))
        if granted != _REFUSED:
            held.add(subscription[0])
        return granted

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        """Only what the client itself subscribes to: amqtt, when a client connects, would give it
        what is retained under every subscription of everyone.
        """
        if subscription[0] in session.attributes.get("filters", ()):
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def _create_server_instance(
        self,
        listener_name: str,
        listener_type: ListenerType,
        address: str | None,
        port: int,
        ssl_context: ssl.SSLContext | None,
    ) -> asyncio.Server:
        del listener_type, ssl_context  # amqtt's own context asks for no certificate
        return await asyncio.start_server(
            partial(self.stream_connected, listener_name=listener_name),
            address.strip("[]") if address else address,
            port,
            reuse_address=True,
            ssl=self._tls,
            ssl_handshake_timeout=CONNECT_S if self._tls else None,
        )

    async def _initialize_client_session(
        self, reader: ReaderAdapter, writer: Outbound, remote_address: str, remote_port: int
    ) -> tuple[Handler, Session]:
        """As amqtt's, but who it is comes before what becomes of an older session."""
        del remote_address, remote_port
        try:
            async with asyncio.timeout(CONNECT_S):
                handler, session = await Handler.init_from_connect(
                    reader, writer, self.plugins_manager
                )
        except Exception as error:  # a parser met by bytes of a stranger: it may raise anything
            raise MQTTError("no CONNECT") from error
        rules = self._entry.rules(writer.who, session.client_id)
        if rules is None or not _may_leave_its_will(session, rules):
            await ConnackPacket.build(0, NOT_AUTHORIZED).to_stream(writer)
            await writer.close()
            raise MQTTError("not authorised")
        session.attributes[_RULES] = rules
        session.clean_session, session.parent = True, 0
        session.keep_alive = min(session.keep_alive or MOST_KEEPALIVE_S, MOST_KEEPALIVE_S) * 3 // 2
        session.delivered_message_queue = asyncio.Queue(MOST_IN_FLIGHT)
        for other in self._connections:  # the same subject, come again (3.1.4-2)
            if other.session is not None and other.session.client_id == session.client_id:
                other.abort()
        await self._delete_session(session.client_id)
        writer.session = session
        return handler, session

    async def _authenticate(self, session: Session, _: ListenerConfig) -> bool:
        return _RULES in session.attributes

    async def _topic_filtering(self, session: Session, topic: str, action: Action) -> bool:
        if action is Action.PUBLISH:
            return _rules(session).may_publish(topic)
        # what it may subscribe to it may receive; who is cut off has no connection
        return action is Action.RECEIVE or _rules(session).may_subscribe(topic)

    async def _session_monitor(self) -> None:
        """Nothing to look for: a session ends with its connection."""
        await asyncio.Event().wait()

    async def _forget(self, session: Session | None) -> None:
        if session is None:
            return
        current = self._sessions.get(session.client_id)
        if current is not None and current[0] is session:
            await self._delete_session(session.client_id)


def _may_leave_its_will(session: Session, rules: Rules) -> bool:
    return not session.will_flag or rules.may_publish(session.will_topic)


def _rules(session: Session) -> Rules:
    rules: Rules = session.attributes[_RULES]
    return rules
