"""The windows that operators opened at one door: at most one on each side, for a minute at most.

A card that the policy knows as bound here passes as ever, and the window does not notice it. Any
other card is bound to the window's person, or the window's own card is unbound, and that ends the
window. What came of each card is an event that names the command. A restart closes every window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from edge_agent.core.decision import Direction
from edge_agent.house import House
from edge_agent.readers.port import Feedback
from schemas.command import LONGEST_WINDOW, Action, Command

BLINK_S = 1.0

Show = Callable[[Direction, Feedback], Awaitable[object]]


@dataclass(eq=False)
class Window:
    """An open window, and what has come of it so far."""

    command: Command
    ends_s: float
    """In `Clock.monotonic`: a wall clock that is set back opens it no longer."""
    blink_s: float
    """When the reader blinks next."""
    busy: bool = False
    """A card is being bound or unbound: that goes on to its end."""
    met: bool = False
    """A card came that was for it."""
    refused: set[bytes] = field(default_factory=set)
    """Cards that have another transport key than the server says: each try counts on the card."""

    @property
    def unbinds(self) -> bool:
        """Whether it takes a card's keys away, rather than giving it some."""
        return self.command.action is Action.UNBINDING_WINDOW


class Windows:
    """The windows of one door. `run` lets them blink and end."""

    def __init__(self, door: str, house: House) -> None:
        self._door = door
        self._house = house
        self._open: dict[Direction, Window] = {}
        self._changed = asyncio.Event()

    async def open(self, command: Command) -> None:
        """Open the window of a command that may do so, in the place of one that is open there."""
        assert command.direction is not None
        assert command.until is not None
        now, _ = self._house.recorder.judge_time()
        now_s = self._now_s()
        lasts = min(command.until - now, LONGEST_WINDOW)
        before = self._open.get(command.direction)
        window = Window(command, now_s + lasts.total_seconds(), blink_s=now_s)
        self._open[command.direction] = window
        self._changed.set()
        if before is not None and not before.busy:  # of one that is busy, its card will tell
            await self.tell(before, "replaced")

    def at(self, direction: Direction) -> Window | None:
        """The window that is open on this side."""
        window = self._open.get(direction)
        return None if window is None or self._now_s() >= window.ends_s else window

    def is_open(self, window: Window) -> bool:
        """Whether it was neither used up, nor replaced, nor ended."""
        return window in self._open.values()

    def rest(self, window: Window) -> None:
        """Let the reader show what it has just been told before it blinks again."""
        window.blink_s = self._now_s() + BLINK_S
        self._changed.set()

    def close(self, window: Window) -> None:
        """It was used up."""
        self._open = {side: each for side, each in self._open.items() if each is not window}
        self._changed.set()

    async def run(self, show: Show) -> None:
        """Blink, and end what is over, for ever."""
        while True:
            self._changed.clear()
            now_s, next_s = self._now_s(), None
            for direction, window in list(self._open.items()):
                if window.busy:
                    continue
                if now_s >= window.ends_s:
                    await self._end(window)
                    continue
                if now_s >= window.blink_s:
                    window.blink_s = now_s + BLINK_S
                    await show(direction, Feedback.BINDING)
                next_s = min(filter(None, (next_s, window.blink_s, window.ends_s)))
            try:
                async with asyncio.timeout(None if next_s is None else next_s - self._now_s()):
                    await self._changed.wait()
            except TimeoutError:
                pass  # to blink, or to end one

    async def _end(self, window: Window) -> None:
        self.close(window)
        if not window.met:
            await self.tell(window, "nobody_came")

    async def tell(
        self, window: Window, outcome: str, *, card: str | None = None, detail: str = ""
    ) -> None:
        """Record what came of it, if it is not that a card was bound or unbound."""
        recorder = self._house.recorder
        draft = recorder.about_door(
            "card.not_bound",
            self._door,
            command=window.command.id,
            card=card,
            person=window.command.person,
            domain=self._house.view(self._door).settings.domain,
            outcome=outcome,
            detail=detail[:200],
        )
        await recorder.record_soon([draft])

    async def done(self, window: Window, **data: Any) -> bool:
        """Record that a card was bound or unbound; whether that is on the disk now."""
        recorder = self._house.recorder
        name = "card.unbound" if window.unbinds else "card.bound"
        draft = recorder.about_door(name, self._door, command=window.command.id, **data)
        return bool(await recorder.record([draft]))

    def _now_s(self) -> float:
        return self._house.recorder.clock.monotonic()
