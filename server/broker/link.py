"""The server's connection to the broker: kept up, and open at both ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import aiomqtt
import structlog

from schemas.envelope import MAX_ENVELOPE_BYTES
from schemas.topics import EVENTS, every_up
from schemas.wary_mqtt import SILENT, be_wary
from server.clock import Clock
from server.ingest.intake import Intake, Message
from server.ingest.metrics import IngestMetrics
from server.state import LinkStatus

MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0
KEEPALIVE_S = 30
MAX_PACKET_BYTES = 2 * MAX_ENVELOPE_BYTES
"""Far beyond this a packet is not a message that is too long, but an attack on our memory."""
_PENDING = 64

log = structlog.get_logger(__name__)


def server_id(name: str) -> str:
    """The MQTT client id of a site's server."""
    return f"server-{name}"


class NoBroker(ConnectionError):
    """There is no connection just now."""


class Link:
    """Feeds `intake` with every agent's events; `publish` speaks to one agent."""

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
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "mqtt" or not parts.hostname:
            raise ValueError(f"broker {url!r} is not of the form mqtt://host:port")
        self._host, self._port = parts.hostname, parts.port or 1883
        self._site, self._intake, self._status = site, intake, status
        self._clock, self._metrics, self._uniform = clock, metrics, uniform
        self._client_id = client_id
        self._client: aiomqtt.Client | None = None
        self._deaf = False

    async def run(self, welcomed: Callable[[], None]) -> None:
        """Stay connected until cancelled. Retries with full jitter, 1 to 60 s.

        `welcomed` is called each time the subscription stands: what came before may be missing.
        """
        retry_s = MIN_RETRY_S
        while True:
            try:
                async with self._connect() as client:
                    await client.subscribe(every_up(self._site, EVENTS), qos=1)
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
            _heed_cancellation()
            # AWS, "Exponential Backoff And Jitter": full jitter spreads a crowd best
            await asyncio.sleep(self._uniform(0, retry_s))
            retry_s = min(retry_s * 2, MAX_RETRY_S)

    def stop_listening(self) -> None:
        """Take no more messages in; what is under way can still be acknowledged."""
        self._deaf = True

    async def publish(self, topic: str, payload: bytes) -> None:
        """QoS 1, never retained. Raises NoBroker."""
        client = self._client
        if client is None:
            raise NoBroker(f"not connected to {self._host}:{self._port}")
        try:
            await client.publish(topic, payload, qos=1)
        except aiomqtt.MqttError as error:
            raise NoBroker(str(error)) from error

    def _connect(self) -> aiomqtt.Client:
        client = aiomqtt.Client(
            self._host,
            self._port,
            identifier=self._client_id,
            keepalive=KEEPALIVE_S,
            clean_session=True,  # acknowledgements and resends need no help from the broker
            queue_type=cast("type[asyncio.Queue[aiomqtt.Message]]", self._queue),
            logger=SILENT,
        )
        be_wary(client, MAX_PACKET_BYTES)
        client.pending_calls_threshold = _PENDING
        return client

    def _queue(self, maxsize: int) -> asyncio.Queue[aiomqtt.Message]:
        return _Inlet(self._receive, maxsize)

    def _receive(self, message: aiomqtt.Message) -> None:
        payload: Any = message.payload
        if self._deaf or not isinstance(payload, bytes):
            return
        if not self._intake.offer(Message(str(message.topic), payload)):
            self._metrics.dropped.inc()

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
