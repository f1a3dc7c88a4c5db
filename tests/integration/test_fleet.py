"""Twenty imagined doors, a whole server and a real mosquitto: what thousands are measured by."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from edge_agent.fleet.crowd import Crowd, Identity
from edge_agent.fleet.member import Member
from schemas.envelope import Signer
from schemas.events import event_name
from schemas.names import SERVER
from schemas.suites import SuiteName
from server.site import Site, create_site
from server.store.database import open_database
from tests.broker import Mosquitto
from tests.server_rig import add_agent, administering, running, stored

DOORS = 20
LIMIT_S = 90
CARD = "01" * 8


@dataclass
class Fleet:
    """The site, its API, and the crowd."""

    site: Site
    api: httpx.AsyncClient
    crowd: Crowd

    @property
    def members(self) -> list[Member]:
        return self.crowd.members

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = await self.api.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    async def until(self, true: Callable[[], bool]) -> None:
        """Something the members take in makes this true."""
        async with asyncio.timeout(LIMIT_S):
            while not true():  # noqa: ASYNC110 members change without a word to this test
                await asyncio.sleep(0.02)

    async def converged(self) -> None:
        """Every door has confirmed everything, and the server has signed for all events."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                doors = (await self.api.get("/api/v1/doors/status")).json()["doors"]
                if len(doors) == DOORS and all(
                    d["state"] == "converged" and d["desired"]["policy"] for d in doors
                ):
                    break
                await asyncio.sleep(0.05)
        await self.until(lambda: not any(m.waiting for m in self.members))

    async def receipts(self, name: str) -> dict[str, list[dict[str, Any]]]:
        """Agent -> the data of its events of this name, in their order."""
        found: dict[str, list[dict[str, Any]]] = {}
        for source, data in await self.events(name):
            found.setdefault(source, []).append(data)
        return found

    async def events(self, name: str) -> Iterable[tuple[str, dict[str, Any]]]:
        parsed = [(e, _line(e.line)) for e in await stored(self.site)]
        return [(e.source, line["data"]) for e, line in parsed if event_name(e.type) == name]


def _line(line: bytes) -> Any:
    return httpx.Response(200, content=line).json()


async def _made(path: Path, name: SuiteName) -> tuple[Site, list[Identity]]:
    site = create_site(path, "demo", name, secrets.token_bytes, {})
    engine = await open_database(site.database)
    identities = []
    for number in range(1, DOORS + 1):
        signer = Signer.of(site.suite.generate(secrets.token_bytes))
        agent = f"agent-{number}"
        await add_agent(engine, agent, site.suite, signer.key.public.point, number)
        identities.append(Identity(agent, f"door-{number}", signer))
    await engine.dispose()
    return site, identities


def _document() -> dict[str, Any]:
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    return {
        "schedules": {"always": {"windows": [{"start": "00:00", "end": "24:00", "days": days}]}},
        "areas": {"inside": {}},
        "doors": {
            f"door-{n}": {"agent": f"agent-{n}", "area": "inside"} for n in range(1, DOORS + 1)
        },
        "groups": {"staff": {}},
        "persons": {"ada": {"groups": ["staff"]}},
        "cards": {CARD: {"person": "ada"}},
        "rules": {"r": {"group": "staff", "areas": ["inside"], "schedule": "always"}},
    }


@asynccontextmanager
async def fleet(path: Path, broker: Mosquitto, name: SuiteName = "intl") -> AsyncIterator[Fleet]:
    """All doors are there, and have their policies."""
    site, identities = await _made(path / "site", name)
    async with running(site, f"mqtt://{broker.host}:{broker.port}"):
        crowd = Crowd(
            identities,
            site.root,
            host=broker.host,
            port=broker.port,
            random=Random(1),
            spread_s=0.2,
        )
        async with administering(site) as api:
            there = Fleet(site, api, crowd)
            await there.post("/api/v1/site-document", _document())
            task = asyncio.create_task(crowd.run())
            try:
                await there.converged()
                yield there
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("name", ["intl", "gm"])
async def test_every_door_applies_what_is_ordered_and_gives_a_receipt_once(
    tmp_path, mosquitto, name
):
    async with fleet(tmp_path, mosquitto, name) as there:
        order = {"kind": "card", "subject": CARD, "reason": "lost"}
        answer = await there.post("/api/v1/revocations", {"revocations": [order]})
        sequence = answer["items"][0]["sequence"]
        await there.until(
            lambda: all(m.trust.revocation.sequence == sequence for m in there.members)
        )
        await there.post("/api/v1/lockdowns", {"scope": "site"})
        await there.until(lambda: all(m.trust.lockdowns is not None for m in there.members))
        await there.converged()
        result = await there.post("/api/v1/doors/door-7/commands", {"action": "pulse"})
        assert result["state"] == "executed"
        assert [m.agent for m in there.members if m.pulses] == ["agent-7"]

        for receipt in ("policy.applied", "revocation.applied", "lockdown.applied"):
            given = await there.receipts(receipt)
            assert given.keys() == {m.agent for m in there.members}, receipt
            assert {len(each) for each in given.values()} == {1}, receipt
        hashes = {data["hash"] for _, data in await there.events("revocation.applied")}
        assert hashes == {there.members[0].trust.revocation.hash}
        assert not any(m.refused for m in there.members)


async def test_one_changed_card_becomes_a_policy_of_every_door(tmp_path, mosquitto):
    async with fleet(tmp_path, mosquitto) as there:
        before = {m.agent: m.trust.policy_hash for m in there.members}
        answer = await there.api.put(
            f"/api/v1/cards/{CARD}", json={"person": "ada", "state": "suspended"}
        )
        assert answer.is_success, answer.text
        await there.until(lambda: all(m.trust.policy.counter == 2 for m in there.members))
        await there.converged()
        assert all(m.trust.policy_hash != before[m.agent] for m in there.members)
        given = await there.receipts("policy.applied")
        assert {tuple(d["policy_version"] for d in each) for each in given.values()} == {(1, 2)}


async def test_after_a_brokers_restart_all_come_back_and_no_event_is_lost(tmp_path, mosquitto):
    async with fleet(tmp_path, mosquitto) as there:
        mosquitto.kill()
        await there.until(lambda: there.crowd.connected == 0)
        # said to nobody: agents learn of it when they are back
        order = {"kind": "card", "subject": CARD, "reason": "left"}
        answer = await there.post("/api/v1/revocations", {"revocations": [order]})
        sequence = answer["items"][0]["sequence"]
        mosquitto.start()
        await there.until(
            lambda: all(m.trust.revocation.sequence == sequence for m in there.members)
        )
        await there.converged()
        lines: dict[str, list[int]] = {}
        for event in await stored(there.site):
            lines.setdefault(event.source, []).append(event.sequence)
        del lines[SERVER]
        assert lines.keys() == {m.agent for m in there.members}
        for agent, numbers in lines.items():
            assert numbers == list(range(1, len(numbers) + 1)), agent
        alarms = [data for _, data in await there.events("alarm.raised")]
        assert not alarms
