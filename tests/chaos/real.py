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
from itertools import cycle
from pathlib import Path
from random import Random

import httpx

from edge_agent.demo import figures
from edge_agent.demo.building import Building
from edge_agent.demo.processes import command, run
from edge_agent.demo.show import settled
from tests.chaos.schedule import Outcome
from tests.chaos.witness import Violated

DOORS = ["front", "office"]
PEOPLE = ("alice", "bob", "mallory", "stranger")
PAUSE_S = 0.05
ALL_CLEAR = ("door.forced", "door.held", "door.held_prealarm", "door.fault", "alarm.raised")
"""Events that nothing these people do can cause."""


@asynccontextmanager
async def real_building(seed: int) -> AsyncIterator[Building]:
    """A site that runs; with an even seed mosquitto and SM2, else the built-in broker and P-256."""
    with tempfile.TemporaryDirectory(prefix="ostiary-chaos-") as folder:
        kinds = ("gm", "mosquitto") if seed % 2 == 0 else ("intl", "builtin")
        building = Building(Path(folder), kinds[0], DOORS, kinds[1])
        try:
            await building.set_up()
            await building.start()
            yield building
        finally:
            await building.stop()


async def run_real_schedule(building: Building, seed: int) -> Outcome:
    """Kill and freeze while people tap, then see to what was promised. Raises Violated."""
    began = time.monotonic()
    dice = Random(seed)
    tally: Counter[str] = Counter()
    people = [asyncio.create_task(_tap_on_and_on(building, door)) for door in DOORS]
    try:
        for _ in range(3 + int(dice.random() * 4)):
            await asyncio.sleep(dice.random())
            victims = dice.sample([*DOORS, "server", "broker"], dice.choice((1, 1, 1, 2, 4)))
            if dice.random() < 0.25:
                await _freeze(building, victims, dice.random() * 4, tally)
            else:
                await _kill(building, victims, dice.random() * 2, tally)
        await asyncio.sleep(1)
    finally:
        for person in people:
            person.cancel()
        await asyncio.gather(*people, return_exceptions=True)
    events = await _check(building)
    return Outcome(events, time.monotonic() - began, tally)


async def _tap_on_and_on(building: Building, door: str) -> None:
    """People who do not care that an agent has just died: they try again."""
    people = cycle(PEOPLE)
    while True:
        try:
            async with building.doorway(door) as doorway:
                while True:
                    await building.tap(doorway, next(people))
                    await asyncio.sleep(PAUSE_S)
        except (OSError, EOFError):
            await asyncio.sleep(PAUSE_S)


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


async def _kill(building: Building, names: list[str], for_s: float, tally: Counter[str]) -> None:
    tally.update(f"killed {name}" for name in names)
    await asyncio.gather(*(building.children[name].kill() for name in names))
    await asyncio.sleep(for_s)
    # at once: the server is ready only when it has the broker
    await asyncio.gather(*(_start(building, name) for name in names))


async def _start(building: Building, name: str) -> None:
    match name:
        case "broker":
            await building.start_broker()
        case "server":
            await building.start_server()
        case door:
            await building.start_agent(door)


async def _check(building: Building) -> int:
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
    verify = command("ostiary", "events", "verify", "--json", "--site-dir", building.site)
    verdict = json.loads(await run(verify))
    if not verdict["ok"] or verdict["events"] < len(events):
        raise Violated(f"the store does not verify: {verdict}")
    return len(events)


def _strikes(log: Path) -> set[str]:
    lines = log.read_text(errors="replace").splitlines()
    released = (json.loads(line) for line in lines if '"strike_released"' in line)
    return {entry["grant"] for entry in released}
