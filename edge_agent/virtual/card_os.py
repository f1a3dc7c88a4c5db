"""A virtual CPU card: what is on it from the factory, and the file it is kept in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_agent.card import layout
from edge_agent.card.layout import Right
from edge_agent.secure_element.port import Purpose
from edge_agent.virtual.card_commands import CardOs
from edge_agent.virtual.card_memory import DEFAULT_CAPACITY_BYTES, Image, KeyRecord
from edge_agent.virtual.chip import Chip, Tear
from schemas.suites import RandomBytes, SuiteName
from schemas.suites.suite import CARD_ID_BYTES, KEY_BYTES


class VirtualCard(Chip[Image]):
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
        else:
            image = Image(suite, serial, capacity, _transport(transport_key))
        self._random = random
        super().__init__(image, path, tear)

    @classmethod
    def open(cls, path: Path, random: RandomBytes) -> VirtualCard:
        """The card kept at `path`. Raises BadImage or OSError."""
        image = Image.decode(path.read_bytes())
        return cls(path, image.suite, image.serial, image.transport.key, random)

    @property
    def serial(self) -> bytes:
        """The 8-byte card id."""
        return self.image.serial

    async def respond(self, apdu: bytes) -> bytes:
        """`transmit`, in the form a VirtualReader takes."""
        return self.transmit(apdu)

    def _boot(self, image: Image, write: Callable[[Image], None]) -> CardOs:
        return CardOs(image, write, self._random)


def _transport(key: bytes) -> KeyRecord:
    tries = layout.KEY_TRIES
    return KeyRecord(layout.KEY_TYPES[Purpose.ADMIT], Right.ALWAYS, 1, tries, tries, key)
