"""A whole server, its broker, and agents that believe by the rules of real ones."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from edge_agent.demo.processes import free_port
from edge_agent.fleet.crowd import Crowd, Identity
from edge_agent.fleet.member import Member
from schemas.envelope import Signer
from server.app import Serving
from server.site import Site, create_site
from server.store.database import open_database
from tests.server_rig import add_agent, administering, running

LIMIT_S = 60
CARD = "01" * 8


@dataclass
class Building:
    """The server's API, and the agents by name."""

    site: Site
    api: httpx.AsyncClient
    crowd: Crowd

    @property
    def members(self) -> dict[str, Member]:
        return {member.agent: member for member in self.crowd.members}

    async def until(self, true: Callable[[], bool]) -> None:
        """Something an agent applies makes this true."""
        async with asyncio.timeout(LIMIT_S):
            while not true():  # noqa: ASYNC110 agents change without a word to this test
                await asyncio.sleep(0.01)

    async def post(self, path: str, body: dict[str, Any], status: int = 200) -> Any:
        answer = await self.api.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def until_online(self) -> None:
        """The server hears every agent."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                doors = (await self.api.get("/api/v1/doors/status")).json()["doors"]
                if doors and all(d["state"] in ("converged", "behind") for d in doors):
                    return
                await asyncio.sleep(0.05)

    async def until_offline(self, agent: str) -> None:
        """The server hears this agent no more."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                doors = (await self.api.get("/api/v1/doors/status")).json()["doors"]
                if {d["state"] for d in doors if d["agent"] == agent} == {"offline"}:
                    return
                await asyncio.sleep(0.05)

    async def progress(self, sequence: int) -> dict[str, Any]:
        """How far it has come, once every agent that is there has confirmed."""
        query: dict[str, Any] = {"wait": 5}
        async with asyncio.timeout(LIMIT_S):
            while True:
                path = f"/api/v1/revocations/{sequence}/progress"
                found = (await self.api.get(path, params=query)).json()
                if not found["waiting"]:
                    return dict(found)
                query["confirmed"] = found["confirmed"]


async def make(path: Path, *agents: str) -> tuple[Site, list[Identity]]:
    site = create_site(path, "demo", "intl", secrets.token_bytes, {})
    engine = await open_database(site.database)
    identities = []
    for agent in agents:
        signer = Signer.of(site.suite.generate(secrets.token_bytes))
        await add_agent(engine, agent, site.suite, signer.key.public.point, 1)
        identities.append(Identity(agent, agent.removesuffix("-agent"), signer))
    await engine.dispose()
    return site, identities


def crowd_of(site: Site, identities: list[Identity], where: Serving) -> Crowd:
    port = int(where.broker.rpartition(":")[2])
    return Crowd(identities, site.root, host="127.0.0.1", port=port, random=Random(1), spread_s=0.1)


async def describe(api: httpx.AsyncClient, identities: list[Identity]) -> None:
    """A door for each agent, in the management model."""
    for each in identities:
        body = {"name": each.door, "agent": each.agent}
        answer = await api.put(f"/api/v1/door-configurations/{each.door}", json=body)
        assert answer.status_code < 300, answer.text


@asynccontextmanager
async def connected(crowd: Crowd) -> AsyncIterator[None]:
    """The crowd's agents keep their connections."""
    task = asyncio.create_task(crowd.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def building(path: Path, *agents: str) -> AsyncIterator[Building]:
    """Everything runs, and the server hears each agent."""
    site, identities = await make(path / "site", *agents)
    async with running(site) as where, administering(site) as api:
        crowd = crowd_of(site, identities, where)
        made = Building(site, api, crowd)
        await describe(api, identities)
        async with connected(crowd):
            await made.until_online()
            yield made


@pytest.fixture
async def site(tmp_path):
    async with building(tmp_path, "front-agent", "back-agent") as made:
        yield made


async def test_a_revocation_reaches_every_door_and_its_receipts_come_back(site):
    entry = (
        await site.post(
            "/api/v1/revocations",
            {"revocations": [{"kind": "card", "subject": CARD, "reason": "lost"}]},
            201,
        )
    )["items"][0]
    progress = await site.progress(entry["sequence"])
    assert progress["confirmed"] == 2
    assert all(m.trust.revocation.sequence == 1 for m in site.crowd.members)
    assert all(m.refused == {} for m in site.crowd.members)
    answer = await site.api.get("/api/v1/events", params={"type": "revocation.requested"})
    (requested,) = answer.json()["events"]
    assert requested["data"]["subject"] == CARD


async def test_a_thousand_revocations_come_in_a_handful_of_messages(site):
    orders = [{"kind": "card", "subject": f"{n:016x}", "reason": "lost"} for n in range(1000)]
    entries = (await site.post("/api/v1/revocations", {"revocations": orders}, 201))["items"]
    progress = await site.progress(entries[-1]["sequence"])
    assert progress["confirmed"] == 2
    assert {m.trust.revocation.sequence for m in site.crowd.members} == {1000}


async def test_a_lockdown_shuts_the_doors_and_its_end_opens_them_again(site):
    def shut() -> list[bool]:
        return [m._is_locked_down() for m in site.crowd.members]

    began = await site.post("/api/v1/lockdowns", {"scope": "site"}, 201)
    await site.until(lambda: shut() == [True, True])
    answer = await site.api.delete(f"/api/v1/lockdowns/{began['id']}")
    assert answer.status_code == 200, answer.text
    await site.until(lambda: shut() == [False, False])


async def test_a_command_is_done_at_its_door_and_nowhere_else(site):
    answer = await site.post("/api/v1/doors/front/commands", {"action": "pulse"})
    assert answer["state"] == "executed"
    assert answer["operator_to_strike_ms"] > 0
    assert site.members["front-agent"].pulses == 1
    assert site.members["back-agent"].pulses == 0
    metrics = (await site.api.get("/metrics")).text
    assert "ostiary_operator_to_strike_seconds_count 1.0" in metrics


async def test_every_agent_has_a_heartbeat_that_names_what_there_is(site):
    await site.until(lambda: all(m.trust.heartbeat is not None for m in site.crowd.members))
    await site.post("/api/v1/lockdowns", {"scope": "door", "name": "front"}, 201)
    for member in site.crowd.members:
        assert member.trust.heartbeat is not None
        assert member.trust.heartbeat.root == 1
        assert member.refused == {}


async def revoke(site: Building, subject: str = CARD) -> int:
    order = {"kind": "card", "subject": subject, "reason": "stolen"}
    answer = await site.post("/api/v1/revocations", {"revocations": [order]}, 201)
    return int(answer["items"][0]["sequence"])


async def test_an_agent_that_was_away_learns_of_everything_when_it_is_back(tmp_path):
    site, (front, back) = await make(tmp_path / "site", "front-agent", "back-agent")
    async with running(site) as where, administering(site) as api:
        here, away = crowd_of(site, [front], where), crowd_of(site, [back], where)
        made = Building(site, api, here)
        await describe(api, [front, back])
        async with connected(here):
            async with connected(away):
                await made.until_online()
                away.members[0].report(datetime.now(UTC), leaving=True)
                await made.until_offline("back-agent")
            sequence = await revoke(made)
            began = await made.post("/api/v1/lockdowns", {"scope": "site"}, 201)
            progress = await made.progress(sequence)
            assert (progress["confirmed"], progress["unreachable"]) == (1, 1)
            async with connected(away):
                await made.until_online()
                assert (await made.progress(sequence))["confirmed"] == 2
                (member,) = away.members
                await made.until(member._is_locked_down)
                assert member.trust.lockdowns.active[0].id == began["id"]
                assert member.refused == {}


async def test_nothing_goes_back_over_a_restart_of_server_and_broker(tmp_path):
    site, identities = await make(tmp_path / "site", "front-agent")
    port = free_port()
    crowd = Crowd(
        identities, site.root, host="127.0.0.1", port=port, random=Random(1), spread_s=0.1
    )
    (member,) = crowd.members
    async with (
        running(site, broker_port=port),
        administering(site) as api,
        connected(crowd),
    ):
        made = Building(site, api, crowd)
        await describe(api, identities)
        await made.until_online()
        await revoke(made)
        await made.post("/api/v1/lockdowns", {"scope": "site"}, 201)
        await made.post("/api/v1/doors/front/commands", {"action": "identify"})
        await made.until(lambda: member.trust.revocation.sequence == 1)
        await made.until(member._is_locked_down)
        assert member.trust.heartbeat is not None
        before = member.trust.heartbeat.counter
    async with (
        running(site, broker_port=port),
        administering(site) as api,
        connected(crowd),
    ):
        made.api = api
        await made.until_online()
        assert await revoke(made, "02" * 8) == 2
        assert (await made.progress(2))["confirmed"] == 1
        active = (await api.get("/api/v1/lockdowns")).json()["items"]
        await made.post("/api/v1/doors/front/commands", {"action": "identify"})
        assert member.trust.command == 2
        assert member._is_locked_down()
        assert (await api.delete(f"/api/v1/lockdowns/{active[0]['id']}")).status_code == 200
        await made.until(lambda: not member._is_locked_down())
        await made.until(lambda: member.trust.heartbeat.counter > before)
        assert member.refused == {}
