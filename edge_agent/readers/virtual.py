"""A reader in this process: whoever holds it presents cards to it and takes them away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edge_agent.clock import Clock
from edge_agent.readers.port import CardRemoved, Feedback

Card = Callable[[bytes], Awaitable[bytes]]
"""Answers one command APDU. May raise CardRemoved."""


class VirtualCardChannel:
    """A presented card, until it is removed."""

    def __init__(self, card: Card, entered: float) -> None:
        self._card = card
        self._entered = entered
        self._removed = asyncio.Event()

    @property
    def entered(self) -> float:
        """When it was presented."""
        return self._entered

    async def transmit(self, apdu: bytes) -> bytes:
        """The card's answer. Raises CardRemoved, also in the middle of an answer."""
        if self._removed.is_set():
            raise CardRemoved("the card was taken away")
        answer = asyncio.ensure_future(self._card(apdu))
        removal = asyncio.create_task(self._removed.wait())
        try:
            await asyncio.wait((answer, removal), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise CardRemoved("the card was taken away before it had answered")
            return answer.result()
        finally:
            answer.cancel()
            removal.cancel()
            await asyncio.gather(answer, removal, return_exceptions=True)

    def remove(self) -> None:
        """Take the card away."""
        self._removed.set()


class VirtualReader:
    """A Reader whose field is `present` and `remove`. Call both from its event loop."""

    def __init__(
        self, clock: Clock, on_feedback: Callable[[Feedback], None] = lambda _: None
    ) -> None:
        self._clock = clock
        self._on_feedback = on_feedback
        self._in_field: VirtualCardChannel | None = None
        self._new = asyncio.Event()

    def present(self, card: Card) -> None:
        """Hold a card to the reader; one that was there is taken away first."""
        self.remove()
        self._in_field = VirtualCardChannel(card, self._clock.monotonic())
        self._new.set()

    def remove(self) -> None:
        """Take the card away, if there is one."""
        self._new.clear()
        if self._in_field is not None:
            self._in_field.remove()
            self._in_field = None

    async def next_card(self) -> VirtualCardChannel:
        """The next card that is presented, once."""
        while True:
            await self._new.wait()
            if self._in_field is not None and self._new.is_set():
                self._new.clear()
                return self._in_field

    async def feedback(self, feedback: Feedback) -> bool:
        """Tell whoever listens."""
        self._on_feedback(feedback)
        return True

    async def close(self) -> None:
        """Take the card away."""
        self.remove()
