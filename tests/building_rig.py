"""A building of real processes for tests that break them, people who tap on, and an operator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx

from edge_agent.demo.building import BrokerKind, Building
from schemas.suites import SuiteName

DOORS = ["front", "office"]
PEOPLE = ("alice", "bob", "chen", "mallory", "stranger")
PAUSE_S = 0.1
PATIENCE_S = 10.0


@asynccontextmanager
async def running_building(
    folder: Path, suite: SuiteName, broker: BrokerKind
) -> AsyncIterator[Building]:
    """Enrolled, served by a policy, and ended whatever happens."""
    building = Building(folder, suite, DOORS, broker)
    try:
        await building.set_up()
        await building.start()
        yield building
    finally:
        await building.stop()


async def tap_on_and_on(building: Building, door: str) -> None:
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


async def kill(building: Building, *names: str) -> None:
    """`kill -9`: of `broker`, `server` or doors."""
    await asyncio.gather(*(building.children[name].kill() for name in names))


async def start_again(building: Building, *names: str) -> None:
    """All at once: a server is ready only when it has its broker."""
    await asyncio.gather(*(_start(building, name) for name in names))


async def _start(building: Building, name: str) -> None:
    match name:
        case "broker":
            await building.start_broker()
        case "server":
            await building.start_server()
        case door:
            await building.start_agent(door)


async def order(building: Building, method: str, path: str, body: object = None) -> Any:
    """What the server answers to an operator; None while it can't. Refusals are answers too."""
    try:
        token = json.loads((building.site / "run.json").read_bytes())["token"]
        async with httpx.AsyncClient(
            base_url=building.url,
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=PATIENCE_S,
        ) as client:
            answer = await client.request(method, path, json=body)
    except (OSError, ValueError, httpx.HTTPError):
        return None
    return answer.json() if answer.content else None
