"""An agent's keying with its real stores and a virtual ESAM; the key authority is the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edge_agent.elements import Elements
from edge_agent.keying import Keying
from edge_agent.secure_element.esam_chip import Esam
from schemas.envelope import unverified_payload
from schemas.keys import CheckValues, KeyPackage, KeyRequest
from schemas.statement import parse_statement, payload_type
from schemas.suites import SuiteName, suite
from schemas.topics import KEYS
from tests.card_desk import repeatable
from tests.esam_desk import ESAM_SERIAL, EsamDesk
from tests.esam_rig import Slot
from tests.key_server import KeyServer
from tests.link_rig import AGENT, DOOR, PATIENCE_S, SITE, LinkRig, unconnected
from tests.site_keys import SiteKeys
from tests.site_voice import SiteVoice

DOMAIN, OTHER = DOOR, "back"
SESSION = "00112233445566aa"
Answer = Callable[["KeyingRig", KeyRequest], Awaitable[None]]


async def honest(rig: KeyingRig, request: KeyRequest) -> None:
    """The package that was asked for."""
    rig.keying.packaged(rig.package(request))


async def lost(rig: KeyingRig, request: KeyRequest) -> None:
    """Nothing comes."""


class KeyingRig:
    """Open it with `keying_rig`; `start` is the agent's start, `stop` its end at any moment."""

    def __init__(self, folder: Path, name: SuiteName, parts: LinkRig, slot: Slot | None) -> None:
        self.folder, self.suite = folder, suite(name)
        self.parts, self.slot = parts, slot
        self.recorder, self.voice = parts.recorder, parts.voice
        self.authority = KeyServer(EsamDesk(name), parts.voice)
        self.requests: list[KeyRequest] = []
        self.answers: list[Answer] = []
        """How the next questions are answered; honestly after that."""
        self.asked = asyncio.Event()
        self.read = 0
        self.session = SESSION
        self.keying: Keying
        self.elements: Elements
        self.esam: Esam
        self._running: asyncio.Task[None] | None = None

    @property
    def desk(self) -> EsamDesk:
        """The chip, and its control key."""
        return self.authority.desk

    @desk.setter
    def desk(self, desk: EsamDesk) -> None:
        self.authority.desk = desk

    async def policy(self, **door: Any) -> None:
        """Put the next policy in force."""
        store, voice = self.parts.store, self.voice
        settings = {"domain": DOMAIN, "suite": self.suite.name, **door}
        voice.new_policy(doors={DOOR: settings})
        await store.take_heartbeat(voice.heartbeat(), voice.now())
        assert await store.offer_policy(voice.policy_envelope, voice.now()) == ()
        await store.apply_staged()
        if self._running is not None:
            self.keying.policy_changed()

    def start(self, *, connected: bool = True) -> None:
        esams = []
        if self.slot is not None:
            self.esam = Esam(self.slot, ESAM_SERIAL, [DOMAIN, OTHER])
            esams.append(self.esam)
        self.elements = Elements(self.folder, bytes(32), repeatable(9), esams)
        self.keying = Keying(
            self.elements, self.parts.store, self.recorder, self.parts.signer, repeatable(11)
        )
        if connected:
            self.connect()
        self._running = asyncio.create_task(self.keying.run())

    def connect(self, session: str = SESSION) -> None:
        self.session = session
        self.keying.connected(self.say, session)

    async def begin(self) -> None:
        """Start, look at the chip, and have said what is in it."""
        self.start()
        await self.esam.look()
        await self.held()
        await self.nothing_more()

    async def stop(self) -> None:
        """Wherever it is."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None

    async def say(self, channel: str, envelope: bytes) -> None:
        assert channel == KEYS
        request = parse_statement(
            unverified_payload(envelope, payload_type("key-request"), max_bytes=4096), KeyRequest
        )
        assert (request.site, request.session) == (SITE, self.session)
        self.requests.append(request)
        self.asked.set()
        answer = self.answers.pop(0) if self.answers else honest
        await answer(self, request)

    def package(self, request: KeyRequest, **changes: Any) -> KeyPackage:
        """What the key authority answers; `keys` are others than its own."""
        return self.authority.package(request, **changes)

    def keys(self, version: int) -> bytes:
        return self.authority.keys(version)

    def checks(self, version: int) -> CheckValues:
        return self.authority.checks(version)

    def order(self, version: int, *, floor: int = 1, **changes: Any) -> None:
        """The server's next order."""
        if self.slot is None:
            changes = {"check_values": None, **changes}
        self.keying.ordered(self.authority.order(version, floor, **changes))

    async def told(self) -> tuple[str, dict[str, Any]]:
        """The next keys.held or keys.refused."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                while self.read < len(self.recorder.events):
                    name, data = self.recorder.events[self.read]
                    self.read += 1
                    if name in ("keys.held", "keys.refused"):
                        return name, data
                self.recorder.heard.clear()
                await self.recorder.heard.wait()

    async def held(self) -> dict[str, Any]:
        name, data = await self.told()
        assert name == "keys.held", data
        return {**data, "held": {int(version): checks for version, checks in data["held"].items()}}

    async def refused(self) -> str:
        name, data = await self.told()
        assert name == "keys.refused", data
        return str(data["reason"])

    async def refused_at_last(self) -> str:
        """The next refusal, whatever is said to be held before."""
        while (said := await self.told())[0] != "keys.refused":
            pass
        return str(said[1]["reason"])

    async def nothing_more(self) -> None:
        """Whatever is under way comes to rest, and nothing was said."""
        for _ in range(20):
            await asyncio.sleep(0)
        await self.parts.store.note({})
        assert not [n for n, _ in self.recorder.events[self.read :] if n.startswith("keys.")]


@asynccontextmanager
async def keying_rig(
    folder: Path, name: SuiteName = "intl", *, chip: bool = True
) -> AsyncIterator[KeyingRig]:
    """An agent that is not started yet; its ESAM holds version 1. Without `chip`: in software."""
    voice = SiteVoice(SiteKeys(site=SITE), AGENT)
    async with unconnected(folder, voice, 1) as parts:
        rig = KeyingRig(folder, name, parts, None)
        if chip:
            rig.desk.issue().load(1)
            rig.slot = Slot(rig.desk.chip)
        await rig.policy()
        try:
            yield rig
        finally:
            await rig.stop()
