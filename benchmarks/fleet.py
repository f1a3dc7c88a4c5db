"""How fast thousands of doors follow: revocations, a changed card, a broker that restarts, orders.

The doors are imagined (`ostiary-fleet`), the protocol, the broker and the server are real. All of
it shares this machine's cores: the fleet's own work, which thousands of devices would do side by
side, is part of every figure, and its share is shown.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from datetime import datetime
from pathlib import Path

from benchmarks.fleet_site import FleetSite, Receipt, card, fleet_site
from benchmarks.result import Row
from edge_agent.demo.figures import Percentiles
from edge_agent.demo.processes import listens, until
from schemas.suites import SuiteName
from server.clock import microseconds

REVOCATIONS = 10
COMMANDS = 50
LOOK_S = 0.05
PATIENCE_S = 120.0
BAR_MS = {1_000: 1_000.0, 10_000: 2_000.0}


async def measure(name: SuiteName, doors: int) -> list[Row]:
    """All four, on one site."""
    with tempfile.TemporaryDirectory(prefix="ostiary-fleet-") as folder:
        began_s = time.monotonic()
        async with fleet_site(Path(folder), name, doors) as site:
            label = f"{doors:,} doors, {name}"
            first = Row(
                f"first policies and log, {label}",
                round(time.monotonic() - began_s, 1),
                "s",
                "reported",
                True,
            )
            return [
                first,
                *await _revocations(site, label),
                await _commands(site, label),
                await _one_card(site, label),
                await _reconnection(site, label),
            ]


async def _revocations(site: FleetSite, label: str) -> list[Row]:
    stages: dict[str, list[float]] = {name: [] for name in ("written", "first", "last")}
    applied_ms: list[float] = []
    committed_ms: list[float] = []
    cpu_s = site.cpu_s()
    for number in range(1, REVOCATIONS + 1):
        after = site.position()
        asked_us = time.time_ns() // 1000
        order = {"kind": "card", "subject": card(number), "reason": "left"}
        answer = await site.call("POST", "/api/v1/revocations", {"revocations": [order]})
        stages["written"].append((time.time_ns() // 1000 - asked_us) / 1000)
        receipts = await _receipts(site, int(answer["items"][0]["sequence"]), after)
        applied = [(each.applied_us - asked_us) / 1000 for each in receipts]
        stages["first"].append(min(applied))
        stages["last"].append(max((each.committed_us - asked_us) / 1000 for each in receipts))
        applied_ms += applied
        committed_ms += [(each.committed_us - asked_us) / 1000 for each in receipts]
        await asyncio.sleep(1.0)
    spent_s = {name: now - cpu_s[name] for name, now in site.cpu_s().items()}
    applied_is, committed_is = Percentiles.of(applied_ms), Percentiles.of(committed_ms)
    bar = BAR_MS.get(site.doors, float("inf"))
    what = f"revocation, {label}"

    def reported(name: str, value: float | None) -> Row:
        return Row(f"{what}: {name}", round(value or 0, 1), "ms", "reported", True)

    return [
        reported("asked to written down, p50", Percentiles.of(stages["written"]).p50),
        reported("asked to the first door's deed, p50", Percentiles.of(stages["first"]).p50),
        reported("asked to deed, p50", applied_is.p50),
        reported("asked to deed, p99", applied_is.p99),
        reported("asked to receipt, p50", committed_is.p50),
        Row(
            f"{what}: asked to receipt, p99",
            committed_is.p99 or 0,
            "ms",
            f"<= {bar:,.0f} ms",
            (committed_is.p99 or 0) <= bar,
        ),
        reported("asked to the last receipt, p50", Percentiles.of(stages["last"]).p50),
        *(
            Row(
                f"{what}: processor time of the {name} (with a second of rest)",
                round(of_s / REVOCATIONS, 3),
                "s",
                "reported",
                True,
            )
            for name, of_s in spent_s.items()
        ),
    ]


async def _receipts(site: FleetSite, sequence: int, after: int) -> list[Receipt]:
    """The first receipt of each door for the entry, once all have given one."""
    deadline_s = time.monotonic() + PATIENCE_S
    first: dict[str, Receipt] = {}
    while len(first) < site.doors:
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{len(first)} of {site.doors} doors confirmed entry {sequence}")
        await asyncio.sleep(LOOK_S)
        for receipt in site.receipts(after):
            after = receipt.position
            if receipt.sequence >= sequence:
                first.setdefault(receipt.source, receipt)
    return list(first.values())


async def _commands(site: FleetSite, label: str) -> Row:
    times = []
    for number in range(COMMANDS):
        door = f"door-{number * site.doors // COMMANDS + 1}"
        path = f"/api/v1/doors/{door}/commands"
        began_s = time.monotonic()
        await site.call("POST", path, {"action": "pulse"})
        times.append((time.monotonic() - began_s) * 1000)
    p99 = Percentiles.of(times).p99 or 0
    return Row(
        f"operator's order to the signed result, p99, {label}", p99, "ms", "<= 500 ms", p99 <= 500
    )


async def _one_card(site: FleetSite, label: str) -> Row:
    path = f"/api/v1/cards/{card(50)}"
    body = {"person": "person-50", "state": "suspended"}
    began_s = time.monotonic()
    await site.call("PUT", path, body)
    await asyncio.sleep(2.5)  # policies wait for a moment in which nothing else is changed
    await site.converged("one changed card")
    spent_s = time.monotonic() - began_s
    return Row(
        f"one card changed at every door, to the last receipt, {label}",
        round(spent_s, 1),
        "s",
        "reported",
        True,
    )


async def _reconnection(site: FleetSite, label: str) -> Row:
    before = datetime.now().astimezone()
    await site.broker.kill()
    began_s = time.monotonic()
    await site.broker.start()
    await until(site.broker, lambda: listens(_port_of(site)))
    while True:
        doors = (await site.call("GET", "/api/v1/doors/status"))["doors"]
        heard = [d for d in doors if d["last_heard"] and _later(d["last_heard"], before)]
        fleet = site.fleet_says()
        back = fleet["connected"] == site.doors and not fleet["waiting_events"]
        if back and len(heard) == site.doors and all(d["state"] == "converged" for d in doors):
            break
        if time.monotonic() - began_s > PATIENCE_S:
            raise SystemExit(
                f"{len(heard)} of {site.doors} doors were heard again,"
                f" {fleet['waiting_events']} events are not acknowledged"
            )
        await asyncio.sleep(0.5)
    spent_s = time.monotonic() - began_s
    return Row(
        f"every door back after a broker's restart, every event acknowledged, {label}",
        round(spent_s, 1),
        "s",
        "<= 60 s",
        spent_s <= 60,
    )


def _later(text: str, moment: datetime) -> bool:
    return microseconds(datetime.fromisoformat(text)) > microseconds(moment)


def _port_of(site: FleetSite) -> int:
    configuration = (site.folder / "mosquitto.conf").read_text()
    return int(configuration.split()[1])
