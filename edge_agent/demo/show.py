"""One performance: set up, let people walk, wait until all is at the server, count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from random import Random
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live

from edge_agent.demo import figures
from edge_agent.demo.building import SITE, Building
from edge_agent.demo.cast import LEAVERS, NEWCOMER, Person, guest_list
from edge_agent.demo.figures import Figures, Percentiles
from edge_agent.demo.processes import ProcessFailed, command, run
from edge_agent.demo.rotating import Rotating
from edge_agent.demo.street import Tally, stand_at
from edge_agent.demo.summary import Picture, show
from edge_agent.virtual.people import Doorway
from schemas.events import agent_source

ROUND = 60
SETTLE_S = 90.0
CHECK_S = 1.0
QUIET_S = 3.0
"""Longer than a door of the demo takes to relock: until then one more event may come."""


async def run_demo(
    building: Building,
    console: Console,
    random: Random,
    *,
    taps: int | None,
    leave: bool,
    pause_s: float,
) -> Figures:
    """The whole demo; every process is ended before it returns or raises ProcessFailed."""
    try:
        with console.status("Setting up the site: server, broker, doors ..."):
            await building.set_up()
        with console.status("Starting the doors, binding the cards ..."):
            await building.start()
        if not console.is_terminal:  # a terminal sees it in the picture
            console.print(f"Live page: {building.url}", highlight=False)
        tally = Tally()
        rotating = Rotating(building, tally, patient=leave)
        async with httpx.AsyncClient(base_url=building.url, trust_env=False) as client:
            picture = Picture(building.url, building.suite, building.doors)
            with Live(
                picture.draw(),
                console=console,
                auto_refresh=False,
                transient=not console.is_terminal,
            ) as live:
                keeping_watch = [
                    asyncio.create_task(show(client, picture, live)),
                    asyncio.create_task(_keep_checking(building)),
                ]
                performance = asyncio.create_task(
                    _perform(
                        building, random, tally, rotating, taps=taps, leave=leave, pause_s=pause_s
                    )
                )
                try:
                    await asyncio.wait(
                        [performance, *keeping_watch], return_when=asyncio.FIRST_COMPLETED
                    )
                    for task in (*keeping_watch, performance):
                        if task.done():
                            task.result()
                finally:
                    for task in (performance, *keeping_watch):
                        task.cancel()
                    await asyncio.gather(performance, *keeping_watch, return_exceptions=True)
            recorded = performance.result()
            return await _count(building, client, tally, rotating, recorded)
    finally:
        with console.status("Stopping ..."):
            await building.stop()


async def _perform(
    building: Building,
    random: Random,
    tally: Tally,
    rotating: Rotating,
    *,
    taps: int | None,
    leave: bool,
    pause_s: float,
) -> dict[str, tuple[str, int]]:
    guests = _guests(taps, random)
    work = [
        asyncio.create_task(_dismiss(building, pause_s)),
        asyncio.create_task(rotating.run()),
    ]
    try:
        async with asyncio.TaskGroup() as doors:
            for door in building.doors:
                doors.create_task(
                    stand_at(
                        building.doorway(door),
                        partial(_meet, building, door),
                        guests,
                        random,
                        tally,
                        pause_s=pause_s,
                    )
                )
        rotating.walked.set()
        if leave:
            await asyncio.gather(*work)
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
    recorded = await settled(building)
    if not leave:
        await asyncio.Event().wait()  # until Ctrl-C
    return recorded


async def _meet(building: Building, door: str, doorway: Doorway, guest: Person) -> str:
    """Let a guest tap; the newcomer's card is bound first, and every door told of it."""
    if guest is NEWCOMER:
        await building.bind(door, guest.name)
        await building.office.converged()
    return await building.tap(doorway, guest.name)


async def _dismiss(building: Building, pause_s: float) -> None:
    """Revoke one card after another while people walk."""
    for card in LEAVERS:
        await asyncio.sleep(pause_s)
        await building.office.revoke(card.hex(), "left")


def _guests(taps: int | None, random: Random) -> Iterator[Person]:
    """The doors share one queue of guests."""
    if taps is not None:
        return iter(guest_list(taps, random))
    return (guest for _ in repeat(None) for guest in guest_list(ROUND, random))


async def _keep_checking(building: Building) -> None:
    while True:
        building.check()
        await asyncio.sleep(CHECK_S)


async def settled(building: Building) -> dict[str, tuple[str, int]]:
    """Source -> (chain, last sequence), once all is acknowledged and nothing more happens."""
    before: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(SETTLE_S):
            while True:
                now = await asyncio.gather(*(building.status(door) for door in building.doors))
                heads = [{key: status[key] for key in ("chain", "sequence")} for status in now]
                if heads == before and not any(status["unacknowledged"] for status in now):
                    return {
                        agent_source(SITE, building.agent(door)): (
                            str(status["chain"]),
                            int(status["sequence"]),
                        )
                        for door, status in zip(building.doors, now, strict=True)
                    }
                before = heads
                await asyncio.sleep(QUIET_S)
    except TimeoutError:
        raise ProcessFailed(
            f"events were still unacknowledged {SETTLE_S:.0f} s after the last tap"
        ) from None


async def _count(
    building: Building,
    client: httpx.AsyncClient,
    tally: Tally,
    rotating: Rotating,
    recorded: dict[str, tuple[str, int]],
) -> Figures:
    events = await figures.all_events(client)
    verdict = json.loads(
        await run(command("ostiary", "events", "verify", "--json", "--site-dir", building.site))
    )
    logs = [building.log(door) for door in building.doors]
    revocations = figures.revocation_latencies(events, {card.hex() for card in LEAVERS})
    rotation_state, lockouts = await rotating.told()
    return Figures(
        suite=building.suite,
        doors=len(building.doors),
        taps=tally.taps,
        granted=figures.count(events, "access.granted"),
        denied=figures.denials(events),
        copied_card={"taps": tally.copied_taps, "denied": tally.copied_denied},
        events_committed=len(events),
        events_verified=verdict["events"],
        lost=figures.missing(events, recorded),
        duplicated=figures.duplicates(events),
        tap_to_strike_ms=Percentiles.of(figures.strike_latencies(logs)),
        event_to_commit_ms=Percentiles.of(figures.commit_latencies(events)),
        revocations=len(revocations),
        revocation_ms=Percentiles.of(revocations),
        bound=figures.count(events, "card.bound"),
        rekeyed=figures.count(events, "card.rekeyed"),
        rotation_state=rotation_state,
        lockouts_during_rotation=lockouts,
    )
