"""Enrolment over real HTTPS on loopback: a site, its desk, and devices with their folders."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from edge_agent import enrol_command
from schemas.enrolment import Claim
from schemas.suites import SuiteName
from server.enrolment.desk import Desk, open_desk
from server.enrolment.listener import listen
from server.enrolment.reception import Reached
from server.feed.hub import Hub
from server.ingest.registry import Registry
from server.link_status import LinkStatus
from server.pki import Authority
from server.site import Site, create_site
from server.state import ServerState
from server.store.announcements import Announcement, waiting
from server.store.database import open_database
from server.tls import listener_files

LOOPBACK = "127.0.0.1"
LIMIT_S = 30
CONFIG = """\
state_dir = "state"
[[doors]]
door = "front"
io = { kind = "virtual" }
readers = [{ kind = "virtual" }]
"""


class Clock:
    """The system's time, set forward at will."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return self.now().timestamp()


class Broker:
    """Remembers what it was told of rights; `away` makes it unreachable."""

    def __init__(self) -> None:
        self.admitted: set[str] = set()
        self.away = False
        self.published: list[tuple[str, bytes]] = []

    def _reach(self) -> None:
        if self.away:
            raise ConnectionError("no broker")

    async def admit(self, agent: str) -> None:
        self._reach()
        self.admitted.add(agent)

    async def expel(self, agent: str) -> None:
        self._reach()
        self.admitted.discard(agent)

    async def reconcile(self, agents: Any) -> None:
        self._reach()
        self.admitted = set(agents)

    async def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        self._reach()
        assert not retain
        self.published.append((topic, payload))


@dataclass
class House:
    """A server that takes devices in."""

    site: Site
    authority: Authority
    engine: AsyncEngine
    state: ServerState
    registry: Registry
    desk: Desk
    clock: Clock
    broker: Broker
    port: int
    came: list[str] = field(default_factory=list)
    went: list[str] = field(default_factory=list)

    async def claim(self, agent: str = "front", **options: Any) -> Claim:
        return (await self.desk.enrolments.claim(agent, "mei", **options)).claim

    async def waiting_keyid(self, agent: str = "front") -> str:
        """The key of the device that waits, once it does."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                for each in await self.desk.enrolments.standings():
                    if each.agent == agent and each.state == "pending":
                        assert each.keyid is not None
                        return each.keyid
                await asyncio.sleep(0.01)  # the device is another thread

    async def announced(self) -> list[Announcement]:
        return await waiting(self.engine, 100)


@asynccontextmanager
async def house(folder: Path, *, suite_name: SuiteName = "intl") -> AsyncIterator[House]:
    site = create_site(folder / "site", "demo", suite_name, secrets.token_bytes, {})
    engine = await open_database(site.database)
    clock, broker = Clock(), Broker()
    state = ServerState(engine, Hub(), site.name, site.suite, LinkStatus("builtin"), clock=clock)
    state.announced = lambda: None
    registry = Registry(engine, site.suite, clock)
    await registry.refresh(now=True)
    listening = listen(LOOPBACK, 0)
    port = listening.getsockname()[1]
    came: list[str] = []
    went: list[str] = []
    authority = site.authority({})
    desk = open_desk(
        state,
        site,
        authority,
        registry=registry,
        rights=broker,
        signer=site.signer("online", {}),
        publish=broker.publish,
        reached=Reached(LOOPBACK, port, f"mqtts://{LOOPBACK}:8883"),
        tls=listener_files(site.path, authority, LOOPBACK, datetime.now(UTC)),
        came=came.append,
        went=went.append,
    )
    state.enrolments = desk.enrolments
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.run(listening))
            yield House(
                site, authority, engine, state, registry, desk, clock, broker, port, came, went
            )
            desk.stop()
    finally:
        listening.close()
        await engine.dispose()


class Device:
    """A lock's computer that is no agent yet."""

    def __init__(self, folder: Path, name: str = "device") -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.config = self.folder / "agent.toml"
        self.config.write_text(CONFIG)

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def enrol(self, code: str, *, again: bool = False) -> None:
        """As `ostiary-agent enrol` does; blocks until it is decided."""
        enrol_command.enrol_device(code, self.config, {}, again=again)

    async def enrolling(self, code: str, *, again: bool = False) -> None:
        await asyncio.to_thread(self.enrol, code, again=again)


async def enrolled(
    rig: House, device: Device, agent: str = "front", *, again: bool = False
) -> None:
    """Claim, enrol and approve."""
    claim = await rig.claim(agent, again=again)
    async with asyncio.TaskGroup() as group:
        group.create_task(device.enrolling(claim.code, again=again))
        keyid = await rig.waiting_keyid(agent)
        await rig.desk.enrolments.approve(agent, keyid, "mei")


def impatient(monkeypatch: Any) -> None:
    """Devices ask again at once, and may."""
    monkeypatch.setattr("server.enrolment.listener.BURST", 10_000.0)
    monkeypatch.setattr("edge_agent.enrol.POLL_S", 0.02)
    monkeypatch.setattr("edge_agent.enrol.SLOW_POLL_S", 0.02)
    begun = time.monotonic()

    def sleep(seconds: float) -> None:
        if time.monotonic() - begun > 4 * LIMIT_S:  # a thread that goes on would hold the tests up
            raise TimeoutError("nobody decided")
        time.sleep(seconds)

    monkeypatch.setattr("edge_agent.enrol_command.sleep", sleep)
