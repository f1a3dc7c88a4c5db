"""One lock of the simulation: the agent's own rules around a real ESAM, crash and all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, get_args
from zoneinfo import ZoneInfo

from edge_agent.card.application import UnlockQuestion, unlock
from edge_agent.card.binding import BindOutcome, bind
from edge_agent.card.rekeying import RekeyOutcome, rekey
from edge_agent.card.session import listed, perform
from edge_agent.core.decision import Circumstances, Decision, DoorView, decide
from edge_agent.core.key_staging import Ask, Done, Holding, Refuse, next_step
from edge_agent.readers.port import CardRemoved
from edge_agent.secure_element.esam import EsamElement
from edge_agent.secure_element.esam_chip import (
    ChallengeOver,
    Esam,
    EsamUnavailable,
    Loan,
    PackageRefused,
)
from edge_agent.secure_element.port import ElementUnavailable
from edge_agent.virtual.card_os import VirtualCard
from edge_agent.virtual.esam_os import VirtualEsam
from schemas.esam import KeyPlace
from schemas.esam_issue import ControlKey
from schemas.keys import Item, KeyPackage, KeyRequest, StageOrder
from schemas.policy import DoorSettings, PolicyCard, Schedule, Weekday, Window
from schemas.suites import RandomBytes, SuiteName
from tests.card_desk import TickingClock
from tests.rotation_sim.chips import DOMAIN, SITE, Reader, Say, Secrets, Slot, at_once

ANSWER = timedelta(seconds=20)
TRIES = 3
_ALWAYS = Schedule(windows=(Window(start="00:00", end="24:00", days=get_args(Weekday)),))


@cache
def settings_of(suite: SuiteName, preferred: int, accepted: tuple[int, ...]) -> DoorSettings:
    return DoorSettings(
        domain=DOMAIN, suite=suite, key_version=preferred, accepted_key_versions=accepted
    )


@cache
def view_of(settings_key: tuple[SuiteName, int, tuple[int, ...]]) -> DoorView:
    return DoorView(settings_of(*settings_key), ZoneInfo("UTC"), (("staff", _ALWAYS),))


@cache
def policy_card(card: str) -> PolicyCard:
    return PolicyCard(card=card, person="pat", groups=("staff",), domains=(DOMAIN,))


@dataclass(frozen=True)
class Policy:
    """A policy's version, what its doors ask, and the binding of each card that it knows."""

    number: int
    preferred: int
    accepted: tuple[int, ...]
    cards: dict[str, int]


@dataclass(frozen=True)
class Beat:
    """A heartbeat: the newest policy, and the floor."""

    number: int
    policy: int
    floor: int


@dataclass
class Durable:
    """What survives a crash of the agent."""

    policy: Policy | None = None
    beat: Beat | None = None
    events: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    said: int = 0


class SimLock:
    """An agent with one door, on the ESAM in its slot."""

    def __init__(
        self,
        name: str,
        suite: SuiteName,
        chip: VirtualEsam,
        control: ControlKey,
        *,
        secrets: Secrets,
        taken: Counter[bytes],
        transport: dict[str, bytes],
        say: Say,
        random: RandomBytes,
    ) -> None:
        self.name, self.suite = name, suite
        self.durable = Durable()
        self.slot = Slot(chip, secrets, taken)
        self._control = control
        self._secrets, self._transport = secrets, transport
        self._say, self._random = say, random
        self._clock = TickingClock()
        self.connected = False
        self.session = 0
        self.start()

    def start(self) -> None:
        """The agent's process begins; what was in the memory of the last one is gone."""
        self.esam = Esam(self.slot, self._control.serial, [DOMAIN])
        self.esam.lend = self._lend
        self.element = EsamElement(self.esam, DOMAIN, self.suite)
        self.order: StageOrder | None = None
        self._next: StageOrder | None = None
        self._asked: Counter[Item] = Counter()
        self._open: tuple[KeyRequest, datetime] | None = None
        self._count = 0
        self._told: dict[str, Any] | None = None
        self.slot.chip.reset()

    def put(self, chip: VirtualEsam, control: ControlKey) -> None:
        """Another ESAM, by a hand that changes the settings too."""
        self._control = control
        self.slot.chip = chip
        self.start()

    @property
    def chip(self) -> VirtualEsam:
        return self.slot.chip

    @property
    def floor(self) -> int:
        return 1 if self.durable.beat is None else self.durable.beat.floor

    def question(self) -> UnlockQuestion | None:
        """What its reader asks now; None without a policy."""
        policy = self.durable.policy
        if policy is None:
            return None
        settings = settings_of(self.suite, policy.preferred, policy.accepted)
        return UnlockQuestion.of(SITE, settings, self.element.held, frozenset(), self.floor)

    # --- what comes from the server

    def hear(self, kind: str, message: Any, now: datetime) -> None:
        match kind:
            case "policy":
                newest = self.durable.policy
                if newest is None or message.number > newest.number:
                    self.durable.policy = message
                    self.tell_changes()
            case "heartbeat":
                if self.durable.beat is None or message.number > self.durable.beat.number:
                    self.durable.beat = message
                if self.durable.policy is None or message.policy > self.durable.policy.number:
                    self._say("server", "pull", self.name)
            case "stage":
                if message.audience == self.name and now < message.expires:
                    waiting = self._next or self.order
                    if waiting is None or message.counter > waiting.counter:
                        self._next = message
                    self.work(now)
            case "keys":
                if message.audience == self.name and now < message.expires:
                    self._packaged(message)
                    self.work(now)
            case "ack":
                kept = [event for event in self.durable.events if event[0] > message]
                self.durable.events = kept

    # --- orders about keys, as edge_agent.keying carries them out

    def work(self, now: datetime) -> None:
        """One step of the order in hand."""
        if self.order is None:
            self.order, self._next = self._next, None
            self._asked.clear()
        if self.order is None:
            return
        if self._open is not None:
            if now - self._open[1] < ANSWER:
                return
            self._open = None
        order = self.order
        try:
            step = next_step(order, self._holding())
            if isinstance(step, Ask):
                self._asked[step.item] += 1
                if self._asked[step.item] > TRIES:
                    step = Refuse("not_given", f"{step.item} did not get in")
                else:
                    self._ask(step, now)
                    return
        except EsamUnavailable as trouble:
            step = Refuse("unavailable", str(trouble))
        self.order = None
        if isinstance(step, Done):
            self._tell(again=True)
        else:
            assert isinstance(step, Refuse)
            self.record("keys.refused", reason=step.reason, detail=step.detail)

    def _holding(self) -> Holding:
        table = at_once(self.esam.table(DOMAIN))
        return Holding(table.floor or 1, table.versions)

    def _ask(self, step: Ask, now: datetime) -> None:
        if not self.connected:
            raise EsamUnavailable("missing", "there is no connection to the server")
        challenge = at_once(self.esam.challenge())
        self._count += 1
        request = KeyRequest(
            site=SITE,
            audience="server",
            issued=now,
            counter=self._count,
            session=f"{self.session:016x}",
            esam=self.esam.serial.hex(),
            domain=DOMAIN,
            index=1,
            version=step.version,
            item=step.item,
            challenge=challenge.hex(),
        )
        self._open = (request, now)
        self._say("server", "keys", (self.name, request))

    def _packaged(self, package: KeyPackage) -> None:
        if self._open is None or self.order is None:
            return
        names = ("session", "esam", "domain", "index", "version", "item", "challenge")
        if any(getattr(self._open[0], n) != getattr(package, n) for n in names):
            return
        self._open = None
        if package.item is Item.KEYS and package.check_values != self.order.check_values:
            return
        place = KeyPlace(self.esam.serial, 1, package.item, package.version)
        try:
            challenge = bytes.fromhex(package.challenge)
            at_once(self.esam.write(place.header, bytes.fromhex(package.body), challenge))
        except (PackageRefused, ChallengeOver, EsamUnavailable):
            return  # what came of it is read back

    # --- what it says

    def record(self, kind: str, **data: Any) -> None:
        """Durable before it is said."""
        self.durable.said += 1
        self.durable.events.append((self.durable.said, kind, data))

    def look(self) -> None:
        """See whether another chip, or another table of keys, is there."""
        at_once(self.esam.look())
        self.tell_changes()

    def tell_changes(self) -> None:
        self._tell(again=False)

    def _tell(self, *, again: bool) -> None:
        table = self.esam.tables.get(1)
        policy = self.durable.policy
        if table is None:
            return
        said = {
            "held": table.versions,
            "floor": table.floor or 1,
            "preferred": 1 if policy is None else policy.preferred,
            "accepted": () if policy is None else policy.accepted,
        }
        if again or said != self._told:
            self._told = said
            self.record("keys.held", **said)

    # --- cards

    def tap(self, card: VirtualCard, now: datetime) -> Decision | None:
        """Hold a card to the reader; None: it was taken away before the end."""
        question, policy = self.question(), self.durable.policy
        if question is None or policy is None:
            return None
        reader = Reader(card, self._secrets)
        try:
            proof = at_once(
                perform(unlock(question, self._random), reader, self.element, self._clock)
            )
            known = policy_card(proof.card_id) if proof.card_id in policy.cards else None
            decision = decide(
                view_of((self.suite, policy.preferred, policy.accepted)),
                known,
                denial=None,
                proof=proof,
                circumstances=Circumstances(
                    "in", datetime(2026, 1, 5, 12, tzinfo=UTC), 1.0, key_floor=self.floor
                ),
            )
            if not decision.granted:
                return decision
            old = proof.key_version
            assert old is not None
            if old != question.key_version == policy.preferred:
                self._rekey(card, reader, question, old, now)
        except CardRemoved:
            return None
        return decision

    def _rekey(
        self, card: VirtualCard, reader: Reader, question: UnlockQuestion, old: int, now: datetime
    ) -> None:
        script = rekey(card.serial, question, old, self._random)
        try:
            outcome = at_once(perform(script, reader, self.element, self._clock))
        except ElementUnavailable:
            return
        if outcome is RekeyOutcome.REKEYED:
            versions = (old, question.key_version)
            self.record("card.rekeyed", card=card.serial.hex(), versions=versions, time=now)

    def bind(self, card: VirtualCard, now: datetime, epoch: int) -> bool:
        """In a window: give a card the keys of the domain."""
        question = self.question()
        if question is None:
            return False
        reader = Reader(card, self._secrets)
        script = bind(question, self._random)
        keys = listed(self._transport)
        try:
            result = at_once(perform(script, reader, self.element, self._clock, keys))
        except (CardRemoved, ElementUnavailable):
            return False
        if result.outcome not in (BindOutcome.BOUND, BindOutcome.ALREADY_BOUND):
            return False
        about = {"card": card.serial.hex(), "version": question.key_version, "epoch": epoch}
        self.record("card.bound", time=now, **about)
        return True

    async def _lend(self, serial: bytes, challenge: bytes, loan: Loan) -> bytes:
        data = self._control.lend(
            challenge,
            index=loan.index,
            version=loan.version,
            card_id=loan.card_id,
            transport_key=loan.transport_key,
        )
        self._secrets.hear(data)
        return data
