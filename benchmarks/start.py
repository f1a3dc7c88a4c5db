"""How soon a server with 10,000 doors and 100,000 persons serves again, and in how much memory.

The site is one that has been running: every agent has a chain, receipts and a signed policy, which
an earlier run of the server made. Then the server is started once more, and asked until it answers
and has looked through everything.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from sqlalchemy import Table, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.result import Row
from benchmarks.site import mosquitto, reading, spent_s
from edge_agent.demo.building import healthy
from edge_agent.demo.processes import Child, command, free_port, run
from schemas.card_chunks import slots
from schemas.suites import SuiteName, keyid, suite
from server.ingest.receipts import Applied
from server.store import model_tables as tables
from server.store.database import open_database
from server.store.receipt_tables import applied, presence
from server.store.tables import agents, chains, door_states

DOORS, PERSONS, GROUPS = 10_000, 100_000, 1_000
SETTLE_S = 5.0
PATIENCE_S = 900.0
POLL_S = 0.05
_ROWS_AT_ONCE = 10_000


async def measure(name: SuiteName = "intl") -> list[Row]:
    """Two figures: seconds to the first answer, and the most memory in the first seconds."""
    with tempfile.TemporaryDirectory(prefix="ostiary-start-") as temporary:
        folder = Path(temporary)
        site = folder / "site"
        await run(command("ostiary", "init", "--site", "bench", "--suite", name, "--dir", site))
        engine = await open_database(site / "ostiary.db")
        await _describe(engine, name)
        await engine.dispose()
        async with mosquitto(folder) as port:
            began_s = time.monotonic()
            async with _server(folder, port):
                await _compiled(site / "ostiary.db")
            compiled_s = time.monotonic() - began_s
            began_s = time.monotonic()
            async with _server(folder, port) as (child, client):
                started_s, cpu_s = time.monotonic() - began_s, spent_s(child)
                before_s = time.monotonic()
                answer = await client.get("/api/v1/doors/status")
                status_s = time.monotonic() - before_s
                assert len(answer.json()["doors"]) == DOORS
                await asyncio.sleep(SETTLE_S)
                memory_mib = _peak_mib(child)
    of = f"{DOORS:,} doors, {PERSONS:,} persons"
    return [
        Row(f"first policies, {of}", round(compiled_s, 1), "s", "reported", True),
        Row(f"server start, {of}", round(started_s, 1), "s", "<= 10 s", started_s <= 10),
        Row(f"processor time of the start, {of}", round(cpu_s, 1), "s", "reported", True),
        Row(f"status of all doors, {of}", round(status_s, 2), "s", "reported", True),
        Row(f"memory, {of}", round(memory_mib), "MiB", "<= 1,024 MiB", memory_mib <= 1024),
    ]


@asynccontextmanager
async def _server(folder: Path, broker: int) -> AsyncIterator[tuple[Child, httpx.AsyncClient]]:
    """A server that answers."""
    port, site = free_port(), folder / "site"
    serving = command(
        *("ostiary", "serve", "--site-dir", site, "--port", str(port)),
        *("--broker", f"mqtt://127.0.0.1:{broker}"),
    )
    child = Child(
        "server", serving, folder / "server.log", {"OSTIARY_ENROL_PORT": str(free_port())}
    )
    await child.start()
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await healthy(f"{url}/"):
                child.check()
                await asyncio.sleep(POLL_S)
        token = json.loads((site / "run.json").read_bytes())["token"]
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(
            base_url=url, headers=headers, trust_env=False, timeout=PATIENCE_S
        ) as client:
            yield child, client
    finally:
        await child.stop()


async def _compiled(store: Path) -> None:
    """Return when every agent has a policy, and events tell of all."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with reading(store) as database:
                (made,) = database.execute("select count(*) from policies").fetchone()
                (waiting,) = database.execute("select count(*) from announcements").fetchone()
            if made >= DOORS and not waiting:
                return
            await asyncio.sleep(1.0)


def _peak_mib(child: Child) -> float:
    assert child.process is not None
    status = Path(f"/proc/{child.process.pid}/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak) / 1024


async def _describe(engine: AsyncEngine, name: SuiteName) -> None:
    """A hundred persons in each group, and for each group a rule at ten doors."""
    one = {"name": "", "revision": 1}
    always = '[{"days":["mon","tue","wed","thu","fri","sat","sun"],"start":"00:00","end":"24:00"}]'
    schedule = one | {"id": "always", "windows": always, "special_days": "{}"}
    people, doors = range(PERSONS), range(DOORS)
    ids = [f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}" for n in people]
    card = {"state": "active", "note": "", "offline": False, "cleared": 0, "revision": 1}
    door = one | {"readers": "in", "behaviour": "{}"}
    rows: list[tuple[Table, Iterable[Mapping[str, object]]]] = [
        (tables.schedules, [schedule]),
        (tables.groups, (one | {"id": f"g{n}"} for n in range(GROUPS))),
        (tables.persons, (one | {"id": f"p{n}", "note": "", "cleared": 0} for n in people)),
        (tables.memberships, ({"person": f"p{n}", "group": f"g{n % GROUPS}"} for n in people)),
        (
            tables.cards,
            (card | {"id": i, "person": f"p{n}", "slot": _slot(i)} for n, i in enumerate(ids)),
        ),
        (
            tables.doors,
            (door | {"id": f"d{n}", "agent": f"a{n}", "domain": f"d{n}"} for n in doors),
        ),
        (
            tables.rules,
            (one | {"id": f"r{n}", "group": f"g{n}", "schedule": "always"} for n in range(GROUPS)),
        ),
        (tables.rule_doors, ({"rule": f"r{n % GROUPS}", "door": f"d{n}"} for n in doors)),
        (agents, (_agent(f"a{n}", name) for n in doors)),
        (chains, (_chain(f"a{n}", n) for n in doors)),
        (applied, (_columns(Applied(f"a{n}", time_us=1)) for n in doors)),
        (presence, ({"agent": f"a{n}", "online": True, "changed_us": 1} for n in doors)),
        (door_states, (_state(f"d{n}", f"a{n}") for n in doors)),
    ]
    for table, values in rows:
        every = list(values)
        for start in range(0, len(every), _ROWS_AT_ONCE):
            async with engine.begin() as connection:
                await connection.execute(insert(table), every[start : start + _ROWS_AT_ONCE])


def _slot(card: str) -> int:
    first, second = slots(card)
    return 64 * int(first, 16) + int(second, 16)


def _agent(agent: str, name: SuiteName) -> dict[str, object]:
    public = suite(name).generate(secrets.token_bytes).public
    return {
        "id": agent,
        "suite": name,
        "point": public.point,
        "keyid": keyid(public),
        "added_us": 1,
    }


def _chain(agent: str, number: int) -> dict[str, object]:
    return {
        "source": agent,
        "chain": secrets.token_hex(8),
        "first_seen_us": number + 1,
        "sequence": 1000,
        "hash": secrets.token_hex(32),
    }


def _columns(of: Applied) -> dict[str, object]:
    return {name: getattr(of, name) for name in Applied.__slots__}


def _state(door: str, agent: str) -> dict[str, object]:
    state = {"contact": "closed", "mode": "locked", "alarm": "normal"}
    return {"door": door, "agent": agent, **state, "changed_us": 1, "position": 1}
