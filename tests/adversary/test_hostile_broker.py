"""A broker that breaks the protocol or floods costs a connection: no memory, no core, no disk."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import structlog
from prometheus_client import CollectorRegistry

from schemas.acknowledgement import Acknowledgement
from schemas.chain import GENESIS
from schemas.event_data import ClockStatus, DoorData
from server.broker.link import Link as ServerLink
from server.clock import SystemClock
from server.ingest.intake import Intake
from server.ingest.metrics import IngestMetrics
from server.link_status import LinkStatus
from tests.hostile_broker import HostileBroker, listening, packet, publication
from tests.link_rig import unconnected
from tests.site_keys import SiteKeys
from tests.site_voice import SiteVoice

PATIENCE_S = 20.0
ACK_TOPIC = b"ostiary/demo/down/front-agent/ack"


@asynccontextmanager
async def agent_at(port, tmp_path, keys=None):
    keys = keys or SiteKeys(site="demo")
    async with unconnected(tmp_path, SiteVoice(keys, "front-agent"), port) as rig:
        telling = asyncio.create_task(rig.link.refusals.run())
        try:
            yield rig.link, rig.outbox
        finally:
            telling.cancel()


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
    async with (
        listening(HostileBroker(attack)) as broker,
        side(broker.port, tmp_path, **more) as (link, outbox),
    ):
        task = running(side, link)
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield broker, outbox
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


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
    keys = SiteKeys(site="demo")
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
        replay = publication(ACK_TOPIC, keys.sign(word))
        for _ in range(100):
            await broker.send(writer, replay)
            await asyncio.sleep(0.01)
        broker.heard.put_nowait(("over", b""))

    async with at_the_mercy_of(attack, agent_at, tmp_path, keys=keys) as (broker, outbox):
        data = DoorData(door="front", clock=ClockStatus(status="synced"))
        for _ in range(10):
            await outbox.append("door.closed", "doors/front", data, datetime.now(UTC))
        chain.set_result(outbox.state.head.chain)
        messages = []
        while (heard := await broker.heard.get())[0] != "over":
            if heard[0].endswith("/events"):
                messages.append(heard)
        assert 11 < len(messages) + 11 < 30
