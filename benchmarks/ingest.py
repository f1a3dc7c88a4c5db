"""Signed events through mosquitto into the store, beside a plain loop of the same parts.

The floor is what anybody would write in an afternoon: receive with aiomqtt, verify the envelope,
insert in batches of 100 with synchronous=FULL. It checks no chain, acknowledges nothing, serves
nobody. Product and floor take turns, fed by the same publishing process.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiomqtt

from benchmarks.load import SITE, Load, prepare, write
from benchmarks.result import Row
from benchmarks.site import committed, mosquitto, reading, server
from edge_agent.demo.processes import run
from schemas.chain import EVENTS_TYPE
from schemas.envelope import TrustedKey, open_envelope
from schemas.suites import SuiteName, keyid
from schemas.topics import EVENTS, every_up

AGENTS = 8
PAIRS = 3
LIVE_MESSAGES = {"gm": 600, "intl": 1200}  # an agent
BACKLOG_BATCHES = 24
LIMIT_S = 120.0
BATCH = 100


async def _publish(folder: Path, port: int) -> None:
    await run([sys.executable, "-m", "benchmarks.load", str(folder), str(port)])


async def _floor(load: Load, folder: Path, port: int) -> float:
    """Events a second of the plain loop."""
    ring = {
        keyid(key): TrustedKey(key, agent, frozenset({EVENTS_TYPE}))
        for agent, key in load.keys.items()
    }
    database = sqlite3.connect(folder / "floor.db")
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=full")
    database.execute("create table events(agent text, line blob)")
    rows: list[tuple[str, bytes]] = []
    seen, started = 0, 0.0
    async with aiomqtt.Client("127.0.0.1", port, identifier="floor") as client:
        await client.subscribe(every_up(SITE, EVENTS), qos=1)
        publishing = asyncio.create_task(_publish(folder / "load", port))
        async for message in client.messages:
            started = started or time.perf_counter()
            assert isinstance(message.payload, bytes)
            opened = open_envelope(message.payload, ring, EVENTS_TYPE)
            lines = opened.payload.split(b"\n")
            rows += [(opened.holder, line) for line in lines]
            seen += len(lines)
            if len(rows) >= BATCH or seen == load.events:
                database.executemany("insert into events values (?, ?)", rows)
                database.commit()
                rows.clear()
            if seen == load.events:
                break
        elapsed = time.perf_counter() - started
        await publishing
    database.close()
    return load.events / elapsed


async def _product(load: Load, folder: Path, port: int) -> float:
    """Events a second from the first commit to the last, of a whole running server."""
    async with server(folder, load, port) as store:
        publishing = asyncio.create_task(_publish(folder / "load", port))
        await committed(store, load.events, LIMIT_S)
        await publishing
        with reading(store) as database:
            first, last = database.execute(
                "select min(recorded_us), max(recorded_us) from events where source != 'server'"
            ).fetchone()
            (in_first,) = database.execute(
                "select count(*) from events where source != 'server' and recorded_us = ?", [first]
            ).fetchone()
    return float((load.events - in_first) / (last - first) * 1e6)


async def measure(name: SuiteName, *, backlog: bool) -> Row:
    """Product and floor, in turn, PAIRS times."""
    load = (
        prepare(name, AGENTS, BACKLOG_BATCHES, 256)
        if backlog
        else prepare(name, AGENTS, LIVE_MESSAGES[name], 1)
    )
    products: list[float] = []
    floors: list[float] = []
    for _ in range(PAIRS):
        for measured, figures in ((_floor, floors), (_product, products)):
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                write(load, folder / "load")
                async with mosquitto(folder) as port:
                    figures.append(await measured(load, folder, port))
    ratio = statistics.median(p / f for p, f in zip(products, floors, strict=True))
    what = "backlog drain, 256 events a signature" if backlog else "live ingest, one signature each"
    return Row(
        name=f"{what}, {name}",
        value=round(statistics.median(products)),
        unit="events/s",
        floor=round(statistics.median(floors)),
        floor_is="plain loop: receive, verify, insert",
        ratio=round(ratio, 2),
        bar=">= 10,000 events/s" if backlog else ">= 0.7 x floor",
        met=statistics.median(products) >= 10_000 if backlog else ratio >= 0.7,
    )
