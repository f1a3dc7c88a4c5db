"""The two links at moments that faults bring about, each alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import aiomqtt
import pytest
from prometheus_client import CollectorRegistry

from edge_agent.config import Broker
from edge_agent.core.trusted_time import TrustedTime
from edge_agent.link import Link as AgentLink
from edge_agent.outbox import Outbox, StoredLine
from edge_agent.recorder import Recorder
from edge_agent.trust_store import TrustStore
from schemas.acknowledgement import Acknowledgement
from schemas.chain import EVENTS_TYPE
from schemas.envelope import Signer, open_envelope
from schemas.event_data import ClockStatus, DoorData
from schemas.events import agent_source
from schemas.statement import sign_statement
from schemas.topics import ACKNOWLEDGEMENT, EVENTS, down, every_up
from server.broker.grants import server_id
from server.broker.link import Link as ServerLink
from server.ingest.intake import Intake
from server.ingest.metrics import IngestMetrics
from server.link_status import LinkStatus
from server.site import Site, create_site
from tests.agent_pen import Pen
from tests.chaos import simulation
from tests.chaos.simulation import EPOCH, Clock, Thread
from tests.chaos.wire import Client, Wire
from tests.link_rig import IdleDoors, IdleKeys, IdleRenewals, in_the_clear

SITE, AGENT = "demo", "front"
PEN = Pen(AGENT)
DOOR = DoorData(door="front", clock=ClockStatus(status="synced"))


def in_simulated_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(**given: Any) -> None:
        simulation.run(test(**given))

    return run


class GatedOutbox(Outbox):
    """Reading it waits while the gate is shut."""

    gate: asyncio.Event

    async def lines_after(self, sequence: int, limit: int, most_bytes: int) -> list[StoredLine]:
        lines = await super().lines_after(sequence, limit, most_bytes)
        await self.gate.wait()
        return lines

    async def add(self) -> StoredLine:
        return await self.append("door.closed", "doors/front", DOOR, EPOCH)


class Bench:
    """An agent's link and outbox, and on the other end of a good wire a server's voice."""

    running: asyncio.Task[None]

    def __init__(self, site: Site, wire: Wire, outbox: GatedOutbox, store: TrustStore) -> None:
        self.wire, self.outbox = wire, outbox
        self.server = Client(wire, identifier="server")
        self.link = AgentLink(
            Broker(tls=False),
            store,
            Recorder(outbox, Clock(), TrustedTime(), AGENT, "0"),
            PEN.signer,
            doors=IdleDoors(),
            renewals=IdleRenewals(),
            keys=IdleKeys(),
            transport=IdleKeys(),
            tls=in_the_clear,
            random=Random(1),
            random_bytes=Random(3).randbytes,
        )
        self._site = site
        self._online: Signer = site.signer("online", {})

    async def next_lines(self) -> list[bytes]:
        """The lines of the next message."""
        message = await anext(aiter(self.server.messages))
        return open_envelope(message.payload, PEN.ring, EVENTS_TYPE).payload.split(b"\n")

    async def acknowledge(self, line: StoredLine, *, resend: bool = False) -> None:
        word = Acknowledgement(
            site=SITE,
            audience=AGENT,
            issued=EPOCH,
            counter=line.sequence,
            chain=self.outbox.state.head.chain,
            sequence=line.sequence,
            hash=PEN.suite.digest(line.line).hex(),
            resend=resend,
        )
        topic = down(SITE, AGENT, ACKNOWLEDGEMENT)
        await self.server.publish(topic, sign_statement(word, self._online), qos=1)


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    wire = Wire("bench", Counter())
    site = create_site(folder / "site", SITE, "intl", Random(1).randbytes, {})
    with (
        patch("aiomqtt.Client", wire.client),
        patch("edge_agent.database.ThreadPoolExecutor", lambda *_, **__: Thread(lambda: 1e-3)),
    ):
        outbox = await GatedOutbox.open(
            folder / "outbox.db",
            digest=PEN.suite.digest,
            source=agent_source(SITE, AGENT),
            clock=Clock(),
            random=Random(2).randbytes,
        )
        outbox.gate = asyncio.Event()
        outbox.gate.set()
        store = await TrustStore.open(folder / "trust.db", site.root, AGENT, Clock())
        it = Bench(site, wire, outbox, store)
        async with it.server:
            await it.server.subscribe(every_up(SITE, EVENTS), qos=1)
            it.running = asyncio.create_task(it.link.run())
            yield it
            it.running.cancel()


@in_simulated_time
async def test_what_got_lost_is_sent_again_though_new_events_keep_coming(tmp_path):
    async with bench(tmp_path) as it:
        oldest = (await it.outbox.add()).line
        assert await it.next_lines() == [oldest]
        for _ in range(60):
            await asyncio.sleep(1)
            await it.outbox.add()
            if oldest in await it.next_lines():
                return
        raise AssertionError("a busy door never went back to what is not acknowledged")


@in_simulated_time
async def test_a_request_to_resend_counts_also_while_the_next_lines_are_read(tmp_path):
    async with bench(tmp_path) as it:
        lines = [await it.outbox.add() for _ in range(3)]
        seen: list[bytes] = []
        while len(seen) < 3:
            seen += await it.next_lines()
        it.outbox.gate.clear()
        lines.append(await it.outbox.add())
        await asyncio.sleep(0.1)
        await it.acknowledge(lines[0], resend=True)
        await asyncio.sleep(0.1)
        it.outbox.gate.set()
        assert await it.next_lines() == [line.line for line in lines[1:]]


@pytest.mark.parametrize("ticks", range(6))
@in_simulated_time
async def test_an_agents_link_stops_though_its_connection_breaks_at_that_moment(tmp_path, ticks):
    async with bench(tmp_path) as it:
        await it.outbox.add()
        await it.next_lines()
        it.wire.break_off(AGENT)
        for _ in range(ticks):
            await asyncio.sleep(0)
        it.running.cancel()
        await asyncio.wait([it.running], timeout=600)
        assert it.running.cancelled()


@in_simulated_time
async def test_the_servers_link_stops_though_its_connection_breaks_at_that_moment():
    wire = Wire("server", Counter())
    status = LinkStatus("mqtt://localhost:1")

    class Parting(Client):
        async def __aexit__(self, *_: object) -> None:
            raise aiomqtt.MqttError("it broke while it was closed")

    with patch("aiomqtt.Client", lambda *_, **kwargs: Parting(wire, **kwargs)):
        up = asyncio.Event()
        link = ServerLink(
            url=status.broker,
            site=SITE,
            intake=Intake(),
            status=status,
            clock=Clock(),
            metrics=IngestMetrics(CollectorRegistry()),
            uniform=Random(1).uniform,
            client_id=server_id(SITE),
        )
        running = asyncio.create_task(link.run(up.set))
        await up.wait()
        running.cancel()
        await asyncio.wait([running], timeout=600)
        assert running.cancelled()
