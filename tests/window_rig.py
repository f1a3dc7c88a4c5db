"""A door with windows: the agent's real parts and link, a broker in this process, and a server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from edge_agent.config import Broker
from edge_agent.ensemble import Ensemble
from edge_agent.link import Link
from edge_agent.readers.port import CardRemoved, Feedback
from edge_agent.secure_element.esam_chip import Esam
from edge_agent.secure_element.esam_slots import VirtualSlot
from edge_agent.virtual.card_os import VirtualCard
from schemas.command import Action, Command
from schemas.envelope import unverified_payload
from schemas.report import Pull, Report
from schemas.statement import parse_statement, payload_type
from schemas.suites import SuiteName
from schemas.topics import COMMAND, PULL, REPORT, TRANSPORT, down
from schemas.transport import TransportRefusal, TransportRequest
from tests.card_desk import repeatable
from tests.door_rig import AGENT, DOOR, PATIENCE_S, SITE, DoorRig, door_rig
from tests.esam_desk import ESAM_SERIAL, EsamDesk
from tests.hostile_broker import HostileBroker, listening
from tests.link_rig import Hasty, IdleKeys, IdleRenewals, in_the_clear

Answer = Callable[[TransportRequest], list[bytes]]


class WindowRig:
    """Open it with `window_rig`. `answer` is what the server says to a question of a key."""

    def __init__(self, rig: DoorRig, broker: HostileBroker) -> None:
        self.rig, self.broker, self.voice = rig, broker, rig.voice
        self.ensemble = Ensemble(rig.doors, rig.house, lambda: None)
        self.link = Link(
            Broker(port=broker.port, tls=False),
            rig.store,
            rig.recorder,
            rig.signer,
            doors=self.ensemble,
            renewals=IdleRenewals(),
            keys=IdleKeys(),
            transport=rig.transport_keys,
            tls=in_the_clear,
            random=Hasty(),
            random_bytes=secrets.token_bytes,
        )
        self.maker: dict[str, bytes] = {}
        """Card id -> transport key: what the server knows."""
        self.requests: list[TransportRequest] = []
        self.answer: Answer = self.honest
        self.authority: EsamDesk | None = None
        self.session = ""
        self._reported = asyncio.Event()

    def card(self, number: int, suite: SuiteName = "intl", **more: Any) -> VirtualCard:
        """A card from the factory, whose key the server knows."""
        serial, key = number.to_bytes(8), secrets.token_bytes(16)
        self.maker[serial.hex()] = key
        return VirtualCard(None, suite, serial, key, secrets.token_bytes, **more)

    def fit_esam(self, *versions: int) -> Esam:
        """From now on the door's domain is on an ESAM."""
        file = self.rig.folder / "esam.bin"
        self.authority = EsamDesk("intl", path=file).issue().load(*versions)
        esam = Esam(VirtualSlot(file, repeatable(5)), ESAM_SERIAL, [DOOR])
        esam.lend = self.rig.transport_keys.lender(esam)
        self.rig.elements.esams = (esam,)
        return esam

    def honest(self, request: TransportRequest) -> list[bytes]:
        """The key, and the loan if one was asked for."""
        key = self.maker.get(request.card)
        if key is None:
            return [self.voice.transport_key(request, None, refusal=TransportRefusal.UNKNOWN_KEY)]
        loan = None
        if request.loan is not None and self.authority is not None:
            assert request.loan.domain == DOOR
            loan = self.authority.control.lend(
                bytes.fromhex(request.loan.challenge),
                index=request.loan.index,
                version=request.loan.version,
                card_id=bytes.fromhex(request.card),
                transport_key=key,
            )
        return [self.voice.transport_key(request, key, loan=loan)]

    def refuse(self, refusal: TransportRefusal) -> None:
        """Say this to every question from now on."""
        self.answer = lambda request: [self.voice.transport_key(request, None, refusal=refusal)]

    async def serve(self) -> None:
        """The server, for ever."""
        while True:
            topic, envelope = await self.broker.heard.get()
            channel = topic.rpartition("/")[2]
            purpose = "transport-request" if channel == TRANSPORT else channel
            if channel not in (PULL, REPORT, TRANSPORT):
                continue
            payload = unverified_payload(envelope, payload_type(purpose), max_bytes=1 << 20)
            if channel == PULL:
                for answer, body in self.voice.answers(parse_statement(payload, Pull)):
                    await self.tell(answer, body)
            elif channel == REPORT:
                self.session = parse_statement(payload, Report).session
                self._reported.set()
            else:
                self.requests.append(parse_statement(payload, TransportRequest))
                for body in self.answer(self.requests[-1]):
                    await self.tell(TRANSPORT, body)

    async def tell(self, channel: str, body: bytes) -> None:
        await self.broker.publish(down(SITE, AGENT, channel), body)

    async def connected(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._reported.wait()

    async def command(self, action: Action, **changes: Any) -> tuple[str, dict[str, Any]]:
        """Send it; name and data of its result."""
        envelope = self.voice.command(action, self.session, DOOR, **changes)
        await self.tell(COMMAND, envelope)
        payload = unverified_payload(envelope, payload_type(COMMAND), max_bytes=1 << 20)
        command = parse_statement(payload, Command).id
        return await self.event("command.executed", "command.refused", command=command)

    async def open(
        self,
        action: Action = Action.BINDING_WINDOW,
        *,
        direction: str = "in",
        seconds: float = 30,
        **changes: Any,
    ) -> str:
        """Open a window and wait until the reader blinks; the command's id."""
        until = self.now() + timedelta(seconds=seconds)
        who = {"person": "bob"} if action is Action.BINDING_WINDOW else {}
        name, data = await self.command(action, direction=direction, until=until, **who | changes)
        assert name == "command.executed", data
        async with asyncio.timeout(PATIENCE_S):
            while await self.rig.blinks.get() != direction:
                pass
        command: str = data["command"]
        return command

    def now(self) -> datetime:
        return self.rig.recorder.judge_time()[0]

    async def events(self, *names: str) -> list[tuple[str, dict[str, Any]]]:
        return await self.rig.events(*names)

    async def cards(self) -> list[tuple[str, str | None]]:
        """What became of cards: name, or outcome of what was not bound, and the card."""
        names = ("card.bound", "card.unbound", "card.not_bound", "card.rekeyed", "card.not_rekeyed")
        found = await self.events(*names)
        return [(data.get("outcome", name), data["card"]) for name, data in found]

    async def event(self, *names: str, **fields: Any) -> tuple[str, dict[str, Any]]:
        """Wait until one of these is durable."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for name, data in await self.events(*names):
                    if fields.items() <= data.items():
                        return name, data

    async def know(self, *bound: VirtualCard, **changes: Any) -> None:
        """A policy in which these cards are bound and may pass."""
        cards = [
            {"card": c.serial.hex(), "person": "bob", "groups": ["staff"], "domains": [DOOR]}
            for c in bound
        ]
        await self.rig.put_policy(cards=cards, **changes)


class Torn:
    """A card that is taken away at its `at`-th command: before it has done it, or just after."""

    def __init__(self, card: VirtualCard, at: int, *, answered: bool) -> None:
        self._card, self._at, self._answered = card, at, answered
        self.commands = 0
        self.gone = asyncio.Event()

    async def __call__(self, apdu: bytes) -> bytes:
        self.commands += 1
        if self.commands < self._at:
            return self._card.transmit(apdu)
        if self._answered:
            self._card.transmit(apdu)
        self.gone.set()
        raise CardRemoved("taken away")


BOUND, DENIED, TRY_AGAIN, ERROR = (
    Feedback.BOUND,
    Feedback.DENIED,
    Feedback.TRY_AGAIN,
    Feedback.ERROR,
)


@asynccontextmanager
async def window_rig(folder: Path, **policy: Any) -> AsyncIterator[WindowRig]:
    """Connected, with a policy in force that knows no card."""
    async with listening(HostileBroker()) as broker, door_rig(folder) as door:
        rig = WindowRig(door, broker)
        await rig.know(**policy)
        await door.start()
        parts = (rig.link.run, rig.link.refusals.run, rig.serve)
        tasks = [asyncio.create_task(part()) for part in parts]
        try:
            await rig.connected()
            yield rig
            for task in tasks:
                assert not task.done(), task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
