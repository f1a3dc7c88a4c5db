"""A lock, a card and a pair of hands for tests of the card conversation."""

from __future__ import annotations

import random as seeded
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import TypeVar

from edge_agent.card.apdu import Command, Response
from edge_agent.card.application import UnlockQuestion, unlock
from edge_agent.card.binding import BindResult, bind
from edge_agent.card.rekeying import RekeyOutcome, rekey
from edge_agent.card.script import Answer, Step
from edge_agent.card.session import listed, perform
from edge_agent.card.unbinding import unbind
from edge_agent.core.proof import Proof
from edge_agent.secure_element.port import Purpose
from edge_agent.secure_element.software import SoftwareElement
from edge_agent.virtual.card_os import VirtualCard
from schemas.event_data import ClockStatus
from schemas.suites import RandomBytes, SuiteName, suite

Result = TypeVar("Result")
SERIAL = bytes.fromhex("00112233445566aa")
TRANSPORT_KEY = bytes(range(16))


class TickingClock:
    """Each look at it finds it a millisecond later."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        self.seconds += 0.001
        return self.seconds

    def status(self) -> ClockStatus:
        return ClockStatus(status="synced")


def repeatable(seed: int) -> RandomBytes:
    """Bytes that are the same in each run; for tests alone."""
    return seeded.Random(seed).randbytes


class Channel:
    """A card held to the lock's reader, with a record of what was said."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.entered = 0.0
        self.commands: list[Command] = []
        self.responses: list[bytes] = []
        self._answer = answer

    async def transmit(self, apdu: bytes) -> bytes:
        self.commands.append(Command.decode(apdu))
        response = self._answer(apdu)
        self.responses.append(response)
        return response


class Desk:
    """One lock of domain `front` with its element, and what it can do with a card."""

    def __init__(self, name: SuiteName, *, seed: int = 1, domain: str = "front") -> None:
        self.suite_name = name
        self.suite = suite(name)
        self.random = repeatable(seed)
        self.question = UnlockQuestion("demo", domain, name, 1)
        secrets = {
            version: {purpose: self.random(16) for purpose in Purpose} for version in (1, 2, 3)
        }
        self.element = SoftwareElement(self.suite, secrets)
        self.transport_keys = {SERIAL.hex(): TRANSPORT_KEY}

    def card(self, *, capacity: int = 8192) -> VirtualCard:
        """A card from the factory."""
        return VirtualCard(
            None, self.suite_name, SERIAL, TRANSPORT_KEY, self.random, capacity=capacity
        )

    async def run(
        self, script: Generator[Step, Answer, Result], answer: Callable[[bytes], bytes]
    ) -> Result:
        self.channel = Channel(answer)
        keys = listed(self.transport_keys)
        return await perform(script, self.channel, self.element, TickingClock(), keys)

    async def bind(self, card: VirtualCard, question: UnlockQuestion | None = None) -> BindResult:
        """Hold the card to the reader in a binding window."""
        card.reset()
        return await self.run(bind(question or self.question, self.random), card.transmit)

    async def unbind(self, card: VirtualCard) -> BindResult:
        """Hold the card to the reader in a window to unbind it."""
        card.reset()
        return await self.run(unbind(self.question), card.transmit)

    async def rekey(
        self, card: VirtualCard, question: UnlockQuestion, proof: Proof
    ) -> RekeyOutcome:
        """Leave the card at the reader after it has opened the door."""
        assert proof.card_id is not None
        assert proof.key_version is not None
        card_id = bytes.fromhex(proof.card_id)
        return await self.run(
            rekey(card_id, question, proof.key_version, self.random), card.transmit
        )

    async def tap(self, card: VirtualCard, question: UnlockQuestion | None = None) -> Proof:
        """Hold the card to the reader."""
        card.reset()
        return await self.tap_on(card.transmit, question)

    async def tap_on(
        self, answer: Callable[[bytes], bytes], question: UnlockQuestion | None = None
    ) -> Proof:
        """Hold anything that answers APDUs to the reader."""
        return await self.run(unlock(question or self.question, self.random), answer)


def send(card: VirtualCard, apdu: str) -> Response:
    """One command in hex, straight to the card."""
    return Response.decode(card.transmit(bytes.fromhex(apdu)))
