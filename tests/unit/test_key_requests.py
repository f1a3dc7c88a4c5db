"""Agents ask for keys: each is answered for itself, in its present session, and not without end."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from schemas.keys import Item, KeyPackage
from schemas.statement import open_statement
from server.clock import SystemClock
from server.distribution.key_requests import BURST, KeyRequests
from tests.esam_desk import EsamDesk
from tests.key_rig import AGENT, DOMAIN, SESSION, command, key_desk, request


class Counter:
    """The broker, the operator, and what an agent's session is."""

    def __init__(self):
        self.sent: asyncio.Queue[tuple[str, bytes, bool]] = asyncio.Queue()
        self.alarms = asyncio.Queue()
        self.session = SESSION
        self.connected = True
        self.refused, self.looked_up = asyncio.Event(), asyncio.Event()
        self.asked = 0

    async def publish(self, topic, payload, retain):
        if not self.connected:
            self.refused.set()
            raise ConnectionError("no broker")
        self.sent.put_nowait((topic, payload, retain))

    @asynccontextmanager
    async def serving(self, desk):
        with ThreadPoolExecutor(1) as executor:
            requests = KeyRequests(
                issuer=desk.issuer,
                signer=desk.site.signer("keys", {}),
                publish=self.publish,
                executor=executor,
                clock=SystemClock(),
                session=self.session_of,
                alarm=self.alarms.put_nowait,
                metrics=CollectorRegistry(),
            )
            task = asyncio.create_task(requests.run())
            try:
                yield requests
            finally:
                task.cancel()

    def session_of(self, agent):
        if agent != AGENT:
            self.looked_up.set()
        return self.session

    def ask(self, requests, esam, *, version=1, agent=AGENT, counter=None, session=SESSION):
        self.asked += 1
        asked = request(esam, Item.KEYS, version, challenge=esam.challenge())
        changes = {"counter": counter or self.asked, "session": session}
        requests.asked(agent, asked.model_copy(update=changes))


@pytest.fixture
async def desk(tmp_path):
    async with key_desk(tmp_path / "site") as opened:
        await opened.authority.create_domain(DOMAIN, "intl", "test")
        yield opened


@pytest.fixture
async def esam(desk):
    esam = EsamDesk("intl").issue()
    await desk.know(esam)
    return esam


@pytest.fixture
def counter():
    return Counter()


async def test_a_package_goes_to_the_agent_alone_signed_by_the_keys_role(desk, esam, counter):
    async with counter.serving(desk) as requests:
        counter.ask(requests, esam)
        topic, payload, retain = await counter.sent.get()
    assert (topic, retain) == (f"ostiary/demo/down/{AGENT}/keys", False)
    package = open_statement(
        payload,
        KeyPackage,
        desk.site.root.key_ring(),
        site="demo",
        audience=AGENT,
        now=SystemClock().now(),
    )
    assert package.session == SESSION
    assert esam.send(command(package)).ok


async def test_what_is_refused_is_an_alarm_and_the_next_is_served(desk, esam, counter):
    async with counter.serving(desk) as requests:
        counter.ask(requests, esam, agent="back-agent")
        alarm = await counter.alarms.get()
        assert (alarm.kind, alarm.agent) == ("key_refused", "back-agent")
        assert "of front-agent" in alarm.detail
        counter.ask(requests, esam, version=9)
        assert "no version 9" in (await counter.alarms.get()).detail
        counter.ask(requests, esam)
        await counter.sent.get()
    assert counter.alarms.empty()


async def test_a_request_of_another_session_or_played_again_gets_nothing(desk, esam, counter):
    async with counter.serving(desk) as requests:
        for session in ("ff" * 8, SESSION):
            counter.session = SESSION if session != SESSION else None
            counter.ask(requests, esam, session=session)
            counter.ask(requests, esam, agent="back-agent", session=session)
            # it is answered after the other, whose session is not the present one
            await counter.looked_up.wait()
            counter.looked_up.clear()
        counter.session = SESSION
        counter.ask(requests, esam, counter=50)
        await counter.sent.get()
        counter.ask(requests, esam, counter=50)
        assert (await counter.alarms.get()).kind == "replayed"
    assert counter.sent.empty()
    assert [name for name, _ in await desk.news()].count("keys.package_made") == 1


async def test_of_one_agents_requests_the_newest_counts(desk, esam, counter):
    async with counter.serving(desk) as requests:
        for _ in range(3):
            counter.ask(requests, esam)
        await counter.sent.get()
        counter.ask(requests, esam, version=2)
        await counter.alarms.get()
    assert counter.sent.empty()


async def test_who_asks_without_end_is_stopped_and_reported(desk, esam, counter):
    async with counter.serving(desk) as requests:
        for _ in range(int(BURST) + 1):
            counter.ask(requests, esam)
        assert "too many keys" in (await counter.alarms.get()).detail
        other = EsamDesk("intl", serial=b"OTHERESA").issue()
        await desk.know(other, agent="back-agent")
        counter.ask(requests, other, agent="back-agent")
        topics = {(await counter.sent.get())[0] for _ in range(2)}
    assert topics == {f"ostiary/demo/down/{each}/keys" for each in (AGENT, "back-agent")}


async def test_a_broker_that_is_away_stops_nobody_else(desk, esam, counter):
    counter.connected = False
    async with counter.serving(desk) as requests:
        counter.ask(requests, esam)
        await counter.refused.wait()
        counter.connected = True
        counter.ask(requests, esam)
        await counter.sent.get()
    assert counter.alarms.empty()
