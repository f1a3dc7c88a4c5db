"""An agent as it is: stores, link, and a virtual door with people who do not care what fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from edge_agent.app import _keep, _watch_clock
from edge_agent.card.application import UnlockQuestion
from edge_agent.card.binding import bind
from edge_agent.card.session import listed, perform
from edge_agent.commanding import Commanding
from edge_agent.config import Broker, Door
from edge_agent.core.decision import DoorView
from edge_agent.core.lockout import Lockout
from edge_agent.core.trusted_time import TrustedTime
from edge_agent.door_io.virtual import VirtualDoorIo
from edge_agent.door_task import DoorTask
from edge_agent.elements import Elements
from edge_agent.ensemble import Ensemble
from edge_agent.house import House
from edge_agent.link import Link
from edge_agent.readers.port import Feedback
from edge_agent.readers.virtual import VirtualReader
from edge_agent.recorder import Recorder
from edge_agent.transport_keys import TransportKeys
from edge_agent.virtual.card_os import VirtualCard
from schemas.command import Command
from schemas.envelope import Signer
from schemas.events import agent_source
from schemas.policy import DoorSettings
from server.site import Site
from tests.chaos.sides import Side
from tests.chaos.wire import Wire
from tests.chaos.witness import Witness, WitnessedOutbox, WitnessedStore
from tests.link_rig import IdleKeys, IdleRenewals, in_the_clear

TRANSPORT_KEY = bytes(16)
PATIENCE_S = 20.0
"""So long someone holds a card to a reader that does nothing."""


class WitnessedCommands(Commanding):
    """What carries commands out, with someone who knows each that it ever did."""

    side: Agent

    async def _act(self, command: Command) -> datetime:
        self.side.begins(command)
        try:
            acted = await super()._act(command)
        except Exception:
            self.side.witness.refuses(command)
            raise
        if not self.side.disk.dead:
            self.side.witness.executed(command, acted)
        return acted


class WitnessedDoors(Ensemble):
    """The doors of a side."""

    def __init__(self, doors: Sequence[DoorTask], house: House, side: Agent) -> None:
        super().__init__(doors, house, side._fall)
        self._commanding = WitnessedCommands({each.name: each for each in doors}, house, side._fall)
        self._commanding.side = side


class Agent(Side):
    """One agent with one door of the same name, and a street that keeps it busy."""

    def __init__(
        self,
        name: str,
        folder: Path,
        seed: str,
        tally: Counter[str],
        wire: Wire,
        *,
        site: Site,
        capacity: int,
        cards: list[str],
        cleared: Mapping[tuple[str, str], int],
    ) -> None:
        super().__init__(name, folder / name, seed, tally, wire)
        self.suite = site.suite
        self.signer = Signer.of(self.suite.private_key(self.suite.digest(name.encode())))
        self.witness = Witness(name, tally)
        self.outbox: WitnessedOutbox | None = None
        self.store: WitnessedStore | None = None
        self.busy = True
        self._site, self._pinned, self._cleared = site.name, site.root, cleared
        self._capacity = capacity
        self._pause_s, self._burst = self.dice.choice(((0.5, 1), (1.0, 3), (4.0, 3), (10.0, 60)))
        self._apart = folder / f"{name}-element"
        self._apart.mkdir(parents=True)
        self._cards = {
            card: VirtualCard(
                None, self.suite.name, bytes.fromhex(card), TRANSPORT_KEY, self.dice.randbytes
            )
            for card in cards
        }
        self._io = VirtualDoorIo()
        self._reader: VirtualReader | None = None
        self._shown = asyncio.Event()
        self._link: Link | None = None
        self._doors: WitnessedDoors | None = None
        self._recorder: Recorder | None = None

    @property
    def identifier(self) -> str:
        return self.name

    @property
    def waiting(self) -> int | None:
        """Lines that are not acknowledged; None while the agent is down."""
        return self.outbox.state.waiting if self.up and self.outbox else None

    @property
    def freshness(self) -> str:
        """Of its door."""
        if not self.up or self._doors is None:
            return "none"
        return self._doors.reports()[self.name].freshness

    def begins(self, command: Command) -> None:
        """The agent begins to carry out a command."""
        if not self.disk.dead and self._link is not None:
            session = self._link._inbox.session
            self.witness.begins(command, session, self.clock.monotonic())

    async def bind_cards(self) -> None:
        """Write the door's keys on every card."""
        elements = self._elements()
        question = UnlockQuestion(self._site, self.name, self.suite.name, 1)
        for card, plastic in self._cards.items():
            plastic.reset()
            script = bind(question, self.dice.randbytes)
            held, keys = _Held(plastic), listed({card: TRANSPORT_KEY})
            await perform(script, held, elements.get(self.name, self.suite.name), self.clock, keys)

    async def begin(self) -> list[Any]:
        self.outbox = self.store = None
        self.witness.restarted()
        outbox = await WitnessedOutbox.open(
            self.disk.folder / "outbox.db",
            digest=self.suite.digest,
            source=agent_source(self._site, self.name),
            clock=self.clock,
            random=self.dice.randbytes,
            capacity=self._capacity,
        )
        outbox.witness, outbox.cleared, outbox.steady = self.witness, self._cleared, self.clock
        self.witness.stands_at(outbox.state.acknowledged)
        recorder = self._recorder = Recorder(outbox, self.clock, TrustedTime(), self.name, "0")
        store = await self._open_store()
        for statement in (store.state.policy, store.state.heartbeat):
            if statement is not None:
                recorder.time.learn(statement.issued, self.clock.monotonic())
        house = self._house(recorder, store)
        begin = asyncio.Event()
        door = DoorTask(_DOOR.model_copy(update={"door": self.name}), house, begin)
        ensemble = self._doors = WitnessedDoors([door], house, self)
        link = self._link = Link(
            Broker(tls=False),
            store,
            recorder,
            self.signer,
            doors=ensemble,
            renewals=IdleRenewals(),
            keys=IdleKeys(),
            transport=IdleKeys(),
            tls=in_the_clear,
            random=Random(self.dice.random()),
            random_bytes=self.dice.randbytes,
        )
        door.changed = link.doors_changed
        cause = await outbox.begin()
        started = recorder.about_agent(
            "agent.started", cause=cause, version="0", doors={}, policy_version=None
        )
        await recorder.record([started])
        begin.set()
        await link.receipts.catch_up()
        self.outbox, self.store = outbox, store
        return [
            door.run(),
            _keep("link", link.run),
            _keep("refusals", link.refusals.run),
            _keep("freshness", ensemble.watch.run),
            _keep("clock", lambda: _watch_clock(recorder, ensemble.watch.look_now)),
            self._street(recorder),
        ]

    async def _open_store(self) -> WitnessedStore:
        path, disk = self.disk.folder / "trust.db", self.disk
        store = await WitnessedStore.open(path, self._pinned, self.name, self.clock)
        store.witness = self.witness
        store.look_at_disk = lambda: disk.spared(path)
        store.look()
        return store

    def _house(self, recorder: Recorder, store: WitnessedStore) -> House:
        return House(
            site=self._site,
            recorder=recorder,
            store=store,
            elements=self._elements(),
            transport_keys=TransportKeys(
                self._site, self.name, self.signer, self.dice.randbytes, self.clock.now
            ),
            lockout=Lockout(),
            random=self.dice.randbytes,
            default_view=lambda door: DoorView(
                DoorSettings(domain=door, suite=self.suite.name), ZoneInfo("UTC")
            ),
            open_io=lambda _: self._open_io(),
            open_reader=lambda *_: self._open_reader(),
        )

    def _elements(self) -> Elements:
        return Elements(self._apart, bytes(32), Random(self.name).randbytes)

    def _open_io(self) -> VirtualDoorIo:
        self._io, disk = VirtualDoorIo(), self.disk

        def moved(released: bool) -> None:
            if released and not disk.dead and self._recorder is not None:
                now, _ = self._recorder.judge_time()
                self.witness.released(now, self.clock.monotonic())

        self._io.watch = moved
        return self._io

    def _open_reader(self) -> VirtualReader:
        self._reader = VirtualReader(self.clock, self._show)
        return self._reader

    def _show(self, feedback: Feedback) -> None:
        self.tally[f"reader shows {feedback}"] += 1
        self._shown.set()

    async def abandon(self) -> None:
        if self.outbox is not None and not self.disk.dead:
            self.disk.crash()  # a process that ended by itself
        self.outbox = self.store = None

    # The street

    async def _street(self, recorder: Recorder) -> None:
        while True:
            await asyncio.sleep(self.dice.expovariate(1 / self._pause_s))
            if not self.busy:
                continue
            match self.dice.random():
                case luck if luck < 0.15:
                    await self._tap(self.dice.choice(sorted(self._cards)))
                case luck if luck < 0.25:
                    self.witness.permit("exit button", self.clock.monotonic())
                    await self._io.press_rex()
                case _:
                    await self._note_some(recorder)

    async def _tap(self, card: str) -> None:
        if self._reader is None:
            return
        plastic = self._cards[card]
        plastic.reset()

        async def answer(apdu: bytes) -> bytes:
            return plastic.transmit(apdu)

        self._shown.clear()
        self._reader.present(answer)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._shown.wait()
        self._reader.remove()

    async def _note_some(self, recorder: Recorder) -> None:
        count = 1 + int(self.dice.random() * self._burst)
        names = [f"m{len(self.witness.attempted) + n}" for n in range(count)]
        drafts = [recorder.about_door("door.fault", self.name, detail=name) for name in names]
        self.witness.attempted.update(names)
        self.witness.unanswered.update(names)
        stored = await recorder.record(drafts)
        if not self.disk.dead:
            self.witness.unanswered.difference_update(names)
            if not stored:
                self.tally["events the store refused"] += count
                self.witness.refused.update(names)


_DOOR = Door.model_validate(
    {
        "door": "front",
        "io": {"kind": "virtual"},
        "readers": [{"kind": "virtual", "direction": "in"}],
    }
)


class _Held:
    """A card in front of the binding reader."""

    entered = 0.0

    def __init__(self, card: VirtualCard) -> None:
        self._card = card

    async def transmit(self, apdu: bytes) -> bytes:
        return self._card.transmit(apdu)
