"""What door hardware is to the rest of the agent."""

from __future__ import annotations

from typing import Protocol

from edge_agent.core.door_input import Contact, DoorInput


class DoorIo(Protocol):
    """One door's strike, contact and exit button. Opening it never moves the strike."""

    async def set_strike(self, released: bool) -> None:
        """Energise (release) or lock the strike. Raises OSError if it can't be driven."""

    def contact(self) -> Contact:
        """What the contact shows now; `unknown` where there is none."""

    async def next_input(self) -> DoorInput:
        """Wait for what happens next at the door."""

    async def close(self) -> None:
        """Lock the strike and let go of the hardware."""
