"""A lock that decides, and those who copy a card or sit between it and the reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from edge_agent.card import layout
from edge_agent.card.apdu import Command
from edge_agent.card.application import UnlockQuestion, unlock
from edge_agent.card.layout import Info
from edge_agent.card.rekeying import RekeyOutcome
from edge_agent.card.session import perform
from edge_agent.core.decision import Circumstances, Decision, DoorView, decide
from edge_agent.core.proof import Proof
from edge_agent.virtual.card_memory import Image
from edge_agent.virtual.card_os import VirtualCard
from schemas.policy import WEEKDAYS, DoorSettings, PolicyCard, Schedule, Window
from schemas.reasons import Reason
from tests.card_desk import SERIAL, Channel, Desk, TickingClock

Answer = Callable[[bytes], bytes]
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
ALWAYS = Schedule(windows=(Window(start="00:00", end="24:00", days=WEEKDAYS),))
OTHER = bytes.fromhex("00112233445566bb")
HOLDERS = {
    serial.hex(): PolicyCard(
        card=serial.hex(), person=person, groups=("staff",), domains=("front", "back")
    )
    for serial, person in ((SERIAL, "ada"), (OTHER, "bob"))
}


class Lock:
    """A door of the domain `front` that lets both holders in at any time."""

    def __init__(self, desk: Desk, **settings: object) -> None:
        self.desk = desk
        self.settings = DoorSettings.model_validate(
            {"domain": "front", "suite": desk.suite_name, **settings}
        )
        self.denied: frozenset[int] = frozenset()
        self.floor = 1
        self.clock = TickingClock()
        self.proof: Proof | None = None
        self.channel = Channel(lambda _: b"")

    @property
    def question(self) -> UnlockQuestion:
        held = self.desk.element.held
        return UnlockQuestion.of("demo", self.settings, held, self.denied, self.floor)

    async def present(self, answer: Answer) -> Decision:
        """Hold up anything that answers APDUs."""
        self.channel = Channel(answer)
        script = unlock(self.question, self.desk.random)
        self.proof = await perform(script, self.channel, self.desk.element, self.clock)
        return decide(
            DoorView(self.settings, ZoneInfo("UTC"), (("staff", ALWAYS),)),
            HOLDERS.get(self.proof.card_id or ""),
            denial=None,
            proof=self.proof,
            circumstances=Circumstances(
                direction="in",
                now=NOW,
                heartbeat_age_s=10.0,
                denied_versions=self.denied,
                key_floor=self.floor,
            ),
        )

    async def reason(self, answer: Answer) -> Reason | None:
        """Why it was denied; None: it was not."""
        return (await self.present(answer)).reason


def overlap(desk: Desk, **settings: object) -> Lock:
    """A lock that holds version 2 and takes version 1 still."""
    return Lock(desk, key_version=2, accepted_key_versions=(1,), **settings)


async def rekeyed(desk: Desk, card: VirtualCard) -> VirtualCard:
    """The card, with versions 1 and 2 on it."""
    question = overlap(desk).question
    proof = await desk.tap(card, question)
    assert await desk.rekey(card, question, proof) is RekeyOutcome.REKEYED
    card.reset()
    return card


def chip(desk: Desk, image: Image) -> VirtualCard:
    """Another chip with that content."""
    copy = desk.card()
    copy._memory.write(image)
    copy.reset()
    return copy


def without_keys(card: VirtualCard, desk: Desk) -> Image:
    """All that can be read of a card, and keys of the copier's own where its own can't be."""
    image = card.image
    applications = {
        file_id: replace(
            application,
            keys={
                at: replace(key, key=desk.random(16), tries_left=5)
                for at, key in application.keys.items()
            },
        )
        for file_id, application in image.applications.items()
    }
    return replace(image, applications=applications)


def instead(card: VirtualCard, ins: int, answer: Callable[[Command], bytes]) -> Answer:
    """The card, but for one command, which is answered by who holds it."""

    def between(apdu: bytes) -> bytes:
        if apdu[1] == ins:
            return answer(Command.decode(apdu))
        return card.transmit(apdu)

    return between


def saying(card: VirtualCard, info: Info) -> Answer:
    """The card, with another info record read from it."""
    return instead(card, layout.READ_BINARY, lambda _: info.encode() + b"\x90\x00")
