"""A door at work in this process, and a server that speaks to its trust store without a broker."""

from __future__ import annotations

import asyncio
import random as seeded
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from edge_agent.clock import SystemClock
from edge_agent.commanding import Commanding
from edge_agent.config import Door
from edge_agent.core.decision import DoorView
from edge_agent.core.lockout import Lockout
from edge_agent.core.trusted_time import TrustedTime
from edge_agent.door_io.virtual import VirtualDoorIo
from edge_agent.door_task import DoorTask
from edge_agent.elements import Elements
from edge_agent.freshness_watch import FreshnessWatch, look_all
from edge_agent.house import House
from edge_agent.outbox import Outbox
from edge_agent.readers.port import Feedback
from edge_agent.readers.virtual import VirtualReader
from edge_agent.recorder import Recorder
from edge_agent.transport_keys import TransportKeys
from edge_agent.trust_store import TrustStore
from schemas.command import Action, Command
from schemas.envelope import Signer
from schemas.events import EventLine, event_name
from schemas.lockdown import Lockdown
from schemas.policy import DoorSettings
from schemas.suites import INTL
from tests.site_keys import SiteKeys
from tests.site_voice import SiteVoice

AGENT, DOOR, OTHER = "front-agent", "front", "back"
SESSION = "00112233445566aa"
PATIENCE_S = 20.0


class HandClock(SystemClock):
    """Runs by itself, and can be set."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.stepped_s = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.ahead_s + self.stepped_s)

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


class DoorStand:
    """Doors `front` and `back`, each with a reader outside. Open it with `door_stand`."""

    def __init__(self, voice: SiteVoice, outbox: Outbox, store: TrustStore, clock: HandClock):
        self.voice, self.outbox, self.store, self.clock = voice, outbox, store, clock
        self.recorder = Recorder(outbox, clock, TrustedTime(), AGENT, "test")
        self.ios: dict[str, VirtualDoorIo] = {}
        self.shown: list[tuple[str, Feedback]] = []
        self.restarts = 0
        self.house = House(
            site=voice.keys.site,
            recorder=self.recorder,
            store=store,
            elements=Elements(Path("/nowhere"), bytes(32), seeded.Random(1).randbytes),
            transport_keys=TransportKeys(
                voice.keys.site,
                AGENT,
                Signer.of(INTL.generate(seeded.Random(3).randbytes)),
                seeded.Random(4).randbytes,
                clock.now,
            ),
            lockout=Lockout(),
            random=seeded.Random(1).randbytes,
            default_view=lambda door: DoorView(
                DoorSettings(domain=door, suite="intl"), ZoneInfo("UTC")
            ),
            open_io=lambda door: self.open_io(door.door),
            open_reader=lambda door, _: self.open_reader(door.door),
        )
        self.begin = asyncio.Event()
        self.doors = {name: self._door(name) for name in (DOOR, OTHER)}
        self.watch = FreshnessWatch(list(self.doors.values()), self.house)
        self.commanding = Commanding(self.doors, self.house, self._restart)
        self.strikes: dict[str, list[bool]] = {DOOR: [], OTHER: []}
        self._moved = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    def _door(self, name: str) -> DoorTask:
        readers = [{"kind": "virtual", "direction": "in"}]
        config = {"door": name, "io": {"kind": "virtual"}, "readers": readers}
        return DoorTask(Door.model_validate(config), self.house, self.begin)

    def _restart(self) -> None:
        self.restarts += 1

    def open_io(self, door: str) -> VirtualDoorIo:
        io = self.ios[door] = VirtualDoorIo()

        def moved(released: bool) -> None:
            self.strikes[door].append(released)
            self._moved.set()

        io.watch = moved
        return io

    def open_reader(self, door: str) -> VirtualReader:
        return VirtualReader(self.clock, lambda feedback: self.shown.append((door, feedback)))

    async def start(self) -> None:
        self._running = [asyncio.create_task(door.run()) for door in self.doors.values()]
        for door in self.doors.values():
            await door.opened.wait()
        served = asyncio.Event()
        for door in self.doors.values():
            door.changed = served.set
        self.begin.set()
        async with asyncio.timeout(PATIENCE_S):
            while not all(door.served for door in self.doors.values()):
                served.clear()
                await served.wait()

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def policy(self, *, door: dict[str, Any] | None = None, **changes: Any) -> None:
        """Both doors alike, in force and with a fresh heartbeat."""
        settings = {
            "domain": DOOR,
            "suite": "intl",
            "strike_release_s": 100,
            "max_response_ms": 5000,
            **(door or {}),
        }
        envelope = self.voice.new_policy(doors={DOOR: settings, OTHER: settings}, **changes)
        await self.store.offer_policy(envelope, self.clock.now())
        await self.store.apply_staged()
        await self.beat()

    async def beat(self) -> None:
        await self.store.take_heartbeat(self.voice.heartbeat(), self.clock.now())
        await self.look()

    async def lock_down(self, *scopes: tuple[str, str]) -> None:
        """These are locked down, and nothing else."""
        active = [
            Lockdown(id=f"l{number}", scope=scope, name=name, since=self.voice.now())
            for number, (scope, name) in enumerate(scopes)
        ]
        await self.store.take_lockdowns(self.voice.lock_down(*active), self.clock.now())
        await self.look()

    async def look(self) -> None:
        await look_all(self.doors.values())

    async def taken(self, action: Action, door: str | None = DOOR, **changes: Any) -> Command:
        """A command that is counted, and not carried out yet."""
        envelope = self.voice.command(action, SESSION, door, **changes)
        now, _ = self.recorder.judge_time()
        return await self.store.take_command(envelope, SESSION, now)

    async def command(
        self, action: Action, door: str | None = DOOR, **changes: Any
    ) -> dict[str, Any]:
        """Carry out a command; the data of its result, with the event's name."""
        command = await self.taken(action, door, **changes)
        await self.commanding.execute(command)
        results = await self.events("command.executed", "command.refused")
        (result,) = [data for _, data in results if data["command"] == command.id]
        (name,) = [name for name, data in results if data["command"] == command.id]
        return {"result": name, **result}

    async def events(self, *names: str) -> list[tuple[str, dict[str, Any]]]:
        lines = await self.outbox.lines_after(0, 256, 1 << 20)
        events = [EventLine.model_validate_json(each.line) for each in lines]
        named = [(event_name(event.type), event.data) for event in events]
        return [(name, data) for name, data in named if name in names or not names]

    async def modes(self) -> list[tuple[str, str]]:
        """Each change of the front door's mode, and its cause."""
        changes = await self.events("door.mode_changed")
        return [(data["mode"], data["cause"]) for _, data in changes if data["door"] == DOOR]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for strikes to move until this holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._moved.clear()
                await self._moved.wait()


@asynccontextmanager
async def door_stand(folder: Path) -> AsyncIterator[DoorStand]:
    clock = HandClock()
    voice = SiteVoice(SiteKeys(), AGENT)
    voice.now = clock.now
    outbox = await Outbox.open(
        folder / "outbox.db",
        digest=INTL.digest,
        source=f"/sites/{voice.keys.site}/agents/{AGENT}",
        clock=clock,
        random=seeded.Random(2).randbytes,
    )
    store = await TrustStore.open(folder / "trust.db", voice.keys.root, AGENT, clock)
    stand = DoorStand(voice, outbox, store, clock)
    try:
        yield stand
    finally:
        await stand.stop()
        await outbox.close()
        await store.close()
