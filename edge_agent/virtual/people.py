"""Someone at a virtual door: holds up cards, opens and closes the door, presses the button."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from edge_agent.readers.port import CardRemoved
from edge_agent.virtual.card_os import VirtualCard
from edge_agent.virtual.doorway import MAX_LINE_BYTES


class Doorway:
    """One door of an agent, from the street. Use it as an async context manager.

    `path` is the agent's `doorway.sock`. Once the agent is gone, everything raises EOFError or
    another OSError.
    """

    def __init__(self, path: Path, door: str) -> None:
        self._path = path
        self._door = door
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._card: VirtualCard | None = None
        self._outcome: asyncio.Future[str] | None = None
        self._count = 0
        self._asked = asyncio.Event()
        self._strike_moved = asyncio.Event()
        self._gone = asyncio.Event()
        self.released = False
        """The strike, as last heard."""
        self.identified = asyncio.Event()
        """Set when a reader blinks for whoever looks for this door."""
        self.binding = asyncio.Event()
        """Set when a reader blinks because a window is open there."""

    async def is_open(self) -> bool:
        """Whether an agent listens there and serves this door."""
        try:
            async with self:
                return True
        except (OSError, EOFError):
            return False

    async def __aenter__(self) -> Self:
        """Go there. Raises OSError, or EOFError if the door is not one of its virtual ones."""
        reader, self._writer = await asyncio.open_unix_connection(
            str(self._path), limit=MAX_LINE_BYTES
        )
        self._gone.clear()
        ready = await reader.readline()
        if not ready or self._door not in json.loads(ready).get("ready", ()):
            self._writer.close()
            raise EOFError(f"{self._path} serves no virtual door {self._door!r}")
        self._listening = asyncio.create_task(self._listen(reader))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._writer is not None
        assert self._listening is not None
        self._writer.close()
        self._listening.cancel()
        with suppress(asyncio.CancelledError):
            await self._listening

    async def tap(
        self, card: VirtualCard, *, direction: Literal["in", "out"] = "in", stays_s: float = 0.0
    ) -> str:
        """Hold the card up until the reader answers; what it answered, such as `granted`.

        Then the card stays until the reader has asked nothing more for `stays_s`: so long a reader
        that is not done, as with new keys for the card, finds it there.
        """
        card.reset()
        self._card = card
        self._count += 1
        self._outcome = asyncio.get_running_loop().create_future()
        try:
            self._check_there()
            present = {"door": self._door, "direction": direction, "card": self._count}
            self._say({"present": present})
            outcome = await self._outcome
            await self._quiet(stays_s)
            return outcome
        finally:
            self._card = self._outcome = None
            self._say({"remove": True})

    async def _quiet(self, quiet_s: float) -> None:
        """Return when the reader has asked nothing for so long."""
        while quiet_s:
            self._asked.clear()
            try:
                async with asyncio.timeout(quiet_s):
                    await self._asked.wait()
            except TimeoutError:
                return

    async def contact(self, contact: Literal["open", "closed"]) -> None:
        """Open or close the door leaf, whether the strike lets it or not."""
        self._check_there()
        self._say({"door": self._door, "contact": contact})

    async def press_rex(self) -> None:
        """Press the exit button."""
        self._check_there()
        self._say({"door": self._door, "rex": True})

    async def strike(self, released: bool) -> None:
        """Wait until the strike is released, or locked."""
        while self.released is not released:
            self._check_there()
            self._strike_moved.clear()
            await self._strike_moved.wait()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._heard(json.loads(line))
        except OSError:
            pass  # the agent is gone; told below
        finally:
            self._gone.set()
            self._strike_moved.set()
            if self._outcome is not None and not self._outcome.done():
                self._outcome.set_exception(EOFError(f"the agent at {self._path} is gone"))

    def _heard(self, message: dict[str, Any]) -> None:
        match message:
            case {"apdu": str(apdu), "card": self._count} if self._card is not None:
                self._asked.set()
                try:
                    response = self._card.transmit(bytes.fromhex(apdu))
                except CardRemoved:
                    self._say({"remove": True})
                else:
                    self._say({"response": response.hex(), "card": self._count})
            case {"feedback": "identify", "door": self._door}:
                self.identified.set()  # and no answer to a card
            case {"feedback": "binding", "door": self._door}:
                self.binding.set()
            case {"feedback": str(feedback), "door": self._door}:
                if self._outcome is not None and not self._outcome.done():
                    self._outcome.set_result(feedback)
            case {"strike": str(strike), "door": self._door}:
                self.released = strike == "released"
                self._strike_moved.set()
            case {"error": str(error)}:
                raise ValueError(f"the agent at {self._path} says: {error}")

    def _check_there(self) -> None:
        if self._gone.is_set():
            raise EOFError(f"the agent at {self._path} is gone")

    def _say(self, message: dict[str, Any]) -> None:
        assert self._writer is not None
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")
