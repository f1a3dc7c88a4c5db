"""Devices taken in, listed and cut off from the command line of a running server."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from edge_agent.enrol import CannotEnrol
from server.app import Serving
from server.run_file import RUN_FILE
from server.site import Site
from tests.enrolment_rig import LIMIT_S, Device, impatient
from tests.server_rig import make_site, running, stored


@dataclass
class Result:
    """What a command came to."""

    exit_code: int | None
    stdout: str
    stderr: str


@dataclass
class Desk:
    """A running server and a terminal."""

    site: Site
    serving: Serving

    async def agents(self, *arguments: str, input: str = "") -> Result:
        """A process of its own: device and server print here meanwhile."""
        program = "from server.cli import main; main()"
        command = [sys.executable, "-c", program, "agents", *arguments, "-d", str(self.site.path)]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        async with asyncio.timeout(LIMIT_S):
            out, err = await process.communicate(input.encode())
        return Result(process.returncode, out.decode(), err.decode())

    async def waiting(self) -> dict:
        async with asyncio.timeout(LIMIT_S):
            while True:
                found = json.loads((await self.agents("pending", "--json")).stdout)
                if found:
                    return dict(found[0])
                await asyncio.sleep(0.02)  # the device is another thread


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    impatient(monkeypatch)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    site = await make_site(tmp_path / "site")
    async with running(site) as serving:
        yield Desk(site, serving)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    made = Device(tmp_path)
    made.config.write_text(made.config.read_text() + "[broker]\ntls = false\n")
    return made


async def code_for(desk: Desk, *options: str) -> str:
    result = await desk.agents("claim", "front", *options)
    assert result.exit_code == 0, result.stderr
    assert "10 minutes" in result.stderr
    return result.stdout.strip()


async def test_a_device_is_taken_in_and_cut_off(desk, device):
    enrolling = asyncio.create_task(device.enrolling(await code_for(desk)))
    waiting = await desk.waiting()
    print_ = waiting["claim"]["fingerprint"]
    assert print_ in (await desk.agents("pending")).stdout
    wrong = await desk.agents("approve", "front", "--fingerprint", "0000 " * 8)
    assert wrong.exit_code == 1
    assert "is another" in wrong.stderr
    declined = await desk.agents("approve", "front", input="n\n")
    assert declined.exit_code == 1
    assert print_ in declined.stdout
    digits = print_.replace(" ", "").upper()
    assert (await desk.agents("approve", "front", "--fingerprint", digits)).exit_code == 0
    await enrolling
    listed = (await desk.agents("list")).stdout
    assert "enrolled" in listed
    assert print_.split()[0] in listed
    assert (await desk.agents("remove", "front", input="n\n")).exit_code == 1
    (row,) = json.loads((await desk.agents("list", "--json")).stdout)
    assert row["enrolled"]
    assert (await desk.agents("remove", "front", "--yes")).exit_code == 0
    assert json.loads((await desk.agents("list", "--json")).stdout) == []
    missing = await desk.agents("remove", "front", "--yes")
    assert missing.exit_code == 1
    assert "no agent 'front'" in missing.stderr
    async with asyncio.timeout(LIMIT_S):
        while True:
            told = {event.type for event in await stored(desk.site)}
            if "io.ostiary.agent.removed.v1" in told:
                break
            await asyncio.sleep(0.02)  # the chain's writer is another task
    assert {"io.ostiary.agent.claimed.v1", "io.ostiary.agent.enrolled.v1"} < told


async def test_a_refused_device_goes_away(desk, device):
    enrolling = asyncio.create_task(device.enrolling(await code_for(desk)))
    await desk.waiting()
    assert (await desk.agents("refuse", "front")).exit_code == 0
    with pytest.raises(CannotEnrol, match="refused"):
        await enrolling
    nobody = await desk.agents("approve", "front", "--yes")
    assert nobody.exit_code == 1
    assert "no device waits" in nobody.stderr


async def test_a_code_is_drawn_for_a_camera_if_asked(desk):
    plain = await code_for(desk)
    drawn = await code_for(desk, "--qr")
    assert drawn.splitlines()[-1].startswith("ostiary://")
    assert "█" in drawn
    assert plain not in drawn  # each claim is a new one


async def test_a_name_that_is_none_is_refused_in_words(desk):
    for name in ("server", "../../tokens", "Front"):
        result = await desk.agents("claim", name)
        assert result.exit_code == 1
        assert "Traceback" not in result.stderr


async def test_without_a_token_with_the_scope_nobody_is_taken_in(desk):
    token = json.loads((desk.site.path / RUN_FILE).read_text())["token"]
    url = desk.serving.url
    calls = [
        ("GET", "/api/v1/agents", None),
        ("POST", "/api/v1/agents/front/claim", {}),
        ("POST", "/api/v1/agents/front/approve", {"keyid": "0" * 64}),
        ("POST", "/api/v1/agents/front/refuse", None),
        ("DELETE", "/api/v1/agents/front", None),
    ]
    async with httpx.AsyncClient(base_url=url) as client:
        for method, path, body in calls:
            assert (await client.request(method, path, json=body)).status_code == 401
        client.headers["Authorization"] = f"Bearer {token}"
        statuses = [(await client.request(m, p, json=b)).status_code for m, p, b in calls]
    assert statuses == [200, 201, 409, 409, 204]


async def test_a_claim_is_never_shown_again(desk):
    code = await code_for(desk)
    secret = re.search(r"front/([A-Z2-7-]+)", code)[1]
    listed = await desk.agents("list", "--json")
    assert secret not in listed.stdout
    everything = b"".join(f.read_bytes() for f in desk.site.path.rglob("*") if f.is_file())
    assert secret.encode() not in everything
