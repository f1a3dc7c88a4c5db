"""A virtual CPU card: power, memory in a file, and the chance to be torn away at any moment."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edge_agent.card import layout
from edge_agent.card.layout import Right
from edge_agent.readers.port import CardRemoved
from edge_agent.secure_element.port import Purpose
from edge_agent.virtual.card_commands import CardOs
from edge_agent.virtual.card_memory import DEFAULT_CAPACITY_BYTES, CardMemory, Image, KeyRecord
from schemas.suites import RandomBytes, SuiteName
from schemas.suites.suite import CARD_ID_BYTES, KEY_BYTES


class TearMoment(Enum):
    """Where in the work on an APDU the power goes."""

    BEFORE_APDU = "before"
    """The APDU never reached the card."""
    AFTER_APDU = "after"
    """The card has done it, but its answer never reached the reader."""
    IN_WRITE = "write"
    """In the middle of a memory write."""


@dataclass(frozen=True)
class Tear:
    """Lose power at the `at`-th APDU or memory write from now, counted from 1."""

    moment: TearMoment
    at: int


class CardTorn(CardRemoved):
    """The card has no power; `reset` gives it some."""


class VirtualCard:
    """A card with one MF, a transport key, and as many applications as its memory holds."""

    answer_to_reset = bytes.fromhex("3b8a8001804f5354494152590100c1")
    """As PC/SC part 3 makes one for a contactless card; historical bytes `OSTIARY`."""

    def __init__(
        self,
        path: Path | None,
        suite: SuiteName,
        serial: bytes,
        transport_key: bytes,
        random: RandomBytes,
        *,
        capacity: int = DEFAULT_CAPACITY_BYTES,
        tear: Tear | None = None,
    ) -> None:
        """The card kept at `path`, made fresh from the factory if there is none yet.

        Raises BadImage or OSError, ValueError if another card is kept there.
        """
        if len(serial) != CARD_ID_BYTES or len(transport_key) != KEY_BYTES:
            raise ValueError("a card has a serial of 8 bytes and a transport key of 16")
        if path is not None and path.exists():
            image = Image.decode(path.read_bytes())
            if (image.suite, image.serial) != (suite, serial):
                raise ValueError(f"{path} is card {image.serial.hex()} of suite {image.suite}")
            self._memory = CardMemory(image, path)
        else:
            image = Image(suite, serial, capacity, _transport(transport_key))
            self._memory = CardMemory(image, path)
            self._memory.write(image)
        self._random = random
        self.arm(tear)
        self.reset()

    @classmethod
    def open(cls, path: Path, random: RandomBytes) -> VirtualCard:
        """The card kept at `path`. Raises BadImage or OSError."""
        image = Image.decode(path.read_bytes())
        return cls(path, image.suite, image.serial, image.transport.key, random)

    @property
    def serial(self) -> bytes:
        """The 8-byte card id."""
        return self.image.serial

    @property
    def image(self) -> Image:
        """The non-volatile memory, for tests and demos that look inside."""
        return self._memory.image

    def arm(self, tear: Tear | None) -> None:
        """Be torn at that moment from now, once."""
        self._tear = tear
        self._apdus = self._writes = 0

    @property
    def counted(self) -> tuple[int, int]:
        """APDUs and memory writes since it was last armed."""
        return self._apdus, self._writes

    def reset(self) -> None:
        """Power on: all that was proved is forgotten, the MF is selected."""
        self._os: CardOs | None = CardOs(self.image, self._write, self._random)

    async def respond(self, apdu: bytes) -> bytes:
        """`transmit`, in the form a VirtualReader takes."""
        return self.transmit(apdu)

    def transmit(self, apdu: bytes) -> bytes:
        """The response APDU. Raises CardTorn, and nothing else."""
        if self._os is None:
            raise CardTorn("the card has no power")
        self._apdus += 1
        self._maybe_tear(TearMoment.BEFORE_APDU, self._apdus)
        response = self._os.respond(apdu)
        self._maybe_tear(TearMoment.AFTER_APDU, self._apdus)
        return response.encode()

    def _write(self, image: Image) -> None:
        self._writes += 1
        try:
            self._maybe_tear(TearMoment.IN_WRITE, self._writes)
        except CardTorn:
            self._memory.tear(image)
            raise
        self._memory.write(image)

    def _maybe_tear(self, moment: TearMoment, count: int) -> None:
        if self._tear == Tear(moment, count):
            self._tear = self._os = None
            raise CardTorn(f"the card was torn away ({moment.value} {count})")


def _transport(key: bytes) -> KeyRecord:
    tries = layout.KEY_TRIES
    return KeyRecord(layout.KEY_TYPES[Purpose.ADMIT], Right.ALWAYS, 1, tries, tries, key)
