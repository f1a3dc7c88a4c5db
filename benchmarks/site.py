"""A broker and a server of this installation, real and separate, for one measurement."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.load import SITE, Load
from edge_agent.demo.building import healthy
from edge_agent.demo.mosquitto import mosquitto_program
from edge_agent.demo.processes import Child, command, free_port, listens, run, until
from schemas.suites import PublicKey, Suite
from server.clock import SystemClock, microseconds
from server.store.agents import insert_agent
from server.store.database import open_database

_CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 100
user root
log_type error
"""


def open_mosquitto(folder: Path, port: int) -> list[str]:
    """What starts it on loopback for whoever is there: to measure without TLS.

    Raises ProcessFailed.
    """
    configuration = folder / "mosquitto.conf"
    configuration.write_text(_CONFIGURATION.format(port=port))
    return [mosquitto_program(), "-c", str(configuration)]


@contextlib.asynccontextmanager
async def mosquitto(folder: Path) -> AsyncIterator[int]:
    """A mosquitto on a free port."""
    port = free_port()
    broker = Child("mosquitto", open_mosquitto(folder, port), folder / "mosquitto.log")
    async with _running(broker, lambda: listens(port)):
        yield port


@contextlib.asynccontextmanager
async def _running(child: Child, ready: Callable[[], Awaitable[bool]]) -> AsyncIterator[None]:
    await child.start()
    try:
        await until(child, ready)
        yield
    finally:
        await child.stop()


@contextlib.asynccontextmanager
async def server(folder: Path, load: Load, broker_port: int) -> AsyncIterator[Path]:
    """A new site with the load's agents, served; yields the path of its store."""
    site = folder / "site"
    name = load.suite.name
    await run(command("ostiary", "init", "--site", SITE, "--suite", name, "--dir", site))
    await register(site / "ostiary.db", load.suite, load.keys)
    port = free_port()
    broker = f"mqtt://127.0.0.1:{broker_port}"
    serving = command(
        "ostiary", "serve", "--site-dir", site, "--port", str(port), "--broker", broker
    )
    ports = {"OSTIARY_ENROL_PORT": str(free_port())}
    child = Child("server", serving, folder / "server.log", ports)
    async with _running(child, lambda: healthy(f"http://127.0.0.1:{port}/")):
        yield site / "ostiary.db"


async def register(database: Path, suite: Suite, keys: Mapping[str, PublicKey]) -> None:
    """Let the server know the agents, as their enrolment would have."""
    engine = await open_database(database)
    now_us = microseconds(SystemClock().now())
    async with engine.begin() as connection:
        for number, (agent, key) in enumerate(keys.items()):
            await insert_agent(connection, agent, suite, key.point, now_us + number)
    await engine.dispose()


def spent_s(child: Child) -> float:
    """The processor time that a running process has spent so far."""
    assert child.process is not None
    fields = Path(f"/proc/{child.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def reading(store: Path) -> Iterator[sqlite3.Connection]:
    """The store, read beside the running server."""
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


async def committed(store: Path, events: int, limit_s: float) -> None:
    """Return when the store holds `events` events of agents."""
    deadline = time.monotonic() + limit_s
    while True:
        with reading(store) as database:
            (count,) = database.execute(
                "select count(*) from events where source != 'server'"
            ).fetchone()
        if count >= events:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"only {count} of {events} events were committed in {limit_s} s")
        await asyncio.sleep(0.2)
