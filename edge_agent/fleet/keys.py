"""How an imagined lock carries out orders about keys, and what becomes of cards at its door.

The steps are those of a real lock (`core.key_staging`): one is worked out from what the chip holds,
done, and the next worked out anew. So after a crash it is simply asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any, Protocol

from edge_agent.card.application import UnlockQuestion
from edge_agent.core.key_staging import Ask, Done, Refuse, next_step
from edge_agent.core.trusted_state import TrustedState
from edge_agent.fleet.chip import INDEX, Chip
from schemas.envelope import Signer
from schemas.errors import Replayed
from schemas.events import door_subject
from schemas.keys import KeyPackage, KeyRequest, StageOrder
from schemas.names import SERVER
from schemas.policy import DoorSettings
from schemas.secure_messaging import BadProtection
from schemas.statement import open_statement, sign_statement
from schemas.topics import KEYS

ANSWER_S = timedelta(seconds=20)
"""How long a package may take until it is asked for again."""
TRIES = 3
STEPS = 3
"""A package is asked for, comes, and is in the chip: a crash comes before one, or after all."""


class Lock(Protocol):
    """What the keys need of the member whose lock it is."""

    agent: str
    door: str
    trust: TrustedState
    session: str
    signer: Signer
    cut: Callable[[], None]

    def say(self, channel: str, payload: bytes) -> None: ...

    def event(self, name: str, now: datetime, data: dict[str, Any], subject: str = "") -> None: ...


@dataclass(frozen=True)
class _Question:
    request: KeyRequest
    asked: datetime


class MemberKeys:
    """The keys of one member's lock."""

    def __init__(self, lock: Lock, chip: Chip, *, random: Random, crashes: float = 0.0) -> None:
        """`crashes`: the share of orders in the midst of which the power fails."""
        self.chip = chip
        self.crashed = 0
        self._lock, self._random, self._crashes = lock, random, crashes
        self._order: StageOrder | None = None
        self._question: _Question | None = None
        self._count = self._tries = 0
        self._session = ""
        self._steps_left: int | None = None
        self._told: dict[str, Any] = {}

    def ordered(self, payload: bytes, now: datetime) -> None:
        """Take an order. Raises a SchemaError."""
        order = self._opened(payload, StageOrder, now)
        if order.domain != self.chip.domain:
            return
        self._order, self._question, self._tries = order, None, 0
        self._steps_left = None
        if self._random.random() < self._crashes:
            self._steps_left = self._random.randrange(STEPS)
        self._go_on(now)

    def packaged(self, payload: bytes, now: datetime) -> None:
        """Take a package. Raises a SchemaError."""
        package = self._opened(payload, KeyPackage, now)
        question = self._question
        if question is None or package.challenge != question.request.challenge:
            raise Replayed("no such package is waited for")
        if self._crash():
            return
        self._question, self._tries = None, 0
        try:
            self.chip.write(package.item, package.version, bytes.fromhex(package.body))
        except BadProtection as error:
            self._refuse("failed", str(error), now)
            return
        if not self._crash():
            self._go_on(now)

    def connected(self, now: datetime) -> None:
        """There is another session: what was asked in the last one is not answered any more."""
        self._question = None
        if self._order is not None:
            self._go_on(now)
        self.tell(now)

    def tick(self, now: datetime) -> None:
        """Ask again for what did not come."""
        if self._question is not None and now - self._question.asked > ANSWER_S:
            self._question = None
            self._go_on(now)

    def tell(self, now: datetime, *, again: bool = False) -> None:
        """Say what it has and asks for, if that is news; `again`: in any case."""
        settings = self._settings()
        if settings is None or settings.domain != self.chip.domain:
            return
        holding = self.chip.holding
        held = {
            "domain": settings.domain,
            "suite": settings.suite,
            "esam": self.chip.serial.hex(),
            "held": {version: c.model_dump() for version, c in holding.versions.items()},
            "floor": holding.floor,
            "preferred": settings.key_version,
            "accepted": list(settings.accepted_key_versions),
        }
        if again or held != self._told:
            self._told = held
            self._lock.event("keys.held", now, held)

    def tap(self, card: str, versions: set[int], now: datetime) -> bool | None:
        """Hold up a card with keys of these versions: whether it opened. None: no policy is here.

        A card that opened by another version than the preferred is given that one.
        """
        settings = self._settings()
        if settings is None or settings.domain != self.chip.domain:
            return None
        held = self.chip.held
        question = UnlockQuestion.of(
            self._lock.trust.root.site, settings, held, floor=self.chip.floor
        )
        asked = (question.key_version, *question.accepted_key_versions)
        opened = next((v for v in asked if v in versions and v in held), None)
        if opened is None:
            self._deny(card, settings, now)
            return False
        wanted = settings.key_version
        if opened != wanted and wanted in held:
            versions.intersection_update({opened})  # a card has room for two
            versions.add(wanted)
            rekeyed = {"from_version": opened, "key_version": wanted}
            where = {"door": self._lock.door, "card": card, "domain": settings.domain}
            self._lock.event("card.rekeyed", now, where | rekeyed, door_subject(self._lock.door))
        return True

    def _go_on(self, now: datetime) -> None:
        order = self._order
        assert order is not None
        match next_step(order, self.chip.holding):
            case Done():
                self._order = self._steps_left = None
                self.tell(now, again=True)
            case Refuse() as refusal:
                self._refuse(refusal.reason, refusal.detail, now)
            case Ask() as step:
                self._tries += 1
                if self._tries > TRIES:
                    self._refuse("not_given", f"{step.item} of version {step.version}", now)
                elif not self._crash():
                    self._ask(step, now)
            case step:
                raise AssertionError(f"a chip makes no keys: {step}")

    def _ask(self, step: Ask, now: datetime) -> None:
        lock = self._lock
        if self._session != lock.session:
            self._session, self._count = lock.session, 0
        self._count += 1
        request = KeyRequest(
            site=lock.trust.root.site,
            audience=SERVER,
            issued=now,
            counter=self._count,
            session=lock.session,
            esam=self.chip.serial.hex(),
            domain=self.chip.domain,
            index=INDEX,
            version=step.version,
            item=step.item,
            challenge=self.chip.challenge().hex(),
        )
        self._question = _Question(request, now)
        lock.say(KEYS, sign_statement(request, lock.signer))

    def _crash(self) -> bool:
        if self._steps_left is None:
            return False
        self._steps_left -= 1
        if self._steps_left >= 0:
            return False
        self._order = self._question = self._steps_left = None
        self.chip.power_cut()
        self.crashed += 1
        self._lock.cut()
        return True

    def _refuse(self, reason: str, detail: str, now: datetime) -> None:
        order = self._order
        assert order is not None
        self._order = self._question = self._steps_left = None
        data = {"domain": order.domain, "version": order.version, "reason": reason}
        self._lock.event("keys.refused", now, data | {"detail": detail})

    def _deny(self, card: str, settings: DoorSettings, now: datetime) -> None:
        policy = self._lock.trust.policy
        data: dict[str, Any] = {
            "door": self._lock.door,
            "direction": "in",
            "card": card,
            "domain": settings.domain,
            "policy_version": None if policy is None else policy.counter,
            "policy_age_s": 0.0,
            "latency_ms": {},
            "reason": "key_version_unsupported",
        }
        self._lock.event("access.denied", now, data, door_subject(self._lock.door))

    def _settings(self) -> DoorSettings | None:
        policy = self._lock.trust.policy
        return None if policy is None else policy.doors.get(self._lock.door)

    def _opened(self, payload: bytes, model: type[Any], now: datetime) -> Any:
        trust = self._lock.trust
        return open_statement(
            payload,
            model,
            trust.ring,
            site=trust.root.site,
            audience=self._lock.agent,
            now=now,
        )
