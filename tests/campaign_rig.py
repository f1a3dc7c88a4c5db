"""Rotations over a real store and key authority, and locks that do what a test says.

A lock hears orders as they are published and policies as they are committed, and answers with
events that the ledger stores, as the server's ingest does.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from schemas.keys import StageOrder
from schemas.statement import open_statement
from schemas.topics import STAGE, down
from server.clock import microseconds
from server.core.rotation import Campaign, Picture
from server.distribution.key_standing import Standings
from server.distribution.lock_keys import LockKeys
from server.distribution.rotation_steps import RotationSteps
from server.distribution.rotations import Rotations
from server.distribution.stage_orders import StageOrders
from server.ingest.ledger import Ledger
from server.ingest.verify import Refusal
from server.keys.authority import KeyAuthority
from server.model.bindings import rekey
from server.store import rotations as rows
from server.store.announcements import announcements
from server.store.model_tables import bindings, cards, doors, persons, touched
from tests.campaign_lock import ZONE, Chains, FakeLock
from tests.key_rig import KeyDesk, key_desk
from tests.mortal_engine import Mortal, Stopped
from tests.orders_rig import FakeClock
from tests.site_keys import SiteKeys

SITE, SHED = "demo", "shed"
LIMIT_S = 20


class Campaigns:
    """The server's part, made anew by `start`, and the locks around it."""

    def __init__(self, desk: KeyDesk, executor: Executor) -> None:
        self._desk = desk
        self.mortal = Mortal(desk.engine)
        self.engine = desk.engine
        """That of the locks' world, which does not end."""
        self.keys = SiteKeys()
        self.clock = FakeClock()
        self.locks: dict[str, FakeLock] = {}
        self.changed = asyncio.Condition()
        self.died = asyncio.Event()
        self._executor, self._ids = executor, itertools.count(1)
        self._chains = Chains(SITE)
        self.alarms: list[Refusal] = []
        self._ingest, self._policing = asyncio.Lock(), asyncio.Lock()
        self._looks = 0
        self.policies = 0
        """How often the policies of doors had to be made anew."""
        self._words, self._last_word = 0, -1
        self._told: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self.make()

    def make(self) -> None:
        """As at the start of a process: all that is in memory only is gone."""
        engine: Any = self.mortal
        self.authority = KeyAuthority(
            engine=engine, homes=self._desk.homes, clock=self.clock, announced=self._announced
        )
        self.lock_keys = LockKeys(self.clock)
        self.ledger = Ledger(self.engine, [self.lock_keys.project])
        common: dict[str, Any] = {
            "engine": engine,
            "authority": self.authority,
            "clock": self.clock,
        }
        self.standings = Standings(
            **common,
            suite="intl",
            lock_keys=self.lock_keys,
            present=self.present,
            alarm=self.alarms.append,
        )
        self.rotations = Rotations(
            **common,
            standings=self.standings,
            steps=RotationSteps(
                **common,
                standings=self.standings,
                announced=self._announced,
                policies_changed=self._policies_changed,
            ),
            orders=StageOrders(
                site=SITE,
                signer=self.keys.signer("keys"),
                publish=self._publish,
                executor=self._executor,
                clock=self.clock,
            ),
            lock_keys=self.lock_keys,
            present=self.present,
            new_id=lambda: f"{next(self._ids):08x}",
        )

    async def start(self) -> None:
        """Load and run, until `stop`."""
        await self.authority.load()
        await self.ledger.load()
        await self.rotations.load()
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._answer())]

    async def stop(self) -> None:
        """The process ends; locks live on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def restart(self) -> None:
        """The process ends, here or where it died, and another begins."""
        await self.stop()
        self.died.clear()
        self.mortal.dies_at = None
        self.make()
        await self.start()
        await self.model_changed()
        for lock in self.locks.values():
            # An agent that hears the server again is told the newest policy, and says again what
            # was not acknowledged: the end may have come between its deed and its word.
            await self.policy(lock)
            await self.says_held(lock)

    async def restart_after(self, words: int) -> None:
        """The process ends when so many more words of locks are stored, the last not taken in."""
        self._last_word = self._words + words
        with pytest.raises(Stopped):
            await self.when(lambda: False)
        await self.restart()

    async def _run(self) -> None:
        try:
            await self.rotations.run()
        except Stopped:
            self.died.set()
            await self._announce_change()

    def present(self) -> set[str]:
        self._looks += 1
        return {lock.agent for lock in self.locks.values() if lock.online}

    # The model.

    async def add_lock(
        self, agent: str, domain: str = ZONE, *, new: bool = False, **changes: Any
    ) -> FakeLock:
        """An agent that serves one door of the domain and has its keys as they are now.

        `new`: it has none yet, and has said nothing.
        """
        lock = FakeLock(agent, domain, **changes)
        known = {d.name: d for d in await self.authority.domains()}
        if not (new or lock.held) and domain in known:
            lock.held = {1: known[domain].versions[0].check_values}
        self.locks[agent] = lock
        async with self.engine.begin() as connection:
            row = {"name": agent, "readers": "in", "behaviour": "{}", "revision": 1}
            await connection.execute(
                insert(doors).values(id=f"door-{agent}", agent=agent, domain=domain, **row)
            )
        if not new:
            await self.says_held(lock)
        await self.model_changed()
        return lock

    async def add_card(
        self,
        card: str,
        version: int = 1,
        *,
        domain: str = ZONE,
        other: int | None = None,
        **of: Any,
    ) -> None:
        """An active card with keys of the domain."""
        async with self.engine.begin() as connection:
            if await connection.scalar(select(persons.c.id).where(persons.c.id == "ann")) is None:
                ann = {"id": "ann", "name": "Ann", "note": "", "cleared": 0, "revision": 1}
                await connection.execute(insert(persons).values(**ann))
            values = {"person": "ann", "state": "active", "slot": 0, "cleared": 0} | of
            await connection.execute(
                insert(cards).values(id=card, revision=1, note="", offline=False, **values)
            )
            await connection.execute(
                insert(bindings).values(
                    card=card,
                    domain=domain,
                    key_version=version,
                    other_version=other,
                    event="0" * 16 + "-1",
                    time_us=1,
                )
            )

    async def model_changed(self) -> None:
        """The server has read all anew."""
        self.rotations.model_changed()
        await self.looked()

    async def rekeyed(self, card: str, old: int, new: int) -> None:
        """The card has keys of the version `new` now, beside those that it opened with."""
        self.clock.pass_time(1)
        async with self.engine.begin() as connection:
            await rekey(connection, card, ZONE, old, new, "0" * 16 + "-2", self.clock.now())

    async def versions(self, domain: str = ZONE) -> rows.Versions:
        """What doors of the domain are to ask for."""
        async with self.engine.connect() as connection:
            return (await rows.read_versions(connection)).get(domain, rows.Versions())

    # What locks say.

    async def event(
        self, agent: str, name: str, data: dict[str, Any], time: datetime | None = None
    ) -> None:
        """The agent's event is committed, as ingest does it: one at a time."""
        async with self._ingest:
            await self._commit(agent, name, data, time or self.clock.now())

    async def _commit(self, agent: str, name: str, data: dict[str, Any], time: datetime) -> None:
        row, head = self._chains.next(agent, name, data, time)
        now_us = microseconds(self.clock.now())
        await self.ledger.commit([row], {(agent, head.chain): head}, now_us)
        self._chains.heads[agent] = head
        self._words += 1
        if self._words == self._last_word:
            raise Stopped
        self.rotations.told()

    async def says_held(self, lock: FakeLock, time: datetime | None = None) -> None:
        await self.event(lock.agent, "keys.held", lock.keys_held(), time)

    async def denies(
        self, agent: str, card: str, reason: str = "key_version_retired", domain: str = ZONE
    ) -> None:
        """A door refuses a card."""
        data = {"door": f"door-{agent}", "card": card, "reason": reason, "domain": domain}
        await self.event(agent, "access.denied", data)

    async def policy(self, lock: FakeLock) -> None:
        """The newest policy reaches the lock."""
        if lock.deaf or not lock.online:
            return
        async with self._policing:  # an agent takes no older policy after a newer one
            if lock.ask_for(await self.versions(lock.domain)):
                await self.says_held(lock)

    async def comes_back(self, lock: FakeLock) -> None:
        """A lock that was away is there again; what it lacks it is given before it prefers it."""
        lock.online = lock.was_away = True
        self.rotations._wake.set()
        await self.policy(lock)

    def _policies_changed(self) -> None:
        self.policies += 1
        self._told.put_nowait(None)

    async def _publish(self, topic: str, payload: bytes, retain: bool) -> None:
        assert not retain
        self._told.put_nowait((topic, payload))

    async def _answer(self) -> None:
        while True:
            told = await self._told.get()
            if told is None:
                for lock in self.locks.values():
                    await self.policy(lock)
            else:
                await self._obey(*told)

    async def _obey(self, topic: str, payload: bytes) -> None:
        lock = next(k for k in self.locks.values() if topic == down(SITE, k.agent, STAGE))
        order = open_statement(
            payload,
            StageOrder,
            self.keys.root.key_ring(),
            site=SITE,
            audience=lock.agent,
            now=self.clock.now(),
        )
        lock.orders.append(order)
        await self._announce_change()
        if lock.silent or not lock.online:
            return
        await self.event(lock.agent, *lock.obey(order))
        if lock.was_away:
            await self.policy(lock)

    # What a test waits for.

    def _announced(self) -> None:
        self._waking = asyncio.ensure_future(self._announce_change())

    async def _announce_change(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def campaign(self, id: str) -> Campaign:
        async with self.engine.connect() as connection:
            return (await rows.read_rotations(connection, id=id))[0][0]

    async def until(self, id: str, state: str) -> Campaign:
        """The campaign, as soon as it is so."""
        async with asyncio.timeout(LIMIT_S):
            while (campaign := await self.campaign(id)).state != state:
                await self.next()
        return campaign

    async def when(self, there: Callable[[], Any]) -> None:
        """As soon as this is so; looked at whenever something was published or committed."""
        async with asyncio.timeout(LIMIT_S):
            while not there():
                await self.next()

    async def hold(self, version: int, *agents: str) -> None:
        """The server knows that these have the version; none are named: that all have."""
        await self._said(lambda picture: version in picture.held, agents, ZONE)

    async def prefer(self, version: int, *agents: str, domain: str = ZONE) -> None:
        """The server knows that these prefer the version; none are named: that all do."""
        await self._said(lambda picture: picture.preferred == version, agents, domain)

    async def _said(
        self, there: Callable[[Picture], bool], agents: Collection[str], domain: str
    ) -> None:
        def so() -> bool:
            locks = {s.domain.name: s.locks for s in self.standings.all()}.get(domain, {})
            pictures = [locks[a].picture if a in locks else None for a in agents or locks]
            return bool(pictures) and all(p is not None and there(p) for p in pictures)

        await self.when(so)

    async def looked(self) -> None:
        """The server has looked at everything once more, with all that is so by now."""
        async with self.rotations._turn:
            before = self._looks
            self.rotations._wake.set()
        await self.when(lambda: self._looks > before)
        async with self.rotations._turn:
            pass

    async def next(self) -> None:
        """Something was published or committed; raises Stopped if the process ended meanwhile."""
        async with self.changed:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await self.changed.wait()
        for task in self._tasks:
            if task.done():
                task.result()
        if self.died.is_set():
            raise Stopped

    async def events(self) -> list[str]:
        """Names of the rotation's own events, oldest first."""
        async with self.engine.connect() as connection:
            query = select(announcements.c.name).order_by(announcements.c.id)
            return [n for n in await connection.scalars(query) if n.startswith("rotation.")]

    async def touched(self) -> set[str]:
        """Whose policies are to be made anew."""
        async with self.engine.connect() as connection:
            return set(await connection.scalars(select(touched.c.agent)))


@asynccontextmanager
async def campaigns(path: Path, locks: int = 3) -> AsyncIterator[Campaigns]:
    """A domain under the key authority, with so many locks."""
    async with key_desk(path) as desk:
        await desk.authority.create_domain(ZONE, "intl", "test")
        with ThreadPoolExecutor(1, "sign") as executor:
            made = Campaigns(desk, executor)
            await made.start()
            for number in range(locks):
                await made.add_lock(f"agent-{number}")
            try:
                yield made
            finally:
                await made.stop()
