"""Campaigns over a real database and key authority, with locks that answer by their events."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from sqlalchemy import insert

from schemas.envelope import unverified_payload
from schemas.events import event_type
from schemas.keys import StageOrder
from schemas.statement import payload_type
from server.distribution.key_standing import Standings
from server.distribution.lock_keys import LockKeys
from server.distribution.rotation_steps import RotationSteps
from server.distribution.rotations import Rotations
from server.distribution.stage_orders import StageOrders
from server.model.bindings import bind, rekey
from server.store.model_tables import cards, doors, persons
from server.store.rotations import Versions, read_rotations, read_versions
from tests.key_rig import KeyDesk, key_desk

START = datetime(2026, 1, 5, 8, tzinfo=UTC)
DOMAIN = "zone-a"
CARD = "00112233445566aa"


@dataclass
class FakeLock:
    """What one agent holds of the domain, and whether it is there."""

    held: dict[int, Any] = field(default_factory=dict)
    floor: int = 1
    preferred: int = 1
    accepted: tuple[int, ...] = ()
    refuses: str = ""
    there: bool = True


@dataclass
class Rig:
    """The running part, its locks, and an operator."""

    desk: KeyDesk
    clock: Any
    domain: str = DOMAIN
    locks: dict[str, FakeLock] = field(default_factory=dict)
    orders: list[StageOrder] = field(default_factory=list)
    compiled: int = 0

    def __post_init__(self) -> None:
        self.executor = ThreadPoolExecutor(1)
        self.restart()

    def restart(self) -> None:
        """A new server over the same database."""
        desk, self.lock_keys = self.desk, LockKeys(self.clock)
        common = {"engine": desk.engine, "authority": desk.authority, "clock": self.clock}
        self.rotations = Rotations(
            engine=desk.engine,
            standings=Standings(
                suite="intl", lock_keys=self.lock_keys, present=self.present, **common
            ),
            steps=RotationSteps(
                announced=lambda: None, policies_changed=self._policies_changed, **common
            ),
            authority=desk.authority,
            orders=StageOrders(
                site="demo",
                signer=desk.site.signer("keys", {}),
                publish=self._publish,
                executor=self.executor,
                clock=self.clock,
            ),
            lock_keys=self.lock_keys,
            clock=self.clock,
            present=self.present,
            new_id=lambda: secrets.token_hex(4),
        )

    def present(self) -> set[str]:
        return {agent for agent, lock in self.locks.items() if lock.there}

    def _policies_changed(self) -> None:
        self.compiled += 1

    async def _publish(self, topic: str, payload: bytes, retain: bool) -> None:
        assert not retain
        kind = payload_type("stage-order")
        order = StageOrder.model_validate_json(
            unverified_payload(payload, kind, max_bytes=8192), strict=True
        )
        assert topic == f"ostiary/demo/down/{order.audience}/stage"
        self.orders.append(order)

    async def add_locks(self, *agents: str) -> None:
        async with self.desk.engine.begin() as connection:
            for agent in agents:
                self.locks[agent] = FakeLock()
                await connection.execute(
                    insert(doors).values(
                        id=f"door-{agent}",
                        name="",
                        agent=agent,
                        readers="in",
                        domain=self.domain,
                        behaviour="{}",
                        revision=1,
                    )
                )
        self.rotations.model_changed()

    async def look(self, times: int = 1) -> None:
        """The server looks; then policies reach the locks, and each answers its orders."""
        for _ in range(times):
            await self.rotations.look()
            self.clock.pass_(1)
            async with self.desk.engine.connect() as connection:
                asked = (await read_versions(connection)).get(self.domain, Versions())
            for agent, lock in self.locks.items():
                news = (lock.preferred, lock.accepted) != (asked.preferred, asked.accepted)
                if lock.there and news:
                    lock.preferred, lock.accepted = asked.preferred, asked.accepted
                    await self.says(agent)
            orders, self.orders = self.orders, []
            for order in orders:
                await self.obeys(order)

    async def obeys(self, order: StageOrder) -> None:
        lock = self.locks[order.audience]
        if lock.refuses:
            data = {"domain": order.domain, "version": order.version, "reason": lock.refuses}
            await self.event(order.audience, "keys.refused", data | {"detail": "by the test"})
            return
        own = {name: secrets.token_hex(3) for name in ("auth", "admit", "maintain")}
        made = own if order.check_values is None else order.check_values.model_dump()
        lock.held.setdefault(order.version, made)
        lock.floor = max(lock.floor, order.floor)
        lock.held = {v: k for v, k in lock.held.items() if v >= lock.floor}
        await self.says(order.audience)

    async def says(self, agent: str) -> None:
        """`keys.held`."""
        lock = self.locks[agent]
        data = {
            "domain": self.domain,
            "suite": "intl",
            "esam": None,
            "held": lock.held,
            "floor": lock.floor,
            "preferred": lock.preferred,
            "accepted": lock.accepted,
        }
        await self.event(agent, "keys.held", data)

    async def event(self, agent: str, name: str, data: dict[str, Any]) -> None:
        """An agent's signed event is stored."""
        stamp = {"clock": {"status": "synced"}} if name.startswith("keys") else {}
        event = SimpleNamespace(
            type=event_type(name), data=data | stamp, time=self.clock.now(), id=secrets.token_hex(4)
        )
        row = SimpleNamespace(link=SimpleNamespace(event=event), source=agent)
        async with self.desk.engine.begin() as connection:
            await self.lock_keys.project(connection, [row])
        self.rotations.told()

    async def add_card(self, card: str, version: int = 1) -> None:
        async with self.desk.engine.begin() as connection:
            await connection.execute(
                insert(persons).values(id=f"p-{card}", name="", note="", cleared=0, revision=1)
            )
            await connection.execute(
                insert(cards).values(
                    id=card,
                    person=f"p-{card}",
                    state="active",
                    note="",
                    offline=False,
                    slot=0,
                    cleared=0,
                    revision=1,
                )
            )
            await bind(connection, card, self.domain, version, "e-1", self.clock.now())

    async def rekeyed(self, card: str, old: int, new: int) -> None:
        self.clock.pass_(1)
        async with self.desk.engine.begin() as connection:
            await rekey(connection, card, self.domain, old, new, "e-2", self.clock.now())

    async def state(self, id: str) -> str:
        async with self.desk.engine.connect() as connection:
            ((campaign, *_),) = await read_rotations(connection, id=id)
        return campaign.state

    async def events(self) -> list[str]:
        return [name for name, _ in await self.desk.news() if name.startswith("rotation.")]

    async def versions(self) -> Versions:
        async with self.desk.engine.connect() as connection:
            return (await read_versions(connection)).get(self.domain, Versions())


@asynccontextmanager
async def rig_of(
    folder, *agents: str, domain: str = DOMAIN, own: bool = False
) -> AsyncIterator[Rig]:
    async with key_desk(folder / "site") as desk:
        clock = _clock()
        rig = Rig(desk, clock, domain)
        if not own:
            await desk.authority.create_domain(domain, "intl", "test")
        await rig.add_locks(*agents)
        await rig.rotations.load()
        await rig.look(3)
        yield rig


def _clock() -> Any:
    moment = SimpleNamespace(now=START, s=1000.0)

    class _Clock:
        def now(self) -> datetime:
            return moment.now

        def monotonic(self) -> float:
            return float(moment.s)

        def pass_(self, seconds: float) -> None:
            moment.now += timedelta(seconds=seconds)
            moment.s += seconds

    return _Clock()
