"""The agent's one connection to its broker, which is believed for nothing.

Everything that goes up is signed, and what comes down counts only by its signature. Each connection
is a session of its own: what a broker kept from an earlier one commands nothing.
"""

from __future__ import annotations

import asyncio
import sqlite3
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any

import aiomqtt

from edge_agent.config import Broker
from edge_agent.fetching import Fetching
from edge_agent.handover import Handover
from edge_agent.inbox import CHANNELS, ELSEWHERE, TO_EVERYONE, Inbox
from edge_agent.log import first_cause, log
from edge_agent.neighbours import Doors, Keys, Renewals, TransportAnswers
from edge_agent.receipts import Receipts
from edge_agent.recorder import Recorder
from edge_agent.refusals import Refusals
from edge_agent.reporting import Reporting
from edge_agent.trust_store import TrustStore
from schemas.envelope import Signer
from schemas.errors import EndlessData
from schemas.suites import RandomBytes
from schemas.topics import WILL, down, everyone, up
from schemas.wary_mqtt import SILENT, be_wary

MAX_PACKET_BYTES = 192 * 1024 + 256
"""The largest message is a policy; the rest is the packet's head and topic."""
MESSAGE_PAUSE_S = 0.01
"""Between messages: a broker that floods us must not take the doors' time."""
LONGEST_PAUSE_S = 60.0
STEADY_S = 10.0
"""A connection that lasted so long and brought something good ends the backing off."""
LEAVE_S = 1.0


class Link:
    """The connection of one agent, and what it carries."""

    def __init__(
        self,
        broker: Broker,
        store: TrustStore,
        recorder: Recorder,
        signer: Signer,
        *,
        doors: Doors,
        renewals: Renewals,
        keys: Keys,
        transport: TransportAnswers,
        tls: Callable[[], Awaitable[ssl.SSLContext | None]],
        random: Random,
        random_bytes: RandomBytes,
    ) -> None:
        agent = recorder.agent
        self._broker = broker
        self._agent = agent
        self._site = store.state.root.site
        self._store = store
        self._keys = keys
        self._transport = transport
        self._tls = tls
        self._random = random
        self._random_bytes = random_bytes
        self._client: aiomqtt.Client | None = None
        self.refusals = Refusals(recorder)
        """Its `run` goes on without a connection too."""
        self.receipts = Receipts(store, recorder)
        self._handover = Handover(recorder.outbox, signer, agent, random)
        self._reporting = Reporting(
            store, recorder, signer, doors=doors, renewals=renewals, random=random
        )
        self._fetching = Fetching(store, recorder, signer, self.refusals, random)
        self._inbox = Inbox(
            store,
            recorder,
            doors=doors,
            renewals=renewals,
            keys=keys,
            transport=transport,
            handover=self._handover,
            fetching=self._fetching,
            reporting=self._reporting,
            receipts=self.receipts,
            refusals=self.refusals,
        )
        self._topics = {down(self._site, agent, channel): channel for channel in CHANNELS}
        self._topics |= {everyone(self._site, channel): channel for channel in TO_EVERYONE}

    async def say(self, channel: str, payload: bytes) -> None:
        """Publish on one of the agent's own channels. Raises ConnectionError or MqttError."""
        if self._client is None:
            raise ConnectionError(f"no connection to the broker for {channel}")
        await self._client.publish(up(self._site, self._agent, channel), payload, qos=1)
        _heed_cancellation()

    def doors_changed(self) -> None:
        """A report is due: a door's mode, contact or freshness changed."""
        self._reporting.changed()

    async def keep_saving(self) -> None:
        """Write what the disk did not take, for ever; without a connection too."""
        await self._inbox.keep_saving()

    async def run(self) -> None:
        """Keep the connection, and hand over what the outbox holds, for ever."""
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            pause_s, begun_s, accepted = 0.0, loop.time(), self._inbox.accepted
            try:
                await asyncio.create_task(self._connected())
            except* (aiomqtt.MqttError, OSError) as group:
                steady = loop.time() - begun_s >= STEADY_S and self._inbox.accepted > accepted
                attempt = 0 if steady else attempt + 1
                # Full jitter: after a broker's restart, a thousand doors don't come back at once.
                pause_s = self._random.uniform(0, min(LONGEST_PAUSE_S, 2.0**attempt))
                log.warning(
                    "link_down",
                    broker=f"{self._broker.host}:{self._broker.port}",
                    error=str(first_cause(group)),
                    again_in_s=round(pause_s, 1),
                )
            _heed_cancellation()  # a connection that breaks as it is cancelled reports the break
            await asyncio.sleep(pause_s)

    async def leave(self) -> None:
        """Tell the server that the agent stops in order, if that can be told at once."""
        if not self._inbox.session:
            return  # it was never heard of
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._reporting.leave(self.say, self._inbox.session)
        except (aiomqtt.MqttError, OSError, TimeoutError) as error:
            log.info("left_unsaid", why=str(error))

    async def _connected(self) -> None:
        tls = await self._tls()
        client = aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            identifier=self._agent,
            protocol=aiomqtt.ProtocolVersion.V311,
            clean_session=True,  # what a broker would keep for us, we ask for again anyway
            will=aiomqtt.Will(up(self._site, self._agent, WILL), b"", qos=1),
            tls_context=tls,
            max_queued_incoming_messages=64,
            logger=SILENT,
        )
        be_wary(client, MAX_PACKET_BYTES, self._endless)
        session = self._random_bytes(8).hex()
        async with client:
            await client.subscribe([(topic, 1) for topic in self._topics])
            _heed_cancellation()
            log.info("link_up", broker=f"{self._broker.host}:{self._broker.port}", session=session)
            self._client, self._inbox.session = client, session
            for asking in (self._keys, self._transport):
                asking.connected(self.say, session)
            await self._note(session)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._handover.run(self.say))
                    tasks.create_task(self._reporting.run(self.say, session))
                    tasks.create_task(self._fetching.run(self.say, session))
                    tasks.create_task(self._receive(client))
            finally:
                self._client = None

    async def _note(self, session: str) -> None:
        """For `ostiary-agent status`, which is a process of its own."""
        try:
            await self._store.note({"session": session})
        except sqlite3.Error as error:
            log.warning("session_not_noted", why=str(error))

    def _endless(self, refusal: EndlessData) -> None:
        self.refusals.report("connection", refusal)

    async def _receive(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            channel = self._topics.get(message.topic.value, ELSEWHERE)
            if isinstance(message.payload, bytes):
                await _to_the_end(
                    self._inbox.take(channel, message.payload, retained=message.retain)
                )
            await asyncio.sleep(MESSAGE_PAUSE_S)


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await it; if that is cancelled, once it is done.

    Who cuts the connection must not part what is durable from the act: a lockdown that was kept and
    not acted on would come again as one that is known.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _heed_cancellation() -> None:
    """Raise CancelledError if this task was cancelled while aiomqtt awaited something.

    Before Python 3.12, asyncio.wait_for, which it uses, may swallow a cancellation. Only for tasks
    that host no TaskGroup before: on Python 3.11 those leave the count of cancellations behind.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
