"""The server's link: by its own certificate, hearing every agent, speaking to each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from schemas.topics import (
    EVENTS,
    HEARTBEAT,
    LOCKDOWN,
    PULL,
    RENEWAL,
    REPORT,
    WILL,
    down,
    everyone,
    up,
)
from server.broker.grants import server_id
from server.broker.link import Link, NoBroker
from server.broker.rights import Rights
from server.clock import SystemClock
from server.ingest.intake import Intake
from server.ingest.metrics import IngestMetrics
from server.link_status import LinkStatus
from tests.broker_rig import HOST, SITE, SecuredBroker, SecuredMosquitto

LIMIT_S = 30


class Ends:
    """What the link was given to feed."""

    def __init__(self, broker: SecuredBroker, name: str = server_id(SITE)) -> None:
        self.offered: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()
        self.intake = Intake()
        self.room = True
        self.status = LinkStatus("x")
        self.metrics = IngestMetrics(CollectorRegistry())
        self.up = asyncio.Event()
        self.link = Link(
            url=f"mqtts://{HOST}:{broker.port}",
            site=SITE,
            intake=self.intake,
            offer=self.offer,
            control=self.answers.put_nowait,
            status=self.status,
            clock=SystemClock(),
            metrics=self.metrics,
            uniform=lambda least, most: 0.02,
            client_id=name,
            tls=broker.who.tls(name),
        )

    def offer(self, topic: str, payload: bytes) -> bool:
        self.offered.put_nowait((topic, payload))
        return self.room

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.link.run(self.up.set))
        try:
            async with asyncio.timeout(LIMIT_S):
                await self.up.wait()
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def admit(broker: SecuredBroker, agent: str) -> None:
    async with broker.server(agent):
        pass


async def test_events_go_to_ingest_and_all_else_to_the_inbox(secured):
    await admit(secured, "front")
    ends = Ends(secured)
    async with ends.running(), secured.enter("front") as front:
        for channel in (REPORT, PULL, RENEWAL, WILL, EVENTS):
            await front.publish(up(SITE, "front", channel), channel.encode())
        async with asyncio.timeout(LIMIT_S):
            [message] = await ends.intake.take(8, 1024)
            others = [await ends.offered.get() for _ in range(4)]
    assert (message.topic, message.payload) == (up(SITE, "front", EVENTS), b"events")
    assert others == [
        (up(SITE, "front", channel), channel.encode()) for channel in (REPORT, PULL, RENEWAL, WILL)
    ]
    assert ends.offered.empty()


async def test_it_speaks_to_one_and_to_all_and_leaves_word_for_who_comes_later(secured):
    await admit(secured, "front")
    ends = Ends(secured)
    async with ends.running():
        await ends.link.publish(down(SITE, "front", HEARTBEAT), b"newest", retain=True)
        await ends.link.publish(everyone(SITE, LOCKDOWN), b"none", retain=True)
        async with secured.enter("front") as front:
            await front.subscribe(f"ostiary/{SITE}/down/front/#")
            await front.subscribe(f"ostiary/{SITE}/all/#")
            assert await front.hears(b"newest")
            assert await front.hears(b"none")
            await ends.link.publish(down(SITE, "front", "ack"), b"now")
            assert await front.hears(b"now")
    assert [message.retained for message in front.heard] == [True, True, False]


@pytest.mark.system
async def test_what_the_broker_says_again_is_not_taken_as_said(secured_mosquitto: SecuredMosquitto):
    await admit(secured_mosquitto, "front")
    async with secured_mosquitto.enter("front") as front:
        await front.publish(up(SITE, "front", REPORT), b"yesterday", retain=True)
    ends = Ends(secured_mosquitto)
    async with ends.running(), secured_mosquitto.enter("front") as front:
        await front.publish(up(SITE, "front", PULL), b"today")
        async with asyncio.timeout(LIMIT_S):
            assert await ends.offered.get() == (up(SITE, "front", PULL), b"today")
    assert ends.metrics.dropped._value.get() == 1


async def test_it_comes_back_when_the_broker_does_and_says_meanwhile_that_it_is_away(secured):
    ends = Ends(secured)
    async with ends.running():
        await secured.stop()
        async with asyncio.timeout(LIMIT_S):
            while ends.status.connected:  # noqa: ASYNC110 the link tells it by this alone
                await asyncio.sleep(0.01)
        with pytest.raises(NoBroker):
            await ends.link.publish(down(SITE, "front", "ack"), b"lost")
        ends.up.clear()
        await secured.start()
        async with asyncio.timeout(LIMIT_S):
            await ends.up.wait()
        assert ends.status.connected


async def test_a_certificate_of_another_name_opens_no_link(secured):
    await admit(secured, "front")
    ends = Ends(secured, "front")
    task = asyncio.create_task(ends.link.run(ends.up.set))
    async with asyncio.timeout(LIMIT_S):
        while ends.status.last_error is None:  # noqa: ASYNC110 the link tells it by this alone
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not ends.up.is_set()
    assert "does not let front listen" in ends.status.last_error


@pytest.mark.system
async def test_orders_about_rights_go_over_the_link_itself(secured_mosquitto: SecuredMosquitto):
    from server.broker.dynamic_security import MosquittoRights

    ends = Ends(secured_mosquitto)
    rights: Rights = MosquittoRights(SITE, ends.link.publish)

    async def hand_on() -> None:
        while True:
            rights.heard(await ends.answers.get())

    async with ends.running():
        handing = asyncio.create_task(hand_on())
        await rights.reconcile(["front"])
        async with secured_mosquitto.enter("front") as front:
            await front.publish(up(SITE, "front", PULL), b"x")
            async with asyncio.timeout(LIMIT_S):
                await ends.offered.get()
        handing.cancel()


async def test_without_a_certificate_there_is_no_link_over_tls():
    with pytest.raises(ValueError, match="needs the server's certificate"):
        Link(
            url="mqtts://broker",
            site=SITE,
            intake=Intake(),
            status=LinkStatus("x"),
            clock=SystemClock(),
            metrics=IngestMetrics(CollectorRegistry()),
            uniform=lambda least, most: 0,
            client_id=server_id(SITE),
        )
