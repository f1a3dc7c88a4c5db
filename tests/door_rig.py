"""One door in this process, with real stores, for tests that break the parts around it."""

from __future__ import annotations

import asyncio
import random as seeded
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from edge_agent.card.application import UnlockQuestion
from edge_agent.card.binding import bind
from edge_agent.card.session import listed, perform
from edge_agent.clock import SystemClock
from edge_agent.config import Door
from edge_agent.core.decision import DoorView
from edge_agent.core.lockout import Lockout
from edge_agent.core.trusted_time import TrustedTime
from edge_agent.door_io.virtual import VirtualDoorIo
from edge_agent.door_task import DoorTask
from edge_agent.elements import Elements
from edge_agent.freshness_watch import look_all
from edge_agent.house import House
from edge_agent.outbox import Outbox
from edge_agent.readers.port import Feedback
from edge_agent.readers.virtual import Card, VirtualReader
from edge_agent.recorder import Recorder
from edge_agent.transport_keys import TransportKeys
from edge_agent.trust_store import TrustStore
from edge_agent.virtual.card_os import VirtualCard
from schemas.envelope import Signer
from schemas.events import EventLine, event_name
from schemas.policy import DoorSettings
from schemas.revocation import RevocationReason
from schemas.suites import INTL
from tests.site_keys import SiteKeys
from tests.site_voice import ALL_WEEK, SiteVoice

SITE, AGENT, DOOR = "demo", "front-agent", "front"
SERIAL = bytes.fromhex("00112233445566aa")
TRANSPORT_KEY = bytes(16)
PATIENCE_S = 20.0
REVOCATIONS = [
    pytest.param((SERIAL.hex(), "card", RevocationReason.STOLEN), "card_stolen", id="card"),
    pytest.param(("ada", "person", RevocationReason.LEFT), "card_revoked", id="person"),
    pytest.param(
        (f"{DOOR}/1", "key-version", RevocationReason.COMPROMISED),
        "key_version_retired",
        id="key version",
    ),
]
"""What is revoked, and why the door denies the rig's card then."""


class DoorRig:
    """Open it with `door_rig`. Parts may be replaced before `start`."""

    def __init__(
        self, folder: Path, voice: SiteVoice, outbox: Outbox, store: TrustStore, clock: SystemClock
    ) -> None:
        self.folder, self.voice, self.outbox, self.store = folder, voice, outbox, store
        self.random = seeded.Random(1).randbytes
        self.clock = clock
        self.recorder = Recorder(outbox, self.clock, TrustedTime(), AGENT, "test")
        self.elements = Elements(folder, bytes(32), self.random)
        self.signer = Signer.of(INTL.generate(self.random))
        self.transport_keys = TransportKeys(
            SITE, AGENT, self.signer, self.random, lambda: self.recorder.judge_time()[0]
        )
        self.strike: list[bool] = []
        self.shown: asyncio.Queue[Feedback] = asyncio.Queue()
        """What readers showed, but for the blinks of a window."""
        self.blinks: asyncio.Queue[str] = asyncio.Queue()
        """At which reader."""
        self.io = VirtualDoorIo()
        self.readers: dict[str, VirtualReader] = {}
        self.begin = asyncio.Event()
        self.house = House(
            site=SITE,
            recorder=self.recorder,
            store=store,
            elements=self.elements,
            transport_keys=self.transport_keys,
            lockout=Lockout(),
            random=self.random,
            default_view=lambda door: DoorView(
                DoorSettings(domain=door, suite="intl"), ZoneInfo("UTC")
            ),
            open_io=lambda _: self.open_io(),
            open_reader=lambda _, direction: self.open_reader(direction),
        )
        self.doors = [self.make_door(DOOR)]
        self.running: list[asyncio.Task[None]] = []
        self._moved = asyncio.Event()

    def make_door(self, name: str) -> DoorTask:
        config = Door.model_validate(
            {
                "door": name,
                "io": {"kind": "virtual"},
                "readers": [{"kind": "virtual", "direction": d} for d in ("in", "out")],
            }
        )
        return DoorTask(config, self.house, self.begin)

    def open_io(self) -> VirtualDoorIo:
        self.io = VirtualDoorIo()
        self.io.watch = self._watch
        return self.io

    def _watch(self, released: bool) -> None:
        self.strike.append(released)
        self._moved.set()

    def open_reader(self, direction: str) -> VirtualReader:
        def show(feedback: Feedback) -> None:
            if feedback is Feedback.BINDING:
                self.blinks.put_nowait(direction)
            else:
                self.shown.put_nowait(feedback)

        self.readers[direction] = VirtualReader(self.clock, show)
        return self.readers[direction]

    async def look(self) -> None:
        await look_all(self.doors)

    async def start(self) -> None:
        """As the agent does: hardware first, then what is in force, then serve."""
        self.running = [asyncio.create_task(door.run()) for door in self.doors]
        for door in self.doors:
            await door.opened.wait()
        served = asyncio.Event()
        for door in self.doors:
            door.changed = served.set
        self.begin.set()
        async with asyncio.timeout(PATIENCE_S):
            while not all(door.served for door in self.doors):
                served.clear()
                await served.wait()

    async def stop(self) -> None:
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)

    def policy(self, *, door: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """What `new_policy` takes: the rig's one card may pass at any time."""
        settings = {
            "domain": DOOR,
            "suite": "intl",
            "strike_release_s": 0.2,
            "max_response_ms": 5000,
            **(door or {}),
        }
        return {
            "doors": {DOOR: settings},
            "schedules": {
                "always": {"windows": [{"start": "00:00", "end": "24:00", "days": ALL_WEEK}]}
            },
            "rules": [{"group": "staff", "doors": [DOOR], "schedule": "always"}],
            "cards": [
                {
                    "card": SERIAL.hex(),
                    "person": "ada",
                    "groups": ["staff"],
                    "domains": [DOOR, "other"],
                }
            ],
            **changes,
        }

    async def put_policy(self, **changes: Any) -> None:
        """The next policy is in force, by a fresh heartbeat, and the doors go by it."""
        envelope = self.voice.new_policy(**self.policy(**changes))
        now = self.clock.now()
        await self.store.take_heartbeat(self.voice.heartbeat(), now)
        for digest in await self.store.offer_policy(envelope, now):
            await self.store.add_chunk(self.voice.chunks[digest])
        await self.store.apply_staged()
        await self.look()

    async def card(self, domain: str = DOOR) -> VirtualCard:
        """A card that is bound in `domain`."""
        card = VirtualCard(None, "intl", SERIAL, TRANSPORT_KEY, self.random)
        question = UnlockQuestion(SITE, domain, "intl", 1)
        card.reset()
        element, keys = self.elements.get(domain, "intl"), listed({SERIAL.hex(): TRANSPORT_KEY})
        await perform(bind(question, self.random), _Held(card), element, self.clock, keys)
        return card

    async def tap(self, card: VirtualCard, direction: str = "in") -> Feedback:
        card.reset()

        async def answer(apdu: bytes) -> bytes:
            return card.transmit(apdu)

        return await self.present(answer, direction)

    async def present(self, answer: Card, direction: str = "in") -> Feedback:
        """Hold up anything that answers APDUs."""
        self.readers[direction].present(answer)
        async with asyncio.timeout(PATIENCE_S):
            return await self.shown.get()

    async def events(self, *names: str) -> list[tuple[str, dict[str, Any]]]:
        """Name and data of those of these names that are durable, in order."""
        lines = await self.outbox.lines_after(0, 4096, 1 << 23)
        found = [EventLine.model_validate_json(each.line) for each in lines]
        named = [(event_name(each.type), each.data) for each in found]
        return [(name, data) for name, data in named if name in names]

    async def last_access(self) -> dict[str, Any]:
        """What was decided last."""
        return (await self.events("access.granted", "access.denied"))[-1][1]

    async def until_strike(self, *, released: bool) -> None:
        await self.until(lambda: self.io.released is released)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for strikes to move until this holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._moved.clear()
                await self._moved.wait()


class _Held:
    def __init__(self, card: VirtualCard) -> None:
        self.entered = 0.0
        self._card = card

    async def transmit(self, apdu: bytes) -> bytes:
        return self._card.transmit(apdu)


@asynccontextmanager
async def door_rig(folder: Path) -> AsyncIterator[DoorRig]:
    clock, voice = SystemClock(), SiteVoice(SiteKeys(site=SITE), AGENT)
    outbox = await Outbox.open(
        folder / "outbox.db",
        digest=INTL.digest,
        source=f"/sites/{SITE}/agents/{AGENT}",
        clock=clock,
        random=seeded.Random(2).randbytes,
    )
    store = await TrustStore.open(folder / "trust.db", voice.keys.root, AGENT, clock)
    rig = DoorRig(folder, voice, outbox, store, clock)
    try:
        yield rig
    finally:
        await rig.stop()
        await outbox.close()
        await store.close()
