"""A site with thousands of imagined doors: a broker, a server, and the fleet, each a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from benchmarks.site import open_mosquitto, reading, register, spent_s
from edge_agent.demo.building import healthy
from edge_agent.demo.processes import Child, command, free_port, listens, run, until, whole_lines
from schemas.events import event_type
from schemas.suites import SuiteName, suite

PEOPLE = 100
PATIENCE_S = 600.0


class Receipt(NamedTuple):
    """An agent's word that it has applied a revocation, in microseconds of the one clock here."""

    position: int
    source: str
    applied_us: int
    committed_us: int
    sequence: int


@dataclass
class FleetSite:
    """What is running, and how to speak to it."""

    folder: Path
    doors: int
    broker: Child
    client: httpx.AsyncClient
    children: Sequence[Child]

    @property
    def store(self) -> Path:
        """The server's database, to be read beside it."""
        return self.folder / "site" / "ostiary.db"

    def fleet_says(self) -> dict[str, Any]:
        """The fleet's newest line."""
        lines = whole_lines(self.folder / "fleet.log")
        said: dict[str, Any] = next((json.loads(t) for t in reversed(lines) if t[:1] == "{"), {})
        return said

    def tell_fleet(self, number: signal.Signals) -> None:
        """Send the fleet's process a signal."""
        (fleet,) = (child for child in self.children if child.name == "fleet")
        assert fleet.process is not None
        fleet.process.send_signal(number)

    def position(self) -> int:
        """The position of the newest event."""
        with reading(self.store) as database:
            (position,) = database.execute("select max(position) from events").fetchone()
            return int(position or 0)

    def receipts(self, after: int) -> list[Receipt]:
        """The receipts for revocations that were committed beyond a position, in their order."""
        with reading(self.store) as database:
            rows = database.execute(
                "select position, source, time_us, recorded_us,"
                " cast(line ->> '$.data.sequence' as integer) from events"
                " where position > ? and type = ? order by position",
                [after, event_type("revocation.applied")],
            )
            return [Receipt(*row) for row in rows]

    def cpu_s(self) -> dict[str, float]:
        """The processor time that each process has spent so far."""
        return {child.name: spent_s(child) for child in self.children}

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """The server's API."""
        answer = await self.client.request(method, path, json=body)
        if not answer.is_success:
            raise SystemExit(f"{method} {path}: {answer.text[:500]}")
        return answer.json() if answer.content else None

    async def converged(self, what: str) -> float:
        """Wait until every door has confirmed everything; how many seconds that took."""
        began_s = time.monotonic()
        while True:
            doors = (await self.call("GET", "/api/v1/doors/status"))["doors"]
            behind = [d for d in doors if d["state"] != "converged" or not d["desired"]["policy"]]
            if len(doors) == self.doors and not behind:
                return time.monotonic() - began_s
            if time.monotonic() - began_s > PATIENCE_S:
                raise SystemExit(f"{what}: {len(behind)} of {len(doors)} doors are behind")
            await asyncio.sleep(max(0.5, self.doors / 2000))


async def _nothing(_site: Path, _entries: Sequence[Mapping[str, Any]]) -> None:
    return


@contextlib.asynccontextmanager
async def fleet_site(
    folder: Path,
    name: SuiteName,
    doors: int,
    *,
    domain: str = "",
    running: Sequence[str] = (),
    prepare: Callable[[Path, Sequence[Mapping[str, Any]]], Awaitable[None]] = _nothing,
) -> AsyncIterator[FleetSite]:
    """A new site whose doors are all there, and have their policies.

    With a `domain` all doors share it, and each lock has an ESAM. `running` are words for
    `ostiary-fleet run`; `prepare` is given the site, not served yet, and the fleet's keys.
    """
    site, keys = folder / "site", folder / "fleet.keys"
    await run(command("ostiary", "init", "--site", "bench", "--suite", name, "--dir", site))
    chips = ("--esam-domain", domain) if domain else ()
    making = ("ostiary-fleet", "make", keys, "--doors", str(doors), "--suite", name, *chips)
    await run(command(*making))
    entries = [json.loads(line) for line in keys.read_text().splitlines()]
    points = {entry["agent"]: bytes.fromhex(entry["point"]) for entry in entries}
    keys_of = {agent: suite(name).public_key(point) for agent, point in points.items()}
    await register(site / "ostiary.db", suite(name), keys_of)
    await prepare(site, entries)
    port, broker_port = free_port(), free_port()
    broker = Child("mosquitto", open_mosquitto(folder, broker_port), folder / "mosquitto.log")
    serving = Child(
        "server",
        command(
            *("ostiary", "serve", "--site-dir", site, "--port", str(port)),
            *("--broker", f"mqtt://127.0.0.1:{broker_port}"),
        ),
        folder / "server.log",
        {"OSTIARY_ENROL_PORT": str(free_port())},
    )
    fleet = Child(
        "fleet",
        command(
            *("ostiary-fleet", "run", keys, "--root", site / "root.json"),
            *("--port", str(broker_port), "--json", *running),
        ),
        folder / "fleet.log",
    )
    url = f"http://127.0.0.1:{port}"
    try:
        await broker.start()
        await until(broker, lambda: listens(broker_port))
        await serving.start()
        await until(serving, lambda: healthy(f"{url}/"))
        token = json.loads((site / "run.json").read_bytes())["token"]
        async with httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=PATIENCE_S,
        ) as client:
            there = FleetSite(folder, doors, broker, client, (serving, broker, fleet))
            await there.call("POST", "/api/v1/site-document", _document(doors, domain))
            await fleet.start()
            await there.converged("the first policies")
            yield there
    finally:
        for child in (fleet, serving, broker):
            await child.stop()


def card(number: int) -> str:
    """The id of one person's card."""
    return f"{number:016x}"


def _document(doors: int, domain: str) -> dict[str, Any]:
    shared = {"settings": {"domain": domain}} if domain else {}
    every_day = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    people = range(1, PEOPLE + 1)
    return {
        "schedules": {
            "always": {"windows": [{"start": "00:00", "end": "24:00", "days": every_day}]}
        },
        "areas": {"inside": {}},
        "doors": {
            f"door-{n}": {"agent": f"agent-{n}", "area": "inside"} | shared
            for n in range(1, doors + 1)
        },
        "groups": {"staff": {}},
        "persons": {f"person-{n}": {"groups": ["staff"]} for n in people},
        "cards": {card(n): {"person": f"person-{n}"} for n in people},
        "rules": {"staff": {"group": "staff", "areas": ["inside"], "schedule": "always"}},
    }
