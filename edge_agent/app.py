"""The agent, put together: doors, link, clock and watchdog in one task group."""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from zoneinfo import ZoneInfo

from edge_agent.clock import Clock, SystemClock
from edge_agent.commanding import EXIT_TO_RESTART
from edge_agent.config import Config, Door, GpioIo, PcscReaderConfig
from edge_agent.core.decision import Direction, DoorView
from edge_agent.core.lockout import Lockout
from edge_agent.core.trusted_time import TrustedTime
from edge_agent.door_io.gpio import GpioDoorIo
from edge_agent.door_io.port import DoorIo
from edge_agent.door_task import DoorTask
from edge_agent.elements import Elements, open_esams
from edge_agent.ensemble import Ensemble
from edge_agent.esam_watch import EsamWatch
from edge_agent.files import read_kek
from edge_agent.house import House
from edge_agent.identity import open_identity
from edge_agent.keying import Keying
from edge_agent.link import Link
from edge_agent.log import log
from edge_agent.outbox import Outbox, OutboxFailed
from edge_agent.readers.pcsc import PcscReader
from edge_agent.readers.port import Reader
from edge_agent.recorder import Recorder
from edge_agent.renewal import Renewals
from edge_agent.state_dir import hold
from edge_agent.tls import TlsIdentity
from edge_agent.transport_keys import TransportKeys
from edge_agent.trust_store import TrustStore
from edge_agent.virtual.doorway import Doorway
from edge_agent.watchdog import Notifier
from schemas.envelope import Signer
from schemas.errors import SchemaError
from schemas.events import agent_source
from schemas.policy import DoorSettings
from schemas.root import Root, open_first_root
from schemas.suites import suite

CLOCK_LOOK_S = 1.0
STEP_S = 2.0
RESTART_PAUSE_S = 5.0


class CannotStart(Exception):
    """Something the agent can't be without; the message says what to do."""


@dataclass
class Parts:
    """What every command of the agent stands on."""

    config: Config
    root: Root
    clock: Clock
    signer: Signer
    elements: Elements
    tls: TlsIdentity

    @classmethod
    def open(cls, config: Config) -> Parts:
        """Read the root document and open the agent's secrets, making them at first use.

        Raises CannotStart, UnsafeKeyFile, SchemaError or OSError.
        """
        root = load_root(config)
        kek = read_kek(config.sealing_key, secrets.token_bytes)
        signer = open_identity(
            config.state_dir, config.agent, kek, suite(root.suite), secrets.token_bytes
        )
        clock = SystemClock()
        esams = open_esams(config, clock, secrets.token_bytes)
        elements = Elements(config.state_dir, kek, secrets.token_bytes, esams)
        return cls(config, root, clock, signer, elements, TlsIdentity(config.state_dir, kek))

    async def tls_context(self, root: Root) -> ssl.SSLContext | None:
        """What the link shows and trusts; None in the clear. Raises BadSignature or OSError."""
        if not self.config.broker.tls:
            return None
        return await asyncio.to_thread(self.tls.context, root)

    async def open_outbox(self) -> Outbox:
        """The agent's event store."""
        return await Outbox.open(
            self.config.outbox_path,
            digest=suite(self.root.suite).digest,
            source=agent_source(self.config.site, self.config.agent),
            clock=self.clock,
            random=secrets.token_bytes,
            capacity=self.config.capacity,
        )

    def default_view(self, door: str) -> DoorView:
        """A door that no policy speaks of: one lock, one domain, and nobody may pass."""
        return DoorView(DoorSettings(domain=door, suite=self.root.suite), ZoneInfo("UTC"))

    def open_io(self, door: Door, doorway: Doorway) -> DoorIo:
        """The door's hardware."""
        if isinstance(door.io, GpioIo):
            return GpioDoorIo(**door.io.model_dump(exclude={"kind"}))
        return doorway.door_io(door.door)

    def open_reader(self, door: Door, direction: Direction, doorway: Doorway) -> Reader:
        """The reader on one side of the door."""
        (reader,) = (each for each in door.readers if each.direction == direction)
        if isinstance(reader, PcscReaderConfig):
            return PcscReader(reader.name, self.clock)
        return doorway.reader(door.door, direction)


def load_root(config: Config) -> Root:
    """The pinned root document. Raises CannotStart."""
    try:
        envelope = config.root.read_bytes()
    except OSError as error:
        raise CannotStart(
            f"{config.root}: the site's root document can't be read ({error.strerror}); copy"
            " root.json from the server's site directory"
        ) from None
    try:
        root = open_first_root(envelope)
    except SchemaError as error:
        raise CannotStart(
            f"{config.root}: is not a root document ({error}); copy root.json from the server's"
            " site directory"
        ) from None
    if root.site != config.site:
        raise CannotStart(f"{config.root}: is of site {root.site!r}, not {config.site!r}")
    return root


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[tuple[Parts, Outbox, TrustStore]]:
    """The state directory and what is in it, for one process at a time.

    Raises what `Parts.open` and `TrustStore.open` raise, or StateDirBusy.
    """
    with hold(config.state_dir):
        parts = Parts.open(config)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(parts.elements.close)
            outbox = await parts.open_outbox()
            stack.push_async_callback(_close, outbox)
            store = await TrustStore.open(config.trust_path, parts.root, config.agent, parts.clock)
            stack.push_async_callback(store.close)
            yield parts, outbox, store


async def run_agent(config: Config, notifier: Notifier) -> int:
    """Serve the doors until SIGTERM, SIGINT or a command; the exit code.

    Raises what `opened` raises.
    """
    async with opened(config) as (parts, outbox, store):
        if config.broker.tls and parts.tls.certificate() is None:
            raise CannotStart(
                f"{parts.tls.file} is not there: this device is no agent of a site yet; run"
                " `ostiary-agent enrol` with a claim code"
            )
        if not config.broker.tls:
            log.warning("broker_in_the_clear", broker=config.broker.host)
        code = await _serve(parts, outbox, store, notifier)
    log.info("stopped", agent=config.agent, code=code)
    return code


async def _serve(parts: Parts, outbox: Outbox, store: TrustStore, notifier: Notifier) -> int:
    config, clock = parts.config, parts.clock
    recorder = Recorder(outbox, clock, TrustedTime(), config.agent, version("ostiary"))
    for statement in (store.state.policy, store.state.heartbeat):
        if statement is not None:  # it can't be earlier than when they were signed
            recorder.time.learn(statement.issued, clock.monotonic())
    doorway = Doorway(config.doorway_path, clock)
    transport_keys = TransportKeys(
        config.site,
        config.agent,
        parts.signer,
        secrets.token_bytes,
        lambda: recorder.judge_time()[0],
    )
    for esam in parts.elements.esams:
        esam.lend = transport_keys.lender(esam)
    house = House(
        site=config.site,
        recorder=recorder,
        store=store,
        elements=parts.elements,
        transport_keys=transport_keys,
        lockout=Lockout(),
        random=secrets.token_bytes,
        default_view=parts.default_view,
        open_io=lambda door: parts.open_io(door, doorway),
        open_reader=lambda door, direction: parts.open_reader(door, direction, doorway),
    )
    begin = asyncio.Event()
    esams = EsamWatch(parts.elements.esams, recorder)
    doors = [DoorTask(door, house, begin) for door in config.doors]
    stop = _Stop()
    ensemble = Ensemble(doors, house, stop.to_restart)
    renewals = Renewals(parts.tls, config.agent, parts.signer, lambda: store.state.root, clock)
    keys = Keying(parts.elements, store, recorder, parts.signer, secrets.token_bytes)
    link = Link(
        config.broker,
        store,
        recorder,
        parts.signer,
        doors=ensemble,
        renewals=renewals,
        keys=keys,
        transport=transport_keys,
        tls=lambda: parts.tls_context(store.state.root),
        random=random.SystemRandom(),
        random_bytes=secrets.token_bytes,
    )
    for door in doors:
        door.changed = link.doors_changed
    try:
        cause = await outbox.begin()
    except OutboxFailed as error:  # a full disk keeps no door from being served
        log.error("start_not_marked", why=str(error))
        cause = "start"
    async with asyncio.TaskGroup() as tasks:
        work = [tasks.create_task(door.run()) for door in doors]
        for door in doors:
            await door.opened.wait()
        applied = store.applied
        started = recorder.about_agent(
            "agent.started",
            cause=cause,
            version=recorder.version,
            doors={door.name: door.contact for door in doors},
            policy_version=None if applied is None else applied.version,
        )
        await recorder.record_soon([started])
        begin.set()
        await link.receipts.catch_up()
        work += [
            tasks.create_task(_keep(name, function))
            for name, function in {
                "link": link.run,
                "refusals": link.refusals.run,
                "saving": link.keep_saving,
                "freshness": ensemble.watch.run,
                "renewals": lambda: renewals.run(link.say),
                "clock": lambda: _watch_clock(recorder, ensemble.watch.look_now),
                "esams": esams.run,
                "keys": keys.run,
                "watchdog": notifier.keep_alive,
            }.items()
        ]
        async with doorway:
            log.info("ready", agent=config.agent, doors=[door.name for door in doors])
            notifier.ready()
            await stop.wait()
            notifier.stopping()
            log.info("stopping", agent=config.agent)
            await link.leave()
            for task in work:
                task.cancel()
            await asyncio.wait(work)
    return stop.code


async def _close(outbox: Outbox) -> None:
    try:
        await outbox.close()
    except OutboxFailed as error:
        log.error("end_not_marked", why=str(error))


class _Stop:
    """Whether the process is to end, and with which exit code."""

    def __init__(self) -> None:
        self.code = 0
        self._asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked.set)

    def to_restart(self) -> None:
        """End in order; the exit code asks a supervisor for another start."""
        self.code = EXIT_TO_RESTART
        self._asked.set()

    async def wait(self) -> None:
        """Until it is."""
        await self._asked.wait()


async def _keep(name: str, function: Callable[[], Awaitable[None]]) -> None:
    """Run a part that the doors can do without; if it fails, say so and start it again."""
    while True:
        try:
            await function()
        except Exception:
            log.exception("part_failed", part=name)
        else:
            return
        await asyncio.sleep(RESTART_PAUSE_S)


async def _watch_clock(recorder: Recorder, stepped: Callable[[], None]) -> None:
    """Report when the wall clock moves against the monotonic one."""
    clock = recorder.clock
    wall, monotonic_s = clock.now(), clock.monotonic()
    while True:
        await asyncio.sleep(CLOCK_LOOK_S)
        new_wall, new_monotonic_s = clock.now(), clock.monotonic()
        step_s = (new_wall - wall).total_seconds() - (new_monotonic_s - monotonic_s)
        wall, monotonic_s = new_wall, new_monotonic_s
        if abs(step_s) > STEP_S:
            step_ms = round(step_s * 1000, 1)
            log.warning("clock_stepped", step_ms=step_ms)
            stepped()
            await recorder.record([recorder.about_agent("agent.clock_stepped", step_ms=step_ms)])
