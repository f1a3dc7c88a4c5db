"""One fault schedule in one process: real agents, real ingest, everything between them hostile."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from structlog.testing import capture_logs

from schemas.chain import Head
from schemas.events import event_name
from schemas.names import SERVER
from server.site import create_site
from server.store.agents import add_agent, event_ring, list_agents
from server.store.audit import BadPlace, ChainAudit, StoredRow, list_chains, read_chain
from server.store.database import open_database
from tests.chaos import simulation
from tests.chaos.sides import LIVING, Agent, Server, Side, Violated
from tests.chaos.simulation import Thread
from tests.chaos.wire import FINE, Weather, Wire

SITE = "demo"
STILL_BUSY_S = 30.0
"""So long people go on tapping when the faults have ended."""
SETTLE_S = 300.0
"""Simulated seconds in which all must be at the server then. The longest back-off is 60 s."""
QUIET_S = 5.0
EXPECTED_ALARMS = {
    "bad_signature",
    "malformed",
    "unknown_key",
    "wrong_topic",
    "gap",
    "events_lost",
}
"""What corruption, misdirection, silence and full stores may raise. A fork, a broken or a second
chain would be the fault of one of the two sides."""
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
        self._server = Server(folder, str(seed), self._tally, wire, site=site)
        self._agents = [
            Agent(
                name,
                folder,
                str(seed),
                self._tally,
                wire,
                site=site,
                capacity=dice.choice((40, 400, 200_000, 200_000)),
            )
            for name in ("front", "back")[: dice.choice((1, 2))]
        ]
        self._sides: list[Side] = [self._server, *self._agents]

    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
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
            "edge_agent.database.ThreadPoolExecutor": thread,
            "server.app.ThreadPoolExecutor": thread,
            "server.app.random": SimpleNamespace(SystemRandom=lambda: Random(self._dice.random())),
        }

    async def _enrol(self) -> None:
        engine = await open_database(self._server.database)
        for agent in self._agents:
            point = agent.signer.key.public.point
            await add_agent(engine, agent.name, self._site.suite, point, 1)
        await engine.dispose()

    # The storm

    async def _storm(self) -> None:
        dice = self._dice
        every_s = dice.choice((1.0, 3.0, 8.0))
        self._wire.weather = Weather.roll(dice)
        for _ in range(int(20 + dice.random() * 40)):
            await asyncio.sleep(dice.expovariate(1 / every_s))
            self._check_sides()
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
        busy_until = loop.time() + STILL_BUSY_S
        while not self._settled(loop.time()):
            await asyncio.sleep(1)
            for agent in self._agents:
                agent.busy = loop.time() < busy_until
            self._check_sides()
            if loop.time() > ends:
                left = {agent.name: agent.waiting for agent in self._agents}
                raise Violated(f"not settled {SETTLE_S:.0f} s after the last fault: {left}")

    def _settled(self, now_s: float) -> bool:
        return (
            now_s - self._wire.last_carried > QUIET_S
            and not any(agent.busy for agent in self._agents)
            and all(agent.waiting == 0 for agent in self._agents)
        )

    # The promises

    async def _check(self, heads: dict[str, Head], logs: list[Any]) -> int:
        engine = await open_database(self._server.database)
        ring = {
            **event_ring(await list_agents(engine), self._site.suite),
            **{
                keyid: type(trusted)(trusted.key, SERVER, trusted.payload_types)
                for keyid, trusted in self._site.root.key_ring().items()
            },
        }
        stored: dict[str, list[StoredRow]] = {}
        try:
            for (source, chain), head in (await list_chains(engine)).items():
                if source in stored:
                    raise Violated(f"{source} has two chains")
                audit = ChainAudit(source, chain, self._site.name, self._site.suite, ring)
                rows = [row async for page in read_chain(engine, source, chain) for row in page]
                audit.check(rows)
                audit.finish(head)
                stored[source] = rows
        except BadPlace as bad:
            raise Violated(f"the store does not verify: {bad!r}") from bad
        finally:
            await engine.dispose()
        for agent in self._agents:
            self._check_agent(agent, heads[agent.name], stored[agent.name])
        self._check_alarms(stored.get(SERVER, []))
        if any(entry["event"] == "acknowledgement_mismatch" for entry in logs):
            raise Violated("an acknowledgement was of another history than the agent's")
        return sum(map(len, stored.values()))

    def _check_agent(self, agent: Agent, head: Head, rows: list[StoredRow]) -> None:
        witness = agent.witness
        lines = {row.sequence: row.line for row in rows}
        if head.sequence != len(rows) or head.chain != rows[0].chain:
            raise Violated(f"{agent.name} is at {head}, the server has {len(rows)} lines")
        if sorted(rows, key=lambda row: row.position) != rows:
            raise Violated(f"{agent.name}: lines were stored out of order")
        for sequence, line in witness.lines.items():
            if lines.get(sequence) != line:
                raise Violated(f"{agent.name}: line {sequence} was stored and is not at the server")
        data = [(event_name(row.type), json.loads(row.line)["data"]) for row in rows]
        marks = Counter(each["detail"] for name, each in data if name == "door.fault")
        if twice := [mark for mark, times in marks.items() if times > 1]:
            raise Violated(f"{agent.name}: there twice: {twice}")
        if unknown := marks.keys() - witness.attempted:
            raise Violated(f"{agent.name}: nobody did {unknown}")
        if both := marks.keys() & witness.refused:
            raise Violated(f"{agent.name}: refused, and stored all the same: {both}")
        gone = witness.attempted - marks.keys() - witness.refused - witness.unanswered
        if gone:
            raise Violated(f"{agent.name}: neither stored nor refused: {gone}")
        causes = [each["cause"] for name, each in data if name == "agent.started"]
        if any(cause != "restart_after_kill" for cause in causes[1:]):
            raise Violated(f"{agent.name} says it started so: {causes}")

    def _check_alarms(self, rows: list[StoredRow]) -> None:
        for row in rows:
            alarm = json.loads(row.line)["data"]
            self._tally[f"alarm {alarm['kind']}"] += 1
            if alarm["kind"] not in EXPECTED_ALARMS:
                raise Violated(f"the server raised a false alarm: {alarm}")
