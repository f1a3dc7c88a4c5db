"""A whole server in this process, and an agent's connection to it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiomqtt
import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.acknowledgement import Acknowledgement
from schemas.statement import open_statement
from schemas.suites import Suite, SuiteName
from schemas.topics import ACKNOWLEDGEMENT, down
from server.app import Serving, serve
from server.cli.remote import Running
from server.config import BUILTIN, ServerConfig
from server.site import Site, create_site
from server.store.agents import insert_agent
from server.store.database import open_database
from server.store.events import StoredEvent, read_after
from tests.agent_pen import SITE, Pen

LIMIT_S = 60


async def make_site(path: Path, *pens: Pen, suite_name: SuiteName = "intl") -> Site:
    site = create_site(path, SITE, suite_name, secrets.token_bytes, {})
    engine = await open_database(site.database)
    for pen in pens:
        await register(site, pen)
    await engine.dispose()
    return site


async def register(site: Site, pen: Pen) -> None:
    engine = await open_database(site.database)
    await add_agent(engine, pen.agent, pen.suite, pen.signer.key.public.point, 1)
    await engine.dispose()


async def add_agent(engine: AsyncEngine, agent: str, suite: Suite, point: bytes, us: int) -> None:
    async with engine.begin() as connection:
        await insert_agent(connection, agent, suite, point, us)


@asynccontextmanager
async def running(
    site: Site, broker: str = BUILTIN, *, broker_port: int = 0
) -> AsyncIterator[Serving]:
    """The whole server; its own broker asks for no certificates, so that pens need none."""
    stop, ready = asyncio.Event(), asyncio.Future[Serving]()
    config = ServerConfig(
        port=0,
        broker=broker,
        broker_port=broker_port,
        enrol_port=0,
        insecure_loopback=broker == BUILTIN,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(serve(site, config, {}, stop=stop, ready=ready.set_result))
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        try:
            yield await ready
        finally:
            stop.set()


@asynccontextmanager
async def administering(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    """The API of the site's server, which runs, for who may do all."""
    local = Running.model_validate_json((site.path / "run.json").read_bytes())
    async with httpx.AsyncClient(
        base_url=local.url, headers={"Authorization": f"Bearer {local.token}"}, timeout=LIMIT_S
    ) as api:
        yield api


def word_of(message: aiomqtt.Message, pen: Pen, site: Site) -> Acknowledgement:
    """The acknowledgement in a message, of a line that the pen wrote."""
    assert isinstance(message.payload, bytes)
    word = open_statement(
        message.payload,
        Acknowledgement,
        site.root.key_ring(),
        site=SITE,
        audience=pen.agent,
        now=datetime.now(UTC),
    )
    assert word.chain == pen.head.chain
    if word.sequence:
        assert word.hash == pen.digest(word.sequence)
    return word


class Agent:
    """A connection that publishes what it is told to and reads acknowledgements."""

    def __init__(self, client: aiomqtt.Client, pen: Pen, site: Site) -> None:
        self.client, self.pen, self.site = client, pen, site

    async def send(self, *messages: bytes, topic: str | None = None) -> None:
        for message in messages:
            await self.client.publish(topic or self.pen.topic, message, qos=1)

    async def acknowledged(self, sequence: int, *, resend: bool | None = None) -> Acknowledgement:
        """Wait for the acknowledgement of `sequence` (or beyond)."""
        async with asyncio.timeout(LIMIT_S):
            async for message in self.client.messages:
                assert not message.retain
                word = word_of(message, self.pen, self.site)
                if word.sequence >= sequence and resend in (None, word.resend):
                    return word
        raise AssertionError("the connection ended")


@asynccontextmanager
async def agent(serving: Serving, pen: Pen, site: Site) -> AsyncIterator[Agent]:
    host, _, port = serving.broker.removeprefix("mqtt://").partition(":")
    async with aiomqtt.Client(host, int(port)) as client:
        await client.subscribe(down(SITE, pen.agent, ACKNOWLEDGEMENT), qos=1)
        yield Agent(client, pen, site)


async def stored(site: Site) -> list[StoredEvent]:
    engine = await open_database(site.database)
    try:
        return await read_after(engine, 0, 100_000)
    finally:
        await engine.dispose()


async def until_stored(site: Site, wanted: Callable[[list[StoredEvent]], bool]) -> None:
    engine = await open_database(site.database)
    try:
        async with asyncio.timeout(LIMIT_S):
            while not wanted(await read_after(engine, 0, 1000)):  # noqa: ASYNC110 another writes
                await asyncio.sleep(0.02)
    finally:
        await engine.dispose()
