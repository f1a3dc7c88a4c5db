"""The server of the simulation: the real core of rotations and a real home of keys, with no disk.

What is an attribute of `Centre` is durable; `restart` loses what a process keeps in memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from schemas.keys import PACKAGE_LIFE, CheckValues, Item, KeyRequest, Purpose, StageOrder
from schemas.suites import RandomBytes, SuiteName
from server.core import rotation
from server.core.rotation import (
    Campaign,
    Destroy,
    Domain,
    Lock,
    NotNow,
    Picture,
    Prefer,
    RaiseFloor,
    Step,
)
from server.core.rotation_pace import Pace
from server.core.rotation_plan import plan
from server.core.rotation_waves import waves
from server.keys.home import Source
from server.keys.packages import answer, place_of
from server.keys.sealed import SealedHome
from tests.rotation_sim.chips import DOMAIN, SITE, Say, Secrets
from tests.rotation_sim.lock import Beat, Policy


@dataclass
class Row:
    """What is known of one lock."""

    esam: bytes
    control: bytes
    wave: int = rotation.LAST_WAVE
    quarantined: bool = False
    refusal: str = ""
    picture: Picture | None = None
    taken: int = 0
    """The last event of it that is stored."""


@dataclass
class Binding:
    """The versions that a card is known to have, and the epoch of its binding."""

    version: int
    other: int | None
    time: datetime
    epoch: int


class Centre:
    """One domain under the key authority."""

    def __init__(self, name: SuiteName, secrets: Secrets, say: Say, random: RandomBytes) -> None:
        self.suite = name
        self._secrets, self._say, self._random = secrets, say, random
        self._drawn: list[bytes] = []
        self._home = SealedHome(SITE, random(32), self._draw)
        self._stored: dict[int, bytes] = {}
        self.checks: dict[int, CheckValues] = {}
        self.destroyed: set[int] = set()
        self.floor = 1
        self.preferred, self.accepted = 1, ()
        self.campaign: Campaign | None = None
        self.past: list[Campaign] = []
        self.rows: dict[str, Row] = {}
        self.bindings: dict[str, Binding] = {}
        self.inactive: set[str] = set()
        self.left_behind: set[str] = set()
        self.policy = Policy(1, 1, (), {})
        self.count = 0
        self.happened: Counter[str] = Counter()
        self.new_version(1)
        self.restart()

    def restart(self) -> None:
        """The process ends and begins."""
        self._pace = Pace()
        self.present: set[str] = set()

    def _draw(self, count: int) -> bytes:
        drawn = self._random(count)
        if count == 16:
            self._drawn.append(drawn)
        return drawn

    # --- the key authority

    def new_version(self, version: int) -> None:
        self._drawn.clear()
        made = self._home.new_version(DOMAIN, self.suite, version)
        self._secrets.add_version(version, dict(zip(Purpose, self._drawn, strict=True)))
        self._stored[version], self.checks[version] = made.stored, made.check_values

    def keep(self, serial: bytes, control: bytes) -> bytes:
        self._secrets.add(control)
        return self._home.keep_control_key(self.suite, serial, control)

    def _package(self, agent: str, request: KeyRequest, now: datetime) -> None:
        """As server.keys.issuing and esams have it; who may not have a key hears nothing."""
        row = self.rows.get(agent)
        if row is None or bytes.fromhex(request.esam) != row.esam or request.index != 1:
            return
        challenge = bytes.fromhex(request.challenge)
        if request.item is Item.FLOOR:
            if request.version > self.floor:
                return
            body = self._home.floor(self.suite, row.control, challenge, place_of(request))
            checks = None
        else:
            if request.version < self.floor or request.version in self.destroyed:
                return
            source = Source(DOMAIN, self.suite, request.version, self._stored[request.version])
            body, checks = self._home.package(source, row.control, challenge, place_of(request))
        self.count += 1
        package = answer(request, agent, body, checks, issued=now, counter=self.count)
        self._say(agent, "keys", package)

    # --- what it hears

    def hear(self, kind: str, message: Any, now: datetime) -> None:
        match kind:
            case "pull":
                self._say(message, "policy", self.policy)
            case "keys":
                self._package(*message, now)
            case "events":
                agent, events = message
                row = self.rows.get(agent)
                if row is None:
                    return
                for number, name, data in events:
                    if number == row.taken + 1:
                        row.taken = number
                        self._take(agent, row, name, data)
                self._say(agent, "ack", row.taken)

    def came(self, agent: str) -> None:
        """The agent reports on a new connection."""
        self.present.add(agent)
        self._pace.forget(agent)
        self.beat(agent)

    def beat(self, agent: str) -> None:
        self.count += 1
        self._say(agent, "heartbeat", Beat(self.count, self.policy.number, self.floor))

    def _take(self, agent: str, row: Row, name: str, data: dict[str, Any]) -> None:
        match name:
            case "keys.held":
                row.picture = Picture(
                    data["held"], data["floor"], data["preferred"], data["accepted"]
                )
                row.refusal = ""
                self._pace.answered(agent)
            case "keys.refused":
                row.refusal = data["reason"]
                self.happened[f"refused: {data['reason']}"] += 1
                self._pace.answered(agent)
            case "card.rekeyed":
                old, new = data["versions"]
                self.happened["re-keyed"] += 1
                binding = self.bindings[data["card"]]
                if data["time"] > binding.time:
                    binding.version, binding.other, binding.time = new, old, data["time"]
            case "card.bound":
                before = self.bindings.get(data["card"])
                if before is None or data["time"] > before.time:
                    self.bindings[data["card"]] = Binding(
                        data["version"], None, data["time"], data["epoch"]
                    )
                    self.publish()
                    if data["version"] not in (self.preferred, *self.accepted):
                        assert row.quarantined, "a card was bound by a version that is over"
                        self.left_behind.add(data["card"])
            case "access.denied":
                binding = self.bindings.get(data["card"])
                if binding and data["card"] not in self.inactive and self.campaign:
                    if data["card"] in self.left_behind or row.quarantined:
                        return
                    self.happened["locked out"] += 1
                    self.apply(rotation.locked_out(self.campaign, data["card"], "a door"))

    def publish(self) -> None:
        """A new policy for all."""
        cards = {c: b.epoch for c, b in self.bindings.items() if c not in self.inactive}
        self.policy = Policy(self.policy.number + 1, self.preferred, self.accepted, cards)

    # --- rotations

    @property
    def domain(self) -> Domain:
        checks = {v: c for v, c in self.checks.items() if v not in self.destroyed}
        return Domain(DOMAIN, self.preferred, self.accepted, self.floor, checks)

    def locks(self) -> list[Lock]:
        return [
            Lock(
                agent,
                row.wave,
                row.picture,
                agent in self.present,
                row.quarantined,
                row.refusal,
            )
            for agent, row in self.rows.items()
        ]

    def behind(self, version: int) -> set[str]:
        """Live cards that are not known to have that version."""
        return {
            card
            for card, binding in self.bindings.items()
            if card not in self.inactive and version not in (binding.version, binding.other)
        }

    def apply(self, step: Step) -> None:
        """Make a step durable, with all that follows from it."""
        self.campaign = step.campaign
        for effect in step.effects:
            match effect:
                case Prefer():
                    self.preferred, self.accepted = effect.preferred, effect.accepted
                    self.publish()
                case RaiseFloor():
                    assert effect.floor >= self.floor
                    self.floor = effect.floor
                case Destroy():
                    assert effect.version < self.floor
                    self.destroyed.add(effect.version)
                    self._stored[effect.version] = b""
        if step.event:
            self.happened[step.event] += 1
        if step.campaign.ended:
            self.past.append(step.campaign)
            self.campaign = None

    def advance(self, now: datetime) -> None:
        """What follows by itself."""
        while self.campaign is not None:
            step = rotation.advance(self.campaign, self.locks(), self.domain)
            if step is None:
                break
            self.apply(step)
        domain = self.domain
        orders = []
        for lock in self.locks():
            if lock.quarantined and rotation.is_back(lock, domain, self.campaign):
                self.rows[lock.agent].quarantined = False
                self.happened["left quarantine"] += 1
            order = rotation.order_for(lock, domain, self.campaign)
            if lock.reachable and order is not None:
                orders.append(order)
        for order in self._pace.now_due(orders, now):
            self._order(order, now)

    def _order(self, order: rotation.Order, now: datetime) -> None:
        self.count += 1
        statement = StageOrder(
            site=SITE,
            audience=order.agent,
            issued=now,
            expires=now + PACKAGE_LIFE,
            counter=self.count,
            domain=DOMAIN,
            suite=self.suite,
            version=order.version,
            check_values=order.checks,
            floor=order.floor,
        )
        self._say(order.agent, "stage", statement)

    # --- the operator

    def begin(self, now: datetime, overlap: timedelta, *, hold: bool) -> None:
        """Plan and start. Raises NotNow."""
        version = max(self.checks) + 1
        identity = f"r{len(self.past)}"
        campaign = plan(identity, self.domain, version, now + overlap, self.past)
        self.new_version(version)
        for agent, wave in waves((a, a in self.present) for a in self.rows).items():
            self.rows[agent].wave = wave
            self.rows[agent].refusal = ""
        self.apply(rotation.start(campaign, hold=hold))

    def resume(self) -> None:
        """Raises NotNow."""
        if self.campaign is not None:
            for row in self.rows.values():
                row.refusal = ""
            self.apply(rotation.resume(self.campaign))

    def quarantine(self, agent: str) -> None:
        self.rows[agent].quarantined = True
        self.happened["quarantined"] += 1

    def retire(self, now: datetime, *, leave_behind: bool, destroy: bool) -> None:
        """Raises NotNow."""
        if self.campaign is None:
            return
        behind = self.behind(self.campaign.to_version)
        step = rotation.retire(
            self.campaign,
            self.locks(),
            len(behind),
            now,
            leave_behind=leave_behind,
            destroy=destroy,
        )
        if leave_behind or now >= self.campaign.deadline:
            self.left_behind |= behind
        self.happened["left behind"] += len(behind)
        self.apply(step)

    def roll_back(self) -> None:
        """Raises NotNow."""
        if self.campaign is None:
            return
        step, back = rotation.roll_back(self.campaign, f"r{len(self.past)}-back")
        self.apply(step)
        if back is not None:
            self.campaign = replace(back)
            self.happened["turned back"] += 1


__all__ = ["Centre", "NotNow"]
