"""An agent's real link, stores and recorder in this process; the broker is the test."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_agent.clock import SystemClock
from edge_agent.config import Broker
from edge_agent.core.trusted_time import TrustedTime
from edge_agent.link import Link
from edge_agent.neighbours import Say
from edge_agent.outbox import Draft, Outbox
from edge_agent.outbox_tables import StoredLine
from edge_agent.recorder import Recorder
from edge_agent.trust_store import TrustStore
from schemas.command import Command
from schemas.enrolment import Certificate
from schemas.envelope import Signer, unverified_payload
from schemas.keys import KeyPackage, KeyRequest, StageOrder
from schemas.policy import DoorMode
from schemas.report import DoorReport, Pull, Report
from schemas.root import open_first_root
from schemas.statement import parse_statement, payload_type
from schemas.topics import KEYS, PULL, REPORT, down, everyone
from schemas.transport import TransportKey
from tests.hostile_broker import HostileBroker, listening
from tests.site_keys import SiteKeys
from tests.site_voice import SiteVoice

SITE, AGENT, DOOR = "demo", "front-agent", "front"
PATIENCE_S = 20.0


class Hasty(random.Random):
    """Comes back at once, and waits for nothing."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0 if a == 0 else b


class ListeningRecorder(Recorder):
    """Keeps what was recorded where a test can wait for it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.heard = asyncio.Event()

    async def record(self, drafts: Sequence[Draft]) -> list[StoredLine]:
        stored = await super().record(drafts)
        if stored:
            self.events += [(draft.name, draft.data.model_dump(mode="json")) for draft in drafts]
            self.heard.set()
        return stored


class IdleDoors:
    """Does nothing, and says what it was asked to do."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.changes = 0

    async def execute(self, command: Command) -> None:
        self.commands.append(command)

    async def trust_changed(self) -> None:
        self.changes += 1

    def heartbeat_heard(self) -> None:
        pass

    def reports(self) -> dict[str, DoorReport]:
        return {DOOR: DoorReport(contact="closed", mode=DoorMode.LOCKED, freshness="none")}


class IdleRenewals:
    """Keeps every certificate it is given."""

    def __init__(self) -> None:
        self.kept: list[Certificate] = []

    @property
    def certificate_until(self) -> datetime | None:
        return None

    async def renewed(self, certificate: Certificate) -> None:
        self.kept.append(certificate)


class IdleKeys:
    """Notes what comes about keys."""

    def __init__(self) -> None:
        self.orders: list[StageOrder] = []
        self.packages: list[KeyPackage] = []
        self.answers: list[TransportKey] = []

    def connected(self, say: Say, session: str) -> None:
        pass

    def ordered(self, order: StageOrder) -> None:
        self.orders.append(order)

    def packaged(self, package: KeyPackage) -> None:
        self.packages.append(package)

    def answered(self, answer: TransportKey) -> None:
        self.answers.append(answer)

    def policy_changed(self) -> None:
        pass


async def in_the_clear() -> None:
    """No TLS."""


class LinkRig:
    """The agent's side, and what the broker can do to it. Open it with `link_rig`."""

    def __init__(
        self,
        voice: SiteVoice,
        outbox: Outbox,
        store: TrustStore,
        port: int,
    ) -> None:
        self.voice, self.outbox, self.store = voice, outbox, store
        self.broker: HostileBroker
        self.recorder = ListeningRecorder(outbox, SystemClock(), TrustedTime(), AGENT, "test")
        self.doors, self.renewals, self.keys = IdleDoors(), IdleRenewals(), IdleKeys()
        self.signer = Signer.of(voice.keys.suite.generate(secrets.token_bytes))
        self.link = Link(
            Broker(port=port, tls=False),
            store,
            self.recorder,
            self.signer,
            doors=self.doors,
            renewals=self.renewals,
            keys=self.keys,
            transport=self.keys,
            tls=in_the_clear,
            random=Hasty(),
            random_bytes=secrets.token_bytes,
        )
        self.pulls: list[Pull] = []
        self.reports: list[Report] = []
        self.key_requests: list[KeyRequest] = []
        self.honest = True
        """Whether what the agent asks for is answered."""
        self._heard = asyncio.Event()

    async def say(self, channel: str, payload: bytes, *, retain: bool = False) -> None:
        """To this agent."""
        await self.broker.publish(down(SITE, AGENT, channel), payload, retain=retain)

    async def say_to_all(self, channel: str, payload: bytes) -> None:
        await self.broker.publish(everyone(SITE, channel), payload)

    async def listen(self) -> None:
        """Answer what the agent asks for, as long as `honest`."""
        while True:
            topic, payload = await self.broker.heard.get()
            channel = topic.rpartition("/")[2]
            if channel == PULL:
                pull = parse_statement(_payload(payload, PULL), Pull)
                self.pulls.append(pull)
                if self.honest:
                    for answer, body in self.voice.answers(pull):
                        await self.say(answer, body)
            elif channel == REPORT:
                self.reports.append(parse_statement(_payload(payload, REPORT), Report))
            elif channel == KEYS:
                request = parse_statement(_payload(payload, "key-request"), KeyRequest)
                self.key_requests.append(request)
            self._heard.set()

    @property
    def session(self) -> str:
        return self.reports[-1].session

    async def until_heard(self, there: Callable[[], Any]) -> None:
        """Wait until what the agent said makes `there` true."""
        async with asyncio.timeout(PATIENCE_S):
            while not there():
                self._heard.clear()
                await self._heard.wait()

    async def event(self, name: str, **fields: Any) -> dict[str, Any]:
        """Wait until an event of this name and with these fields is durable; its data."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for found, data in self.recorder.events:
                    if found == name and fields.items() <= data.items():
                        return data
                self.recorder.heard.clear()
                await self.recorder.heard.wait()

    def forget(self) -> None:
        """Let the next refusal be a first one, as after a minute without it."""
        self.recorder.events.clear()
        self.link.refusals._windows.clear()

    def names(self) -> list[str]:
        return [name for name, _ in self.recorder.events]


def _payload(envelope: bytes, purpose: str) -> bytes:
    return unverified_payload(envelope, payload_type(purpose), max_bytes=1 << 20)


@asynccontextmanager
async def unconnected(folder: Path, voice: SiteVoice, port: int) -> AsyncIterator[LinkRig]:
    """The agent's parts; nothing runs yet."""
    outbox = await Outbox.open(
        folder / "outbox.db",
        digest=voice.keys.suite.digest,
        source=f"/sites/{SITE}/agents/{AGENT}",
        clock=SystemClock(),
        random=secrets.token_bytes,
    )
    pinned = open_first_root(voice.roots[0])
    store = await TrustStore.open(folder / "trust.db", pinned, AGENT, SystemClock())
    try:
        yield LinkRig(voice, outbox, store, port)
    finally:
        await outbox.close()
        await store.close()


@asynccontextmanager
async def link_rig(folder: Path, *, voice: SiteVoice | None = None) -> AsyncIterator[LinkRig]:
    """The agent, connected to a broker that does what the test says."""
    voice = voice or SiteVoice(SiteKeys(site=SITE), AGENT)
    async with (
        listening(HostileBroker()) as broker,
        unconnected(folder, voice, broker.port) as rig,
    ):
        rig.broker = broker
        await rig.link.receipts.catch_up()
        parts = (rig.link.run, rig.link.refusals.run, rig.link.keep_saving, rig.listen)
        tasks = [asyncio.create_task(part()) for part in parts]
        try:
            yield rig
            for task in tasks:
                if task.done():
                    task.result()
                    raise AssertionError("a part of the rig ended")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
