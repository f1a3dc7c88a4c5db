"""Fault schedules of real processes: broker, server and agents are killed and frozen by seed."""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import httpx

from edge_agent.demo import figures
from edge_agent.demo.building import Building
from edge_agent.demo.cast import CAST
from edge_agent.demo.processes import command, run, whole_lines
from edge_agent.demo.show import settled
from schemas.events import event_name
from tests.building_rig import (
    DOORS,
    kill,
    order,
    running_building,
    start_again,
    tap_on_and_on,
)
from tests.chaos.schedule import Outcome
from tests.chaos.witness import Violated

ALL_CLEAR = ("door.forced", "door.held", "door.held_prealarm", "door.fault", "alarm.raised")
"""Events that nothing these people do can cause."""
CHEN = next(person.serial.hex() for person in CAST if person.name == "chen")


@asynccontextmanager
async def real_building(seed: int) -> AsyncIterator[Building]:
    """A site that runs; with an even seed mosquitto and SM2, else the built-in broker and P-256."""
    with tempfile.TemporaryDirectory(prefix="ostiary-chaos-") as folder:
        if seed % 2 == 0:
            building = running_building(Path(folder), "gm", "mosquitto")
        else:
            building = running_building(Path(folder), "intl", "builtin")
        async with building as runs:
            yield runs


async def run_real_schedule(building: Building, seed: int) -> Outcome:
    """Kill and freeze while people tap and an operator works, then see to what was promised.

    Raises Violated.
    """
    began = time.monotonic()
    dice = Random(seed)
    tally: Counter[str] = Counter()
    people = [asyncio.create_task(tap_on_and_on(building, door)) for door in DOORS]
    people.append(asyncio.create_task(_operate(building, Random(f"{seed} operator"), tally)))
    try:
        for _ in range(3 + int(dice.random() * 4)):
            await asyncio.sleep(dice.random())
            victims = dice.sample([*DOORS, "server", "broker"], dice.choice((1, 1, 1, 2, 4)))
            if dice.random() < 0.25:
                await _freeze(building, victims, dice.random() * 4, tally)
            else:
                tally.update(f"killed {name}" for name in victims)
                await kill(building, *victims)
                await asyncio.sleep(dice.random() * 2)
                await start_again(building, *victims)
        await asyncio.sleep(1)
    finally:
        for person in people:
            person.cancel()
        await asyncio.gather(*people, return_exceptions=True)
    events = await _check(building)
    return Outcome(events, time.monotonic() - began, tally)


async def _operate(building: Building, dice: Random, tally: Counter[str]) -> None:
    """Someone who gives orders, and tries others when the server is away."""
    while True:
        await asyncio.sleep(dice.random() * 1.5)
        match dice.choice(("revoke", "lock down", "end", "pulse", "pulse")):
            case "revoke":
                card = dice.choice((CHEN, f"{dice.getrandbits(48):016x}"))
                body = {"revocations": [{"kind": "card", "subject": card, "reason": "lost"}]}
                answer = await order(building, "POST", "/api/v1/revocations", body)
                done = "revoke"
            case "lock down":
                place: dict[str, str] = dice.choice(
                    ({"scope": "site"}, {"scope": "door", "name": DOORS[0]})
                )
                answer = await order(building, "POST", "/api/v1/lockdowns", place)
                done = "lock down"
            case "end":
                answer = await order(building, "DELETE", "/api/v1/lockdowns")
                done = "end lockdowns"
            case _:
                door = dice.choice(DOORS)
                path = f"/api/v1/doors/{door}/commands"
                answer = await order(building, "POST", path, {"action": "pulse"})
                done = "pulse"
        tally[f"{done}: {'no answer' if answer is None else 'answered'}"] += 1


async def _freeze(building: Building, names: list[str], for_s: float, tally: Counter[str]) -> None:
    processes = [building.children[name].process for name in names]
    tally.update(f"froze {name}" for name in names)
    for process in processes:
        assert process is not None
        process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(for_s)
    for process in processes:
        assert process is not None
        process.send_signal(signal.SIGCONT)


async def _check(building: Building) -> int:
    await order(building, "DELETE", "/api/v1/lockdowns")
    await building.office.converged()
    recorded = await settled(building)
    building.check()
    async with httpx.AsyncClient(base_url=building.url, trust_env=False, timeout=60) as client:
        events = await figures.all_events(client)
    if missing := figures.missing(events, recorded):
        raise Violated(f"{missing} events are missing")
    if twice := figures.duplicates(events):
        raise Violated(f"{twice} events are there twice")
    of_agents = [event for event in events if "/agents/" in event["source"]]
    # a door may relock, and say so, after all was settled
    written = [(await building.status(door))["sequence"] for door in DOORS]
    if len(of_agents) > sum(written):
        raise Violated("the server has lines that no agent has")
    if false := {name: n for name in ALL_CLEAR if (n := figures.count(events, name))}:
        raise Violated(f"nobody caused {false}")
    granted = {event["id"] for event in events if event["type"].endswith("access.granted.v1")}
    for door in DOORS:
        pulses = _strikes(building.log(door)) - granted
        # a disk that takes longer than 100 ms does not hold the door: that is said, and stored late
        if pulses := {grant for grant in pulses if not grant.startswith("unstored-")}:
            raise Violated(f"{door}: the strike was released without a stored grant: {pulses}")
    _check_orders(events)
    verify = command("ostiary", "events", "verify", "--json", "--site-dir", building.site)
    verdict = json.loads(await run(verify))
    if not verdict["ok"] or verdict["events"] < len(events):
        raise Violated(f"the store does not verify: {verdict}")
    return len(events)


def _check_orders(events: list[figures.Event]) -> None:
    """Who was denied came in no more, and what was commanded was done once."""
    denied: dict[str, int] = {}
    sent: set[str] = set()
    done: Counter[str] = Counter()
    for event in events:
        data = event["data"]
        match event_name(event["type"]):
            case "revocation.requested" if data["kind"] == "card":
                denied[data["subject"]] = min(
                    data["sequence"], denied.get(data["subject"], 1 << 60)
                )
            case "command.sent":
                sent.add(data["command"])
            case "command.executed":
                done[data["command"]] += 1
    for event in events:
        if event_name(event["type"]) == "access.granted":
            data = event["data"]
            if data["revocation_seq"] >= denied.get(data["card"], 1 << 60):
                raise Violated(f"{data['card']} came in at a door that had its revocation: {event}")
    if twice := [name for name, times in done.items() if times > 1]:
        raise Violated(f"commands were executed twice: {twice}")
    if unknown := done.keys() - sent:
        raise Violated(f"nobody gave the commands {unknown}")
    locked: dict[str, list[str]] = {}
    for event in events:
        data, source = event["data"], event["source"]
        match event_name(event["type"]):
            case "lockdown.applied":
                locked[source] = data["doors"]
            case "access.granted" if data["door"] in locked.get(source, ()):
                raise Violated(f"{data['card']} came in at a door that was locked down: {event}")


def _strikes(log: Path) -> set[str]:
    released = (json.loads(line) for line in whole_lines(log) if '"strike_released"' in line)
    return {entry["grant"] for entry in released}
