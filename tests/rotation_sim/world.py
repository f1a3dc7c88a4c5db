"""Everything together: locks, cards, a network that can't be trusted, an operator, and time.

One step is one event. After each of them `promises` are held to. All chance is drawn from one seed.
"""

from __future__ import annotations

import random as seeded
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from edge_agent.readers.port import CardRemoved
from edge_agent.virtual.card_os import VirtualCard
from edge_agent.virtual.chip import Tear, TearMoment
from edge_agent.virtual.esam_os import VirtualEsam
from schemas.esam_issue import ControlKey
from schemas.reasons import Reason
from schemas.suites import SuiteName, suite
from tests.key_rig import command
from tests.rotation_sim.centre import Centre, Row
from tests.rotation_sim.chips import Secrets
from tests.rotation_sim.lock import SimLock
from tests.rotation_sim.operator import anything, due
from tests.rotation_sim.promises import Promises

MAX_FLYING = 40
KEPT = 300
MAX_LOCKS, MIN_LOCKS, MAX_CARDS = 7, 3, 8
LOCK_OUTS = (
    Reason.KEY_VERSION_RETIRED,
    Reason.KEY_VERSION_UNSUPPORTED,
    Reason.SECURE_ELEMENT_UNAVAILABLE,
)


@dataclass(frozen=True)
class Flying:
    """A message on its way."""

    to: str
    kind: str
    message: Any


class World:
    """A domain of a few locks and cards."""

    def __init__(self, name: SuiteName, seed: int) -> None:
        self.suite = name
        self.chance = seeded.Random(seed)
        self.bytes = seeded.Random(seed + 1).randbytes
        self.secrets = Secrets(suite(name))
        self.taken: Counter[bytes] = Counter()
        self.flying: list[Flying] = []
        self.kept: list[Flying] = []
        self.now = datetime(2026, 1, 5, tzinfo=UTC)
        self.steps = 0
        self.seen: Counter[str] = Counter()
        self.calm = False
        """The bad times are over: nothing is lost, torn or cut off any more."""
        self.centre = Centre(name, self.secrets, self.say, self.bytes)
        self.locks: dict[str, SimLock] = {}
        self.cards: dict[str, VirtualCard] = {}
        self.transport: dict[str, bytes] = {}
        self.unbound: list[str] = []
        self.epoch = 0
        self.made = 0
        self.promises = Promises(self)
        for _ in range(5):
            self.enrol()
        for _ in range(4):
            self.new_card()

    # --- things

    def esam(self) -> tuple[VirtualEsam, ControlKey, bytes]:
        """A new ESAM, issued, and its control key as the authority keeps it."""
        serial, makers, control = self.bytes(8), self.bytes(16), self.bytes(16)
        stored = self.centre.keep(serial, control)
        algorithms = suite(self.suite)
        chip = VirtualEsam(None, self.suite, serial, makers, self.bytes)
        chip.transmit(bytes.fromhex("00a404000af04f535459024553414d00"))
        challenge = chip.transmit(bytes.fromhex("0084000010"))[:16]
        data = ControlKey(algorithms, serial, makers).successor(challenge, 1, control)
        assert chip.transmit(bytes.fromhex("84d40001") + bytes((len(data),)) + data) == b"\x90\x00"
        return chip, ControlKey(algorithms, serial, control), stored

    def enrol(self) -> None:
        """A new lock."""
        self.made += 1
        name = f"lock-{self.made}"
        chip, control, stored = self.esam()
        self.locks[name] = SimLock(
            name,
            self.suite,
            chip,
            control,
            secrets=self.secrets,
            taken=self.taken,
            transport=self.transport,
            say=self.say,
            random=self.bytes,
        )
        self.centre.rows[name] = Row(control.serial, stored)
        self.promises.unfit.add(name)
        self.connect(self.locks[name])

    def new_card(self) -> None:
        """A card from the factory; it is bound when somebody opens a window for it."""
        serial, transport = self.bytes(8), self.bytes(16)
        self.secrets.add_card(serial)
        self.secrets.add(transport)
        self.cards[serial.hex()] = VirtualCard(None, self.suite, serial, transport, self.bytes)
        self.transport[serial.hex()] = transport
        self.unbound.append(serial.hex())

    # --- the network

    def say(self, to: str, kind: str, message: Any) -> None:
        """Send; it comes or not, later, twice, after what was sent later."""
        for part in message if isinstance(message, tuple) else (message,):
            if isinstance(part, BaseModel):
                self.secrets.hear_text(part.model_dump_json().encode())
        if not self.calm and (self.chance.random() < 0.06 or len(self.flying) >= MAX_FLYING):
            return
        sent = Flying(to, kind, message)
        self.flying.append(sent)
        if not self.calm and self.chance.random() < 0.06:
            self.flying.append(sent)
        if to != "server" and kind != "ack":
            self.kept.append(sent)
            if len(self.kept) > KEPT:
                del self.kept[self.chance.randrange(KEPT)]

    def deliver(self) -> None:
        if not self.flying:
            return
        place = 0 if self.calm else min(int(self.chance.expovariate(0.5)), len(self.flying) - 1)
        self._arrive(self.flying.pop(place))

    def _arrive(self, it: Flying) -> None:
        if it.to == "server":
            self.centre.hear(it.kind, it.message, self.now)
            return
        lock = self.locks.get(it.to)
        if lock is not None and lock.connected:
            lock.hear(it.kind, it.message, self.now)

    def replay(self) -> None:
        """Something old, to its lock again or to another."""
        if self.kept:
            old = self.chance.choice(self.kept)
            to = old.to if self.chance.random() < 0.7 else self.a_lock().name
            if old.kind in ("policy", "heartbeat"):
                to = old.to  # signed for one agent: for another it is refused before all else
            self._arrive(Flying(to, old.kind, old.message))

    def inject(self) -> None:
        """An old package, straight into the contacts of some ESAM."""
        packages = [each.message for each in self.kept if each.kind == "keys"]
        if packages:
            package, lock = packages[-1], self.a_lock()
            if self.chance.random() < 0.5:
                package = self.chance.choice(packages)
            if self.chance.random() < 0.8:
                lock = self.locks.get(package.audience, lock)
            apdu = command(package)
            before = lock.chip.image
            lock.chip.arm(None)
            try:
                answer = lock.chip.transmit(apdu)
            except CardRemoved:
                return  # it has no power
            self.promises.injected(lock, package.esam, apdu, before, answer)

    def connect(self, lock: SimLock) -> None:
        lock.connected = True
        lock.session += 1
        self.centre.came(lock.name)

    def cut(self, lock: SimLock) -> None:
        lock.connected = False
        self.centre.present.discard(lock.name)
        self.flying = [each for each in self.flying if each.to != lock.name]

    # --- what happens

    def a_lock(self) -> SimLock:
        return self.chance.choice(list(self.locks.values()))

    def a_tear(self) -> Tear:
        """Somewhere in what follows."""
        moment = self.chance.choice(list(TearMoment))
        writes = moment in (TearMoment.IN_WRITE, TearMoment.AFTER_WRITE)
        return Tear(moment, self.chance.randint(1, 6 if writes else 24))

    def tap(self) -> None:
        lock = self.a_lock()
        seldom = [0.02 if int(card, 16) % 4 == 0 else 1.0 for card in self.cards]
        [card] = self.chance.choices(list(self.cards.values()), seldom)
        if not self.calm and self.chance.random() < 0.15:
            card.arm(self.a_tear())
        self._tap(lock, card)
        card.arm(None)

    def _tap(self, lock: SimLock, card: VirtualCard) -> None:
        torn, lock.slot.torn = lock.slot.torn, False
        must = self.promises.must_open(lock, card)
        decision = lock.tap(card, self.now)
        fault, lock.slot.torn = lock.slot.torn, torn
        if decision is None:
            self.seen["card torn"] += 1
            return
        self.seen["granted" if decision.granted else f"denied: {decision.reason}"] += 1
        if decision.reason in LOCK_OUTS:
            lock.record("access.denied", card=card.serial.hex())
        if must and not decision.granted and not fault:
            raise AssertionError(f"{card.serial.hex()} is refused at {lock.name}: {decision}")

    def bind(self) -> None:
        """A window for a card that has no keys, or had to be left behind."""
        again = sorted(self.centre.left_behind)
        waiting = self.unbound + again
        if not waiting:
            return
        card = self.cards[self.chance.choice(waiting)]
        lock = self.a_lock()
        if not self.promises.in_service(lock):
            return
        self.epoch += 1
        self.promises.binding(card, self.epoch)
        if not self.calm and self.chance.random() < 0.3:
            card.arm(self.a_tear())
        if lock.bind(card, self.now, self.epoch):
            self.seen["bound"] += 1
            if card.serial.hex() in self.unbound:
                self.unbound.remove(card.serial.hex())
        card.arm(None)

    def tick(self, lock: SimLock) -> None:
        """A lock's timers: go on with its order, say again what was not acknowledged."""
        lock.work(self.now)
        if lock.connected and lock.durable.events:
            self.say("server", "events", (lock.name, lock.durable.events[:20]))

    def work(self) -> None:
        lock = self.a_lock()
        if not self.calm and self.chance.random() < 0.08:
            lock.chip.arm(self.a_tear())
        self.tick(lock)

    def server(self) -> None:
        self.centre.advance(self.now)
        for name in sorted(self.centre.present):
            if self.calm or self.chance.random() < 0.1:
                self.centre.beat(name)

    def mishap(self) -> None:
        """Crashes, cuts, changed chips, comings and goings."""
        lock, draw = self.a_lock(), self.chance.random()
        if draw < 0.35:
            self.cut(lock)
        elif draw < 0.65:
            self.seen["crashed"] += 1
            self.cut(lock)
            lock.start()
            if self.chance.random() < 0.7:
                self.connect(lock)
        elif draw < 0.72:
            self.centre.restart()
            self.seen["server restarted"] += 1
            for each in self.locks.values():
                if each.connected:
                    self.centre.came(each.name)
        elif draw < 0.78:
            self.swap(lock)
        elif draw < 0.83 and len(self.locks) < MAX_LOCKS:
            self.enrol()
        elif draw < 0.86 and len(self.locks) > MIN_LOCKS:
            self.cut(lock)
            del self.locks[lock.name], self.centre.rows[lock.name]
            self.seen["removed"] += 1
        elif draw < 0.93 and len(self.cards) < MAX_CARDS:
            self.new_card()
        else:
            self.lose_card()

    def lose_card(self) -> None:
        """A card is lost, and suspended; nobody holds it to a reader any more."""
        live = [card for card in self.centre.bindings if card in self.cards]
        if len(live) > 3:
            card = self.chance.choice(live)
            self.centre.inactive.add(card)
            self.centre.left_behind.discard(card)
            del self.cards[card]
            self.centre.publish()

    def swap(self, lock: SimLock) -> None:
        """Its ESAM is replaced by a new one, with no keys."""
        self.seen["chip changed"] += 1
        chip, control, stored = self.esam()
        row = self.centre.rows[lock.name]
        row.esam, row.control = control.serial, stored
        self.promises.unfit.add(lock.name)
        self.promises.forget_chip(lock.name)
        lock.put(chip, control)

    def reconnect(self) -> None:
        cut = [lock for lock in self.locks.values() if not lock.connected]
        if cut:
            self.connect(self.chance.choice(cut))

    def look(self) -> None:
        self.a_lock().look()

    def step(self) -> None:
        """One event, whatever it is."""
        [event] = self.chance.choices(_EVENTS, _WEIGHTS)
        self._happens(event)

    def _happens(self, event: Callable[[World], None]) -> None:
        self.steps += 1
        self.now += timedelta(seconds=self.chance.random() * 0.4)
        event(self)
        self.promises.hold()

    def settle(self, at_most: int) -> None:
        """Nothing bad happens any more, and the operator does what is due: until all is quiet.

        Raises AssertionError if it is not within so many steps, and says what is waited for.
        """
        self.calm = True
        for lock in self.locks.values():
            lock.chip.arm(None)
            if not lock.connected:
                self.connect(lock)
        end = self.steps + at_most
        while self.steps < end:
            self._happens(due)
            if self.centre.campaign is None and not self.centre.accepted and self._quiet():
                return
            for event in (World.server, *_CALM):
                self._happens(event)
        centre = self.centre
        raise AssertionError(f"not at its end: {centre.campaign}, {centre.locks()}")

    def _quiet(self) -> bool:
        """Each lock has what it should, and none is in quarantine."""
        centre = self.centre
        return not self.flying and all(
            not row.quarantined
            and row.picture is not None
            and row.picture.preferred == centre.preferred
            and row.picture.floor == centre.floor
            and not self.locks[name].durable.events
            for name, row in centre.rows.items()
        )


_EVENTS = (
    World.deliver,
    World.work,
    World.server,
    World.tap,
    World.look,
    anything,
    World.mishap,
    World.reconnect,
    World.replay,
    World.bind,
    World.inject,
)
_CALM = (*(World.deliver,) * 20, World.work, World.work, World.look, World.tap)
_WEIGHTS = (90, 24, 8, 24, 4, 3, 1, 3, 4, 2, 1)
