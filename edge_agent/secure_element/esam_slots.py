"""Where an ESAM sits: a contact slot behind PC/SC, or a file that plays one in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edge_agent.clock import Clock
from edge_agent.readers.pcsc import PcscReader
from edge_agent.readers.port import CardRemoved, ReaderUnavailable
from edge_agent.virtual.chip import BadImage
from edge_agent.virtual.esam_os import VirtualEsam
from schemas.suites import RandomBytes


class SlotEmpty(Exception):
    """No chip answers there; the message says where, and what to do."""


class EsamChannel(Protocol):
    """One powered chip, until it is taken out."""

    async def transmit(self, apdu: bytes) -> bytes:
        """The chip's answer. Raises CardRemoved."""


class EsamSlot(Protocol):
    """A place for one ESAM."""

    async def connect(self) -> EsamChannel:
        """The chip that is there now; a channel given out before is over. Raises SlotEmpty."""

    async def close(self) -> None:
        """Let go of the slot."""


class PcscSlot:
    """The first PC/SC reader whose name contains `name`; nobody else can use it meanwhile."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._reader: PcscReader | None = None

    async def connect(self) -> EsamChannel:
        """The chip in the reader. Raises SlotEmpty, also where PC/SC can't be used."""
        try:
            if self._reader is None:
                self._reader = PcscReader(self._name, self._clock)
            channel = await self._reader.card_now()
        except ReaderUnavailable as error:
            raise SlotEmpty(str(error)) from None
        if channel is None:
            raise SlotEmpty(f"no chip answers in the reader {self._name!r}: put the ESAM into it")
        return channel

    async def close(self) -> None:
        """Let go of the reader and end its thread."""
        if self._reader is not None:
            await self._reader.close()
            self._reader = None


class VirtualSlot:
    """A virtual ESAM kept in a file, powered anew at each connection."""

    def __init__(self, path: Path, random: RandomBytes) -> None:
        self._path = path
        self._random = random

    async def connect(self) -> EsamChannel:
        """The chip in the file. Raises SlotEmpty."""
        try:
            return _Powered(VirtualEsam.open(self._path, self._random), self._path)
        except FileNotFoundError:
            raise SlotEmpty(
                f"there is no virtual ESAM at {self._path}: make one by `ostiary-agent esam issue`"
            ) from None
        except (BadImage, OSError) as error:
            raise SlotEmpty(f"{self._path}: {error}") from None

    async def close(self) -> None:
        """Nothing is held."""


class _Powered:
    """A file that is gone, or that anybody but the chip itself has changed, is a chip taken out."""

    def __init__(self, chip: VirtualEsam, path: Path) -> None:
        self._chip = chip
        self._path = path
        self._seen = self._mark()

    async def transmit(self, apdu: bytes) -> bytes:
        if self._mark() != self._seen:
            raise CardRemoved(f"{self._path} is another")
        answer = self._chip.transmit(apdu)
        self._seen = self._mark()
        return answer

    def _mark(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            raise CardRemoved(f"{self._path} is gone") from None
        return found.st_ino, found.st_mtime_ns
