"""A door without hardware: others in the process move its contact and watch its strike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from edge_agent.core.door_input import (
    Contact,
    ContactClosed,
    ContactOpened,
    DoorInput,
    RexPressed,
)

MOST_INPUTS = 256


class VirtualDoorIo:
    """Closed and locked at first. `watch` is called with each change of the strike."""

    def __init__(self) -> None:
        self.released = False
        self.watch: Callable[[bool], None] = lambda _: None
        self._contact: Contact = "closed"
        self._inputs: asyncio.Queue[DoorInput] = asyncio.Queue(MOST_INPUTS)

    async def set_strike(self, released: bool) -> None:
        """Tell the watcher, as a relay would click."""
        self.released = released
        self.watch(released)

    def contact(self) -> Contact:
        """What was last put."""
        return self._contact

    async def next_input(self) -> DoorInput:
        """What was put next."""
        return await self._inputs.get()

    async def close(self) -> None:
        """Lock the strike."""
        await self.set_strike(False)

    async def put_contact(self, contact: Literal["open", "closed"]) -> None:
        """Open or close the door leaf."""
        if contact == self._contact:
            return
        self._contact = contact
        await self._inputs.put(ContactOpened() if contact == "open" else ContactClosed())

    async def press_rex(self) -> None:
        """Press the exit button."""
        await self._inputs.put(RexPressed())
