"""From a card in the field to the strike: the software's share, at a real agent process.

The virtual card answers over the agent's Unix socket, so the figure holds its time too. The floor
is what cannot be left out: one durable commit of a line of that size.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from pathlib import Path

from benchmarks.result import Row
from edge_agent.demo.building import Building
from edge_agent.demo.figures import Percentiles, strike_latencies
from schemas.suites import SuiteName

TAPS = 300
LINE_BYTES = 700


async def measure(name: SuiteName) -> list[Row]:
    """One door, one card, TAPS taps one after the other."""
    with tempfile.TemporaryDirectory() as temporary:
        building = Building(Path(temporary), name, ["front"])
        try:
            await building.set_up()
            await building.start()
            async with building.doorway("front") as doorway:
                for _ in range(TAPS):
                    outcome = await building.tap(doorway, "alice")
                    assert outcome == "granted", outcome
        finally:
            await building.stop()
        figures = Percentiles.of(strike_latencies([building.log("front")]))
        floor = _commits(Path(temporary) / "floor.db")
    assert figures.p99 is not None
    assert figures.p50 is not None
    assert floor.p50 is not None
    return [
        Row(
            name=f"tap to strike, p99, {name}",
            value=figures.p99,
            unit="ms",
            bar="<= 20 ms",
            met=figures.p99 <= 20,
        ),
        Row(
            name=f"tap to strike, p50, {name}",
            value=figures.p50,
            unit="ms",
            floor=floor.p50,
            floor_is="one durable commit, p50",
            ratio=round(figures.p50 / floor.p50, 1) if floor.p50 else None,
            bar="",
            met=True,
        ),
    ]


def _commits(path: Path) -> Percentiles:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE events (line BLOB)")
    elapsed_ms = []
    for _ in range(TAPS):
        started = time.perf_counter()
        database.execute("INSERT INTO events VALUES (?)", [bytes(LINE_BYTES)])
        elapsed_ms.append((time.perf_counter() - started) * 1000)
    database.close()
    return Percentiles.of(elapsed_ms)
