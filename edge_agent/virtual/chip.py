"""What every virtual chip has: power, memory in a file, and the chance to lose power at any moment.

A real chip keeps a backup of what it overwrites, so that a write is there or is not. Here that is a
new file renamed over the old one. The file holds the chip's keys in the clear, as a chip does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from edge_agent.card.apdu import Response
from edge_agent.readers.port import CardRemoved


class BadImage(Exception):
    """A file that is not the memory of such a virtual chip."""


class Refusal(Exception):
    """The status word that an operating system answers, and nothing with it."""

    def __init__(self, sw: int) -> None:
        super().__init__(f"{sw:04X}")
        self.sw = int(sw)


class Encodable(Protocol):
    """The non-volatile memory of a chip, as one value."""

    def encode(self) -> bytes:
        """As it is kept in a file."""


ImageType = TypeVar("ImageType", bound=Encodable)


class System(Protocol):
    """A chip's operating system, from power-on to power-off."""

    def respond(self, apdu: bytes) -> Response:
        """The response to one command APDU."""


class TearMoment(Enum):
    """Where in the work on an APDU the power goes."""

    BEFORE_APDU = "before"
    """The APDU never reached the chip."""
    AFTER_APDU = "after"
    """The chip has done it, but its answer never reached the reader."""
    IN_WRITE = "write"
    """In the middle of a memory write: the old content stays."""
    AFTER_WRITE = "after write"
    """The new content is there, and nothing was done after it."""


@dataclass(frozen=True)
class Tear:
    """Lose power at the `at`-th APDU or memory write from now, counted from 1."""

    moment: TearMoment
    at: int


class CardTorn(CardRemoved):
    """The chip has no power; `reset` gives it some."""


class ChipMemory(Generic[ImageType]):
    """An image and the file it is kept in, if any."""

    def __init__(self, image: ImageType, path: Path | None) -> None:
        self._image = image
        self._path = path

    @property
    def image(self) -> ImageType:
        """What the chip holds now."""
        return self._image

    def write(self, image: ImageType) -> None:
        """Replace the image; afterwards it's the new one, in memory and on disk."""
        if self._path is not None:
            temporary = self._temporary()
            # Not flushed to the disk: a power cut of this machine is not what is played here.
            temporary.touch(0o600)
            temporary.chmod(0o600)
            temporary.write_bytes(image.encode())
            temporary.replace(self._path)
        self._image = image

    def tear(self, image: ImageType) -> None:
        """Be cut off half way through `write`: the old image stays."""
        if self._path is not None:
            content = image.encode()
            self._temporary().write_bytes(content[: len(content) // 2])

    def _temporary(self) -> Path:
        assert self._path is not None
        return self._path.with_name(f".{self._path.name}.new")


class Chip(ABC, Generic[ImageType]):
    """A chip with or without power."""

    answer_to_reset: bytes

    def __init__(self, image: ImageType, path: Path | None, tear: Tear | None = None) -> None:
        """The chip kept at `path`; `image` is what is there, or is put there if nothing is."""
        self._memory = ChipMemory(image, path)
        if path is not None and not path.exists():
            self._memory.write(image)
        self.arm(tear)
        self.reset()

    @abstractmethod
    def _boot(self, image: ImageType, write: Callable[[ImageType], None]) -> System:
        """The operating system under fresh power."""

    @property
    def image(self) -> ImageType:
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
        """Power on: all that was proved is forgotten."""
        self._os: System | None = self._boot(self.image, self._write)

    def transmit(self, apdu: bytes) -> bytes:
        """The response APDU. Raises CardTorn, and nothing else."""
        if self._os is None:
            raise CardTorn("the chip has no power")
        self._apdus += 1
        self._maybe_tear(TearMoment.BEFORE_APDU, self._apdus)
        response = self._os.respond(apdu)
        self._maybe_tear(TearMoment.AFTER_APDU, self._apdus)
        return response.encode()

    def _write(self, image: ImageType) -> None:
        self._writes += 1
        try:
            self._maybe_tear(TearMoment.IN_WRITE, self._writes)
        except CardTorn:
            self._memory.tear(image)
            raise
        self._memory.write(image)
        self._maybe_tear(TearMoment.AFTER_WRITE, self._writes)

    def _maybe_tear(self, moment: TearMoment, count: int) -> None:
        if self._tear == Tear(moment, count):
            self._tear = self._os = None
            raise CardTorn(f"the chip lost its power ({moment.value} {count})")
