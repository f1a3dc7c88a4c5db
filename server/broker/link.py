"""The server's connection to the broker: kept up, and open at both ends."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

import aiomqtt
import structlog
from paho.mqtt.client import error_string
from paho.mqtt.enums import MQTTErrorCode

from schemas.envelope import MAX_ENVELOPE_BYTES
from schemas.errors import MalformedTopic
from schemas.topics import EVENTS, every_up, parse_up
from schemas.wary_mqtt import SILENT, be_wary
from server.broker.bulk import in_bulk
from server.broker.grants import CONTROL_ANSWERS, UP_CHANNELS
from server.broker.limits import MOST_IN_FLIGHT
from server.clock import Clock
from server.config import broker_address
from server.ingest.intake import Intake, Message
from server.ingest.metrics import IngestMetrics
from server.link_status import LinkStatus

MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0
KEEPALIVE_S = 30
MAX_PACKET_BYTES = 2 * MAX_ENVELOPE_BYTES
"""Far beyond this a packet is not a message that is too long, but an attack on our memory."""
PATIENCE_S = 10.0
"""For the broker to confirm a message."""

log = structlog.get_logger(__name__)


class NoBroker(ConnectionError):
    """There is no connection just now."""


Offer = Callable[[str, bytes], bool]
"""Takes the topic and payload of a message; false: there is no room for it."""
REFUSED = 0x80
"""In a SUBACK, this and beyond: MQTT 3.1.1 3.9.3."""


def _nobody(topic: str, payload: bytes) -> bool:
    del topic, payload
    return False


class Link:
    """Feeds `intake` with every agent's events, and `offer` with all else that agents say.

    `publish` speaks to them. `control` is handed what the broker itself answers to orders about
    rights. With mqtts://, `tls` holds the server's own certificate, whose subject is `client_id`.
    """

    def __init__(
        self,
        *,
        url: str,
        site: str,
        intake: Intake,
        status: LinkStatus,
        clock: Clock,
        metrics: IngestMetrics,
        uniform: Callable[[float, float], float],
        client_id: str,
        offer: Offer = _nobody,
        control: Callable[[bytes], None] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Raises ValueError for a URL that can't be used."""
        secured, self._host, self._port = broker_address(url)
        if secured and tls is None:
            raise ValueError(f"broker {url!r} needs the server's certificate")
        self._tls = tls if secured else None
        self._site, self._intake, self._status = site, intake, status
        self._offer, self._control = offer, control
        self._clock, self._metrics, self._uniform = clock, metrics, uniform
        self._client_id = client_id
        self._client: aiomqtt.Client | None = None
        self._untold: set[asyncio.Future[None]] = set()
        """What the broker has not confirmed."""
        self._deaf = False

    async def run(self, welcomed: Callable[[], None]) -> None:
        """Stay connected until cancelled. Retries with full jitter, 1 to 60 s.

        `welcomed` is called each time the subscription stands: what came before may be missing.
        """
        retry_s = MIN_RETRY_S
        while True:
            try:
                async with self._connect() as client:
                    await self._subscribe(client)
                    _heed_cancellation()
                    retry_s = MIN_RETRY_S
                    self._up(client)
                    welcomed()
                    async for _ in client.messages:  # they go elsewhere: this waits for the end
                        pass
            except aiomqtt.MqttError as error:
                self._down(str(error))
            finally:
                self._client = None
                for told in list(self._untold):
                    _fail(told, "the broker's connection broke")
            _heed_cancellation()
            # AWS, "Exponential Backoff And Jitter": full jitter spreads a crowd best
            await asyncio.sleep(self._uniform(0, retry_s))
            retry_s = min(retry_s * 2, MAX_RETRY_S)

    def stop_listening(self) -> None:
        """Take no more messages in; what is under way can still be acknowledged."""
        self._deaf = True

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> asyncio.Future[None]:
        """QoS 1; done when the broker has it, or fails with NoBroker.

        It is sent without waiting for whoever awaits it, and takes no task of its own: a thousand
        words to a thousand agents are said so.
        """
        loop = asyncio.get_running_loop()
        told: asyncio.Future[None] = loop.create_future()
        client = self._client
        if client is None:
            told.set_exception(NoBroker(f"not connected to {self._host}:{self._port}"))
            return told
        sent = client._client.publish(topic, payload, 1, retain)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            told.set_exception(NoBroker(f"the broker's connection broke: {error_string(sent.rc)}"))
            return told
        late = f"the broker has not confirmed a message for {PATIENCE_S:.0f} s"
        overdue = loop.call_later(PATIENCE_S, _fail, told, late)
        told.add_done_callback(self._untold.discard)
        told.add_done_callback(lambda _: overdue.cancel())
        self._untold.add(told)
        # its own `publish` makes a task and a timeout for each, which costs more than all the rest
        client._pending_publishes[sent.mid] = _Confirmation(told)
        return told

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        wanted = [(every_up(self._site, channel), 1) for channel in UP_CHANNELS]
        if self._control is not None:
            wanted.append((CONTROL_ANSWERS, 1))
        codes = await client.subscribe(wanted)
        # another broker may have no such place for orders; whoever gives them is told so
        asked = codes[: len(UP_CHANNELS)]
        if any((c if isinstance(c, int) else c.value) >= REFUSED for c in asked):
            raise aiomqtt.MqttError(
                f"the broker does not let {self._client_id} listen to agents: set its rights up"
                " with `ostiary broker config mosquitto`"
            )

    def _connect(self) -> aiomqtt.Client:
        client = aiomqtt.Client(
            self._host,
            self._port,
            identifier=self._client_id,
            keepalive=KEEPALIVE_S,
            clean_session=True,  # acknowledgements and resends need no help from the broker
            queue_type=cast("type[asyncio.Queue[aiomqtt.Message]]", self._queue),
            logger=SILENT,
            tls_context=self._tls,
            max_inflight_messages=MOST_IN_FLIGHT,
        )
        in_bulk(client, self._receive)
        be_wary(client, MAX_PACKET_BYTES)
        return client

    def _queue(self, maxsize: int) -> asyncio.Queue[aiomqtt.Message]:
        return _Inlet(self._receive_message, maxsize)

    def _receive_message(self, message: aiomqtt.Message) -> None:
        if isinstance(message.payload, bytes):
            self._receive(str(message.topic), message.payload, message.retain)

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        if self._deaf:
            return
        if not retained and self._taken(topic, payload):
            return
        self._metrics.dropped.inc()  # nothing that agents say is said again by the broker

    def _taken(self, topic: str, payload: bytes) -> bool:
        if topic == CONTROL_ANSWERS:
            if self._control is not None:
                self._control(payload)
            return True
        try:
            channel = parse_up(topic).channel
        except MalformedTopic:
            channel = EVENTS  # ingest says what is wrong with it
        if channel == EVENTS:
            return self._intake.offer(Message(topic, payload))
        return self._offer(topic, payload)

    def _up(self, client: aiomqtt.Client) -> None:
        self._client = client
        self._status.connected, self._status.since = True, self._clock.now()
        self._status.last_error = None
        log.info("broker_connected", broker=self._status.broker)

    def _down(self, why: str) -> None:
        if self._status.connected or self._status.last_error is None:
            self._status.since = self._clock.now()
            log.warning("broker_lost", broker=self._status.broker, why=why)
        self._status.connected, self._status.last_error = False, why


class _Confirmation(asyncio.Event):
    """What the client calls when the broker has a message: it takes an event."""

    def __init__(self, told: asyncio.Future[None]) -> None:
        self._told = told

    def set(self) -> None:
        """The broker has it."""
        if not self._told.done():
            self._told.set_result(None)


def _fail(told: asyncio.Future[None], why: str) -> None:
    if not told.done():
        told.set_exception(NoBroker(why))


def _heed_cancellation() -> None:
    """Raise CancelledError if this task was cancelled while aiomqtt awaited something.

    Before Python 3.12, asyncio.wait_for, which it uses, may swallow a cancellation.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _Inlet(asyncio.Queue[aiomqtt.Message]):
    """The client's queue, bypassed: a message goes straight to where it is bounded and counted."""

    def __init__(self, receive: Callable[[aiomqtt.Message], None], maxsize: int) -> None:
        super().__init__(maxsize)
        self._hand_over = receive

    def put_nowait(self, item: aiomqtt.Message) -> None:
        self._hand_over(item)
