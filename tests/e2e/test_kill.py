"""kill -9 of every part while people tap: nothing recorded is lost, nothing is stored twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path

import httpx
import pytest

from edge_agent.demo import figures
from edge_agent.demo.building import BrokerKind, Building
from edge_agent.demo.processes import ProcessFailed, command, run
from edge_agent.demo.show import settled
from schemas.suites import SuiteName
from tests.building_rig import DOORS, kill, running_building, start_again, tap_on_and_on
from tests.system import require_program

pytestmark = [pytest.mark.slow, pytest.mark.system]

ROUNDS = 2


async def more_events(building: Building) -> None:
    """Return once events have arrived that were not there when this was called."""
    newest: str | None = None
    async with (
        asyncio.timeout(60),
        httpx.AsyncClient(base_url=building.url, trust_env=False, timeout=30) as client,
    ):
        while True:
            query = {"after": newest, "wait": "5"} if newest else {"last": "0"}
            answer = await client.get("/api/v1/events", params=query)
            page = answer.raise_for_status().json()
            if newest and page["events"]:
                return
            newest = page["next"]


@pytest.mark.parametrize(("suite", "broker"), [("gm", "mosquitto"), ("intl", "builtin")])
async def test_every_recorded_event_is_stored_once_though_each_part_is_killed(
    suite: SuiteName, broker: BrokerKind, tmp_path: Path
) -> None:
    if broker == "mosquitto":
        require_program("mosquitto", "mosquitto")
    async with running_building(tmp_path, suite, broker) as building:
        people = [asyncio.create_task(tap_on_and_on(building, door)) for door in DOORS]
        try:
            await more_events(building)
            for _ in range(ROUNDS):
                for victim in (*DOORS, "server", "broker"):
                    await kill(building, victim)
                    await start_again(building, victim)
                    await more_events(building)
        finally:
            for person in people:
                person.cancel()
            await asyncio.gather(*people, return_exceptions=True)
        recorded = await settled(building)
        async with httpx.AsyncClient(base_url=building.url, trust_env=False) as client:
            events = await figures.all_events(client)
        assert figures.missing(events, recorded) == 0
        assert figures.duplicates(events) == 0
        of_agents = [event for event in events if "/agents/" in event["source"]]
        assert len(of_agents) == sum(last for _, last in recorded.values())
        assert not figures.count(events, "alarm.raised")

    verify = command("ostiary", "events", "verify", "--site-dir", building.site)
    verdict = json.loads(await run([*verify, "--json"]))
    assert verdict["ok"]
    with contextlib.closing(sqlite3.connect(building.site / "ostiary.db")) as database:
        (later,) = database.execute(
            "select count(*) from events where source = 'server' and position > ?", [len(events)]
        ).fetchone()
    # as it stopped, it said which agents had left before it
    assert verdict["events"] == len(events) + later

    await one_changed_byte_is_found(building, verify, events[len(events) // 2])


async def one_changed_byte_is_found(
    building: Building, verify: list[str], victim: figures.Event
) -> None:
    """The store's file is changed behind the server's back; the place is named."""
    chain, sequence = victim["chain"], int(victim["sequence"])
    with contextlib.closing(sqlite3.connect(building.site / "ostiary.db")) as database, database:
        (line,) = database.execute(
            "select line from events where chain = ? and sequence = ?", [chain, sequence]
        ).fetchone()
        changed = bytes([*line[:-3], line[-3] ^ 1, *line[-2:]])
        database.execute(
            "update events set line = ? where chain = ? and sequence = ?",
            [changed, chain, sequence],
        )
    with pytest.raises(ProcessFailed) as failure:
        await run(verify)
    assert chain in str(failure.value)
    assert str(sequence) in str(failure.value)
