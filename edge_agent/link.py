"""Hands events to the server over MQTT: stored first, forgotten only when signed for.

The broker and the network are believed for nothing. Lines go out in order, live ones at once and a
backlog in batches under one signature; what is not acknowledged is sent again. An acknowledgement
counts if the site's online role signed it for this agent and it names our own line.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from random import Random

import aiomqtt

from edge_agent.log import first_cause, log
from edge_agent.outbox import AcknowledgementMismatch, Outbox, OutboxFailed
from schemas.acknowledgement import Acknowledgement
from schemas.chain import EVENTS_TYPE, MAX_LINES, join_lines
from schemas.envelope import Signer, seal_envelope
from schemas.errors import SchemaError
from schemas.root import Root
from schemas.statement import open_statement
from schemas.topics import ACKNOWLEDGEMENT, EVENTS, down, up
from schemas.wary_mqtt import SILENT, be_wary

MAX_PAYLOAD_BYTES = 256 * 1024
MAX_PACKET_BYTES = 128 * 1024
"""An acknowledgement has less than 2 KiB, and no statement more than 64 KiB."""
MESSAGE_PAUSE_S = 0.01
"""Between messages: a broker that floods us must not take the doors' time."""
RARELY_S = 0.5
"""At most this often is a refusal logged, and does a request to resend count."""
MOST_IN_FLIGHT = 1024
"""Lines sent and not acknowledged; go-back-N resends at most these."""
RESEND_S = 10.0
LONGEST_RESEND_S = 60.0
LONGEST_PAUSE_S = 60.0
ANY_TIME = datetime(9000, 1, 1, tzinfo=UTC)
"""A door whose clock is behind must still be able to hand over its events. An acknowledgement is
bound to one line of one chain, so its time of issue guards nothing."""


class Link:
    """The connection of one agent to its broker."""

    def __init__(
        self,
        outbox: Outbox,
        signer: Signer,
        root: Root,
        agent: str,
        *,
        host: str,
        port: int,
        random: Random,
    ) -> None:
        self._outbox = outbox
        self._signer = signer
        self._trusted = root.key_ring()
        self._site = root.site
        self._agent = agent
        self._host = host
        self._port = port
        self._random = random
        self._sent = 0
        self._resend_s = RESEND_S
        self._resend_at: float | None = None
        """In the event loop's time, while lines are on the way."""
        self._progress = False
        self._last_s: dict[str, float] = {}

    async def run(self) -> None:
        """Keep the connection, and hand over what the outbox holds, for ever."""
        attempt = 0
        while True:
            self._progress = False
            pause_s = 0.0
            try:
                await asyncio.create_task(self._connected())
            except* (aiomqtt.MqttError, OSError) as group:
                attempt = 0 if self._progress else attempt + 1
                # Full jitter: after a broker's restart, a thousand doors don't come back at once.
                pause_s = self._random.uniform(0, min(LONGEST_PAUSE_S, 2.0**attempt))
                log.warning(
                    "link_down",
                    broker=f"{self._host}:{self._port}",
                    error=str(first_cause(group)),
                    waiting=self._outbox.state.waiting,
                    again_in_s=round(pause_s, 1),
                )
            _heed_cancellation()  # a connection that breaks as it is cancelled reports the break
            await asyncio.sleep(pause_s)

    async def _connected(self) -> None:
        client = aiomqtt.Client(
            self._host,
            self._port,
            identifier=self._agent,
            protocol=aiomqtt.ProtocolVersion.V311,
            clean_session=True,  # what a broker would keep for us, we ask for again anyway
            max_queued_incoming_messages=64,
            logger=SILENT,
        )
        be_wary(client, MAX_PACKET_BYTES)
        async with client:
            await client.subscribe(down(self._site, self._agent, ACKNOWLEDGEMENT), qos=1)
            _heed_cancellation()
            log.info("link_up", broker=f"{self._host}:{self._port}")
            self._sent = self._outbox.state.acknowledged
            self._resend_at = None
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send(client))
                tasks.create_task(self._receive(client))

    async def _send(self, client: aiomqtt.Client) -> None:
        topic = up(self._site, self._agent, EVENTS)
        while True:
            state = self._outbox.state
            self._sent = max(self._sent, state.acknowledged)
            room = MOST_IN_FLIGHT - (self._sent - state.acknowledged)
            after = self._sent
            lines = await self._outbox.lines_after(after, min(room, MAX_LINES), MAX_PAYLOAD_BYTES)
            if self._sent != after:
                continue  # meanwhile the server asked for lines before these
            if not lines:
                await self._wait(state.acknowledged)
                continue
            payload = join_lines(each.line for each in lines)
            self._sent = lines[-1].sequence
            await client.publish(topic, seal_envelope(EVENTS_TYPE, payload, [self._signer]), qos=1)
            _heed_cancellation()

    async def _wait(self, acknowledged: int) -> None:
        """Until there is something to send; without progress, go back to the oldest line."""
        if self._sent <= acknowledged:
            self._resend_at = None
        elif self._resend_at is None:
            pause_s = self._resend_s * self._random.uniform(0.5, 1.0)
            self._resend_at = asyncio.get_running_loop().time() + pause_s
        try:
            # New events end the wait, but do not put off the time to go back.
            async with asyncio.timeout_at(self._resend_at):
                await self._outbox.changed()
        except TimeoutError:
            self._resend_s = min(LONGEST_RESEND_S, self._resend_s * 2)
            self._sent = acknowledged
            self._resend_at = None
            log.warning("resending", after=acknowledged, waiting=self._outbox.state.waiting)

    async def _receive(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            if isinstance(message.payload, bytes):
                await self._acknowledged(message.payload)
            await asyncio.sleep(MESSAGE_PAUSE_S)

    async def _acknowledged(self, data: bytes) -> None:
        try:
            word = open_statement(
                data,
                Acknowledgement,
                self._trusted,
                site=self._site,
                audience=self._agent,
                now=ANY_TIME,
            )
            before = self._outbox.state.acknowledged
            if word.sequence > 0:
                await self._outbox.acknowledge(word.chain, word.sequence, word.hash, word.issued)
        except SchemaError as error:
            if self._rarely("refused"):
                log.warning("message_refused", refusal=type(error).__name__, detail=str(error))
            return
        except AcknowledgementMismatch as error:
            if self._rarely("mismatch"):
                log.error("acknowledgement_mismatch", detail=str(error))
            return
        except OutboxFailed as error:
            log.error("acknowledgement_not_kept", why=str(error))
            return
        self._progress = True
        if self._outbox.state.acknowledged > before:
            self._resend_s = RESEND_S
            self._resend_at = None
        ours = word.chain == self._outbox.state.head.chain
        # An old word that is replayed can ask as well: it must not keep us signing all day.
        if word.resend and ours and self._rarely("resend"):
            self._sent = self._outbox.state.acknowledged
            self._outbox.nudge()

    def _rarely(self, what: str) -> bool:
        """Whether `what` did not come just before."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._last_s.get(what, -RARELY_S) < RARELY_S:
            return False
        self._last_s[what] = now_s
        return True


def _heed_cancellation() -> None:
    """Raise CancelledError if this task was cancelled while aiomqtt awaited something.

    Before Python 3.12, asyncio.wait_for, which it uses, may swallow a cancellation. Only for tasks
    that host no TaskGroup before: on Python 3.11 those leave the count of cancellations behind.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
