"""A broker that breaks the protocol or floods costs a connection: no memory, no core, no disk."""

import asyncio
import random
import secrets
import struct
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import structlog
from prometheus_client import CollectorRegistry

from edge_agent.link import Link as AgentLink
from edge_agent.outbox import Outbox
from schemas.acknowledgement import Acknowledgement
from schemas.chain import EVENTS_TYPE, GENESIS
from schemas.envelope import Signer
from schemas.events import ClockStatus, DoorData
from schemas.root import Root
from schemas.statement import sign_statement
from schemas.suites import INTL
from server.broker.link import Link as ServerLink
from server.clock import SystemClock
from server.ingest.intake import Intake
from server.ingest.metrics import IngestMetrics
from server.state import LinkStatus

PATIENCE_S = 20.0
ACK_TOPIC = b"ostiary/demo/down/front-agent/ack"


def packet(first: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (0x80 if size else 0))
        if not size:
            return bytes((first,)) + bytes(length) + body


def publication(topic: bytes, payload: bytes = b"x", *, qos: int = 0, mid: int = 1) -> bytes:
    name = struct.pack(">H", len(topic)) + topic
    return packet(0x30 | qos << 1, name + (struct.pack(">H", mid) if qos else b"") + payload)


class HostileBroker:
    """Greets as it should, and after each subscription does what `attack` says."""

    def __init__(self, attack):
        self.attack = attack
        self.connections: asyncio.Queue[None] = asyncio.Queue()
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.sent_bytes = 0

    async def send(self, writer, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self.sent_bytes += len(data)

    async def serve(self, reader, writer) -> None:
        attack = None
        try:
            while True:
                (first,) = await reader.readexactly(1)
                size = shift = 0
                while True:
                    (digit,) = await reader.readexactly(1)
                    size, shift = size | (digit & 127) << shift, shift + 7
                    if not digit & 128:
                        break
                body = await reader.readexactly(size)
                if first >> 4 == 1:
                    writer.write(packet(0x20, b"\0\0"))
                elif first >> 4 == 8:
                    writer.write(packet(0x90, body[:2] + b"\x01"))
                    self.connections.put_nowait(None)
                    attack = asyncio.create_task(self.attack(self, writer))
                elif first >> 4 == 3:
                    after = 2 + struct.unpack(">H", body[:2])[0]
                    writer.write(packet(0x40, body[after : after + 2]))
                    self.heard.put_nowait(body[after + 2 :])
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            if attack is not None:
                attack.cancel()
                await asyncio.gather(attack, return_exceptions=True)
            writer.close()


@asynccontextmanager
async def agent_at(port, tmp_path, root=None):
    outbox = await Outbox.open(
        tmp_path / "outbox.db",
        digest=INTL.digest,
        source="/sites/demo/agents/front-agent",
        clock=SystemClockOfAgent(),
        random=secrets.token_bytes,
    )
    signer = Signer.of(INTL.generate(secrets.token_bytes))
    root = root or Root(site="demo", version=1, suite="intl", keys={}, roles={})
    link = AgentLink(
        outbox, signer, root, "front-agent", host="127.0.0.1", port=port, random=Hasty()
    )
    try:
        yield link, outbox
    finally:
        await outbox.close()


class SystemClockOfAgent(SystemClock):
    def status(self):
        return ClockStatus(status="synced")


class Hasty(random.Random):
    """Comes back at once."""

    def uniform(self, a, b):
        return 0.0 if a == 0 else b


@asynccontextmanager
async def server_at(port, tmp_path):
    clock, metrics = SystemClock(), IngestMetrics(CollectorRegistry())
    link = ServerLink(
        url=f"mqtt://127.0.0.1:{port}",
        site="demo",
        intake=Intake(),
        status=LinkStatus("hostile"),
        clock=clock,
        metrics=metrics,
        uniform=lambda *_: 0.0,
        client_id="server-demo",
    )
    yield link, None


def running(side, link):
    return asyncio.create_task(link.run() if side is agent_at else link.run(lambda: None))


@asynccontextmanager
async def at_the_mercy_of(attack, side, tmp_path, **more):
    broker = HostileBroker(attack)
    listener = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with side(port, tmp_path, **more) as (link, outbox):
        task = running(side, link)
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield broker, outbox
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            listener.close()


async def wildcard_topic(broker, writer):
    await broker.send(writer, publication(b"a/#") + publication(ACK_TOPIC))


async def topic_that_is_no_text(broker, writer):
    await broker.send(writer, publication(b"\xff\xfe") + publication(ACK_TOPIC))


async def packet_cut_short(broker, writer):
    await broker.send(writer, packet(0x32, b"\0\x05abcde") + publication(ACK_TOPIC))


async def never_ending_packet(broker, writer):
    await broker.send(writer, b"\x30\xff\xff\xff\x7f\0\x02ok")
    while True:
        await broker.send(writer, bytes(1 << 16))


async def messages_that_are_kept_for_a_second_half(broker, writer):
    for mid in range(1, 1 << 16):
        await broker.send(writer, publication(ACK_TOPIC, bytes(1 << 16), qos=2, mid=mid))


@pytest.mark.parametrize("side", [agent_at, server_at])
@pytest.mark.parametrize(
    "attack",
    [
        wildcard_topic,
        topic_that_is_no_text,
        packet_cut_short,
        never_ending_packet,
        messages_that_are_kept_for_a_second_half,
    ],
)
async def test_a_broker_that_breaks_the_protocol_loses_the_connection(
    tmp_path, caplog, side, attack
):
    async with at_the_mercy_of(attack, side, tmp_path) as (broker, _):
        await broker.connections.get()
        await broker.connections.get()
        assert broker.sent_bytes < 64 << 20, "what it could send is what the sockets hold"
    assert not [record for record in caplog.records if "mqtt" in record.name]


async def test_a_flood_of_nonsense_is_neither_logged_nor_heard_word_for_word(tmp_path, caplog):
    async def attack(broker, writer):
        flood = publication(ACK_TOPIC, b'{"payloadType":"x"}') * 100
        for _ in range(100):
            await broker.send(writer, flood)
        await wildcard_topic(broker, writer)  # so that it comes back when it has read all

    with structlog.testing.capture_logs() as logs:
        async with at_the_mercy_of(attack, agent_at, tmp_path) as (broker, _):
            await broker.connections.get()
            await broker.connections.get()
    assert len([line for line in logs if line["event"] != "link_up"]) < 50
    assert not [record for record in caplog.records if "mqtt" in record.name]


async def test_an_old_word_replayed_a_thousand_times_asks_for_a_few_resends_at_most(tmp_path):
    online = Signer.of(INTL.generate(secrets.token_bytes))
    root = Root(
        site="demo",
        version=1,
        suite="intl",
        keys={online.keyid: online.key.public.point.hex()},
        roles={"online": [online.keyid]},
    )
    chain = asyncio.get_running_loop().create_future()

    async def attack(broker, writer):
        word = Acknowledgement(
            site="demo",
            audience="front-agent",
            issued=datetime.now(UTC),
            counter=0,
            chain=await chain,
            sequence=0,
            hash=GENESIS,
            resend=True,
        )
        replay = publication(ACK_TOPIC, sign_statement(word, online))
        for _ in range(100):
            await broker.send(writer, replay)
            await asyncio.sleep(0.01)
        broker.heard.put_nowait(b"over")

    async with at_the_mercy_of(attack, agent_at, tmp_path, root=root) as (broker, outbox):
        data = DoorData(door="front", clock=ClockStatus(status="synced"))
        for _ in range(10):
            await outbox.append("door.closed", "doors/front", data, datetime.now(UTC))
        chain.set_result(outbox.state.head.chain)
        messages = []
        while (message := await broker.heard.get()) != b"over":
            assert EVENTS_TYPE.encode() in message
            messages.append(message)
        assert 11 < len(messages) + 11 < 30
