"""One fault schedule in one process: a real server, real agents, everything between hostile."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from structlog.testing import capture_logs

from schemas.chain import Head
from schemas.names import SERVER
from server.site import create_site
from server.store.database import open_database
from tests.chaos import simulation
from tests.chaos.agent_side import Agent
from tests.chaos.operator import Operator, card_ids, untold
from tests.chaos.promises import (
    check_agent,
    check_promised,
    check_server,
    lacks,
    stored_chains,
)
from tests.chaos.server_side import IdleDesk, Server
from tests.chaos.sides import LIVING, Side, tasks_of_sides
from tests.chaos.simulation import Thread
from tests.chaos.wire import FINE, Weather, Wire
from tests.chaos.witness import Violated
from tests.server_rig import add_agent

SITE = "demo"
STILL_BUSY_S = 30.0
"""So long people go on tapping when the faults have ended."""
SETTLE_S = 300.0
"""Simulated seconds in which all must be at the server then. The longest back-off is 60 s."""
QUIET_S = 5.0
MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Outcome:
    """What a schedule came to."""

    events: int
    seconds: float
    tally: Counter[str]


def run_schedule(seed: int) -> Outcome:
    """Raises Violated, naming the promise that was not kept."""
    where = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="ostiary-chaos-", dir=where) as folder:
        outcome: Outcome = simulation.run(_Schedule(Path(folder), seed).run())
    return outcome


class _Schedule:
    def __init__(self, folder: Path, seed: int) -> None:
        self._dice = dice = Random(seed)
        self._folder = folder
        self._tally: Counter[str] = Counter()
        self._wire = wire = Wire(str(seed), self._tally)
        suite = "gm" if dice.random() < 0.2 else "intl"
        self._site = site = create_site(folder / "site", SITE, suite, dice.randbytes, {})
        names, cards = ["front", "back"][: dice.choice((1, 2))], card_ids(4)
        self._server = Server(folder, str(seed), self._tally, wire, site=site)
        operators_dice = Random(f"{seed} operator")
        self._operator = Operator(self._server, names, cards, operators_dice, self._tally)
        self._agents = [
            Agent(
                name,
                folder,
                str(seed),
                self._tally,
                wire,
                site=site,
                capacity=dice.choice((40, 400, 200_000, 200_000)),
                cards=cards,
                cleared=self._operator.cleared,
            )
            for name in names
        ]
        self._sides: list[Side] = [self._server, *self._agents]

    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(tasks_of_sides)
        with capture_logs() as logs, ExitStack() as patches:
            for target, stand_in in self._stand_ins().items():
                patches.enter_context(patch(target, stand_in))
            await self._enrol()
            keepers = [asyncio.create_task(side.keep()) for side in self._sides]
            try:
                await self._storm()
                await self._calm()
            finally:
                for keeper in keepers:
                    keeper.cancel()
                await asyncio.gather(*keepers, return_exceptions=True)
                heads = {
                    agent.name: agent.outbox.state.head for agent in self._agents if agent.outbox
                }
                for side in self._sides:
                    await side._leave()
                await self._operator.leave()
        events = await self._check(heads, logs)
        return Outcome(events, loop.time(), self._tally)

    def _stand_ins(self) -> dict[str, Any]:
        real_connect = sqlite3.connect

        def connect(path: Any, **kwargs: Any) -> sqlite3.Connection:
            for side in self._sides:
                if Path(path).parent == side.disk.folder:
                    return side.disk.connect(path, real_connect, **kwargs)
            return real_connect(path, **kwargs)

        def thread(*_: Any, **__: Any) -> Thread:
            return LIVING.get().thread()

        return {
            "aiomqtt.Client": self._wire.client,
            "sqlite3.connect": connect,
            "asyncio.to_thread": simulation.to_thread,
            "edge_agent.database.ThreadPoolExecutor": thread,
            "server.assembly.ThreadPoolExecutor": thread,
            "server.assembly.random": SimpleNamespace(
                SystemRandom=lambda: Random(self._server.dice.random())
            ),
            "server.assembly.secrets": SimpleNamespace(
                token_hex=lambda count: self._server.dice.randbytes(count).hex()
            ),
            "server.assembly.listener_files": lambda *_: None,
            "server.assembly.open_desk": lambda *_, **__: IdleDesk(),
        }

    async def _enrol(self) -> None:
        engine = await open_database(self._server.database)
        for agent in self._agents:
            point = agent.signer.key.public.point
            await add_agent(engine, agent.name, self._site.suite, point, 1)
            await agent.bind_cards()
        await self._operator.set_up(engine, self._site)
        await engine.dispose()

    # The storm

    async def _storm(self) -> None:
        dice = self._dice
        every_s = dice.choice((1.0, 3.0, 8.0))
        self._wire.weather = Weather.roll(dice)
        for _ in range(int(20 + dice.random() * 40)):
            await asyncio.sleep(dice.expovariate(1 / every_s))
            self._check_sides()
            self._operator.act()
            fault = dice.choice(
                (
                    self._crash,
                    self._crash,
                    self._crash_at_a_statement,
                    self._crash_at_a_statement,
                    self._restart_broker,
                    self._partition,
                    self._silence,
                    self._change_weather,
                    self._ail,
                    self._ail,
                    self._slow,
                    self._jump,
                )
            )
            fault(dice.choice(self._sides))

    def _for_a_while(self, end: Callable[[], None]) -> None:
        dice = self._dice
        asyncio.get_running_loop().call_later(dice.random() * dice.choice((2, 20, 60)), end)

    def _crash(self, side: Side) -> None:
        if side.up:
            side.disk.crash()

    def _crash_at_a_statement(self, side: Side) -> None:
        side.disk.crash_in(1 + int(self._dice.random() * 40))

    def _restart_broker(self, _: Side) -> None:
        self._tally["broker down"] += 1
        self._wire.down = True
        if self._dice.random() < 0.3:
            self._wire.forget()
        self._wire.break_off()
        self._for_a_while(lambda: setattr(self._wire, "down", False))

    def _partition(self, side: Side) -> None:
        self._tally["partition"] += 1
        self._wire.cut.add(side.identifier)
        self._wire.break_off(side.identifier)
        self._for_a_while(lambda: self._wire.cut.discard(side.identifier))

    def _silence(self, side: Side) -> None:
        self._tally["one-way silence"] += 1
        self._wire.unheard.add(side.identifier)
        self._for_a_while(lambda: self._wire.unheard.discard(side.identifier))

    def _change_weather(self, _: Side) -> None:
        self._wire.weather = Weather.roll(self._dice)

    def _ail(self, side: Side) -> None:
        side.ail(self._dice.choice(("full", "broken")))
        self._for_a_while(lambda: side.ail(None))

    def _slow(self, side: Side) -> None:
        self._tally["slow disk"] += 1
        side.slow = True
        self._for_a_while(lambda: setattr(side, "slow", False))

    def _jump(self, side: Side) -> None:
        self._tally["clock jump"] += 1
        side.clock.jump(self._dice)

    def _check_sides(self) -> None:
        for side in self._sides:
            if side.failure is not None:
                raise Violated(f"{side.name} ended by itself: {side.failure!r}") from side.failure
        for agent in self._agents:
            if agent.witness.broken:
                raise Violated(f"{agent.name}: {agent.witness.broken[0]}")

    # The calm

    async def _calm(self) -> None:
        loop = asyncio.get_running_loop()
        wire = self._wire
        ends = loop.time() + SETTLE_S
        wire.down, wire.weather = False, FINE
        wire.cut.clear()
        wire.unheard.clear()
        for side in self._sides:
            side.ail(None)
            side.disk.crash_in(None)
            side.slow = False
            side.clock.jumped = timedelta(0)
        busy_until = loop.time() + STILL_BUSY_S
        while not self._settled(loop.time()):
            await asyncio.sleep(1)
            for agent in self._agents:
                agent.busy = loop.time() < busy_until
            self._check_sides()
            if loop.time() > ends:
                left = {
                    agent.name: (agent.waiting, lacks(agent, self._server.parts))
                    for agent in self._agents
                }
                raise Violated(f"not settled {SETTLE_S:.0f} s after the last fault: {left}")
        assert self._server.parts is not None
        check_promised(self._operator, self._agents, self._server.parts)

    def _settled(self, now_s: float) -> bool:
        return all(
            not agent.busy and agent.waiting == 0 and lacks(agent, self._server.parts) is None
            for agent in self._agents
        )

    async def _check(self, heads: dict[str, Head], logs: list[Any]) -> int:
        self._check_sides()
        engine = await open_database(self._server.database)
        try:
            stored = await stored_chains(engine, self._server.site)
            left = await untold(engine)
        finally:
            await engine.dispose()
        if left:
            raise Violated(f"no event tells of {left} announcements")
        for agent in self._agents:
            check_agent(agent, heads[agent.name], stored[agent.name])
        check_server(stored.get(SERVER, []), self._operator, self._tally)
        if any(entry["event"] == "acknowledgement_mismatch" for entry in logs):
            raise Violated("an acknowledgement was of another history than the agent's")
        return sum(map(len, stored.values()))
