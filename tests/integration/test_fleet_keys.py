"""Imagined locks, the real key authority: keys get in, are rotated, and shut nobody out."""

from __future__ import annotations

import asyncio
import secrets
from random import Random

import pytest

from edge_agent.fleet.chip import Chip
from edge_agent.fleet.crowd import Crowd, Identity
from schemas.envelope import Signer
from server.keys.esams import NewEsam
from tests.key_rig import DOMAIN, key_desk
from tests.server_rig import add_agent, administering, running

LOCKS, LIMIT_S = 6, 60
CARD = "01" * 8


@pytest.fixture
async def locks(tmp_path):
    """A site of suite intl, whose key domain is of suite gm, and a member for each lock."""
    async with key_desk(tmp_path / "site", "intl") as desk:
        await desk.authority.create_domain(DOMAIN, "gm", "test")
        identities, esams = [], []
        for n in range(1, LOCKS + 1):
            signer = Signer.of(desk.site.suite.generate(secrets.token_bytes))
            agent, control_key = f"agent-{n}", secrets.token_bytes(16)
            await add_agent(desk.engine, agent, desk.site.suite, signer.key.public.point, n)
            chip = Chip(n.to_bytes(8), DOMAIN, "gm", control_key)
            identities.append(Identity(agent, f"door-{n}", signer, chip))
            esams.append(
                NewEsam(
                    serial=chip.serial.hex(),
                    suite="gm",
                    control_key=control_key,
                    agent=agent,
                    domains=(DOMAIN,),
                )
            )
        await desk.esams.take(esams, "test")
        yield desk, identities


async def until(true) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not true():  # noqa: ASYNC110 members change without a word to this test
            await asyncio.sleep(0.02)


async def test_locks_that_crash_get_their_keys_are_rotated_and_shut_nobody_out(locks, mosquitto):
    desk, identities = locks
    broker = f"mqtt://{mosquitto.host}:{mosquitto.port}"
    async with running(desk.site, broker):
        crowd = Crowd(
            identities,
            desk.site.root,
            host=mosquitto.host,
            port=mosquitto.port,
            random=Random(5),
            spread_s=0.2,
            crashes=0.5,
        )
        chips = [identity.chip for identity in identities]
        async with administering(desk.site) as api:

            async def post(path, body):
                answer = await api.post(path, json=body)
                assert answer.is_success, answer.text
                return answer.json()

            async def until_it(true):
                async with asyncio.timeout(LIMIT_S):
                    while not true((await api.get(path)).json()):  # noqa: ASYNC110 it is a server's answer
                        await asyncio.sleep(0.1)

            settings = {"domain": DOMAIN, "suite": "gm"}
            doors = {
                f"door-{n}": {"agent": f"agent-{n}", "settings": settings}
                for n in range(1, LOCKS + 1)
            }
            await post("/api/v1/site-document", {"doors": doors})
            tasks = [asyncio.create_task(crowd.run())]
            try:
                await until(lambda: all(chip.held == {1} for chip in chips))
                await until(lambda: all(m.trust.policy for m in crowd.members))
                tasks.append(asyncio.create_task(crowd.hold_up({CARD: {1}}, 100.0)))
                rotation = await post("/api/v1/rotations", {"domain": DOMAIN})
                path = f"/api/v1/rotations/{rotation['id']}"
                await post(f"{path}/start", {})
                await until_it(lambda state: state["locks"]["new"] == {"active": LOCKS})
                await post(f"{path}/retire", {})
                await until_it(lambda state: state["state"] == "completed")
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    assert all((chip.held, chip.floor) == ({2}, 2) for chip in chips)
    assert sum(member.keys.crashed for member in crowd.members)
    assert crowd.taps
    assert not crowd.lockouts
    assert not any(member.refused for member in crowd.members)
