"""What a reader is to the rest of the agent."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class CardRemoved(Exception):
    """The card left the field before the conversation was over."""


class ReaderUnavailable(Exception):
    """The reader or its driver can't be used; the message says what to do. Ask again later."""


class Feedback(StrEnum):
    """What a reader shows the person in front of it."""

    GRANTED = "granted"
    DENIED = "denied"
    BINDING = "binding"
    """One blink of many: a window is open, and the card that is held up now is bound or unbound."""
    BOUND = "bound"
    TRY_AGAIN = "try_again"
    ERROR = "error"
    IDENTIFY = "identify"
    """Blink and beep: someone in front of it looks for the door that a command named."""


class CardChannel(Protocol):
    """One card in the field, from its entry to its removal."""

    @property
    def entered(self) -> float:
        """`Clock.monotonic` seconds when the card entered the field."""

    async def transmit(self, apdu: bytes) -> bytes:
        """The card's answer, as hostile as any bytes. Raises CardRemoved."""


class Reader(Protocol):
    """One side of a door."""

    async def next_card(self) -> CardChannel:
        """Wait for a card to enter the field; a card that stays in it is given once.

        Raises ReaderUnavailable; asking again is how to recover.
        """

    async def feedback(self, feedback: Feedback) -> bool:
        """Show it, where the reader can; whether it can. Never raises."""

    async def close(self) -> None:
        """Let go of the reader. A waiting `next_card` must have been cancelled before."""
