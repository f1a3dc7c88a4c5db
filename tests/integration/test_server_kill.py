"""`ostiary serve` is killed again and again while events come in."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from pathlib import Path

import aiomqtt
import pytest

from edge_agent.demo.processes import Child, until, whole_lines
from schemas.topics import ACKNOWLEDGEMENT, down
from server.site import Site
from tests.agent_pen import SITE, Pen
from tests.broker import Mosquitto, mosquitto
from tests.server_rig import make_site, stored, word_of

__all__ = ["mosquitto"]
LINES = 600
KILLS = 8
WINDOW = 64
STOP_S = 60.0
OSTIARY = [sys.executable, "-c", "from server.cli import main; main()"]


class GoBackN:
    """An agent's link, in small: sends what is not acknowledged, rewinds when asked or stuck."""

    def __init__(self, pen: Pen, site: Site, client: aiomqtt.Client) -> None:
        self.pen, self.site, self.client = pen, site, client
        self.acknowledged = 0
        self.sent = 0
        self.progress = asyncio.Condition()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._listen())
            await self._send()
            listening.cancel()

    async def reached(self, sequence: int) -> None:
        async with self.progress:
            await self.progress.wait_for(lambda: self.acknowledged >= sequence)

    async def _send(self) -> None:
        while self.acknowledged < LINES:
            while self.sent < min(LINES, self.acknowledged + WINDOW):
                self.sent += 1
                await self.client.publish(self.pen.topic, self.pen.message(self.sent), qos=1)
            before = self.acknowledged
            try:
                async with asyncio.timeout(1), self.progress:
                    await self.progress.wait()
            except TimeoutError:
                if self.acknowledged == before:
                    self.sent = before

    async def _listen(self) -> None:
        async for message in self.client.messages:
            word = word_of(message, self.pen, self.site)
            async with self.progress:
                # no acknowledgement may ever be taken back: what it covers is deleted
                assert word.sequence >= self.acknowledged
                self.acknowledged = word.sequence
                if word.resend:
                    self.sent = word.sequence
                self.progress.notify_all()


async def started(site: Site, port: int, log: Path) -> Child:
    serve = ("serve", "--site-dir", str(site.path), "--port", "0")
    child = Child("server", [*OSTIARY, *serve, "--broker", f"mqtt://127.0.0.1:{port}"], log)

    async def ready() -> bool:
        return any('"ready"' in line for line in whole_lines(log))

    await child.start()
    await until(child, ready)
    return child


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_at_any_moment_each_event_is_there_once(tmp_path, mosquitto: Mosquitto, seed):
    dice = random.Random(seed)
    pen = Pen()
    pen.write_many(LINES)
    site = await make_site(tmp_path / "site", pen)
    async with (
        asyncio.timeout(180),
        aiomqtt.Client("127.0.0.1", mosquitto.port) as client,
        asyncio.TaskGroup() as group,
    ):
        await client.subscribe(down(SITE, pen.agent, ACKNOWLEDGEMENT), qos=1)
        agent = GoBackN(pen, site, client)
        sending = group.create_task(agent.run())
        for kill in range(1, KILLS + 1):
            server = await started(site, mosquitto.port, tmp_path / f"log-{kill}")
            await agent.reached(kill * LINES // (KILLS + 1) - dice.randrange(WINDOW // 2))
            await asyncio.sleep(dice.random() / 50)  # anywhere in the work on the next batches
            await server.kill()
        server = await started(site, mosquitto.port, tmp_path / "log")
        await sending
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        await server.ended_well(STOP_S)
    assert [e.line for e in await stored(site) if e.source == pen.agent] == pen.lines
    checked = await asyncio.create_subprocess_exec(
        *OSTIARY,
        *("events", "verify", "--json", "--site-dir", str(site.path)),
        stdout=asyncio.subprocess.PIPE,
    )
    report, _ = await checked.communicate()
    assert checked.returncode == 0, report
    assert json.loads(report)["ok"]
