"""People at the doors, in a life-like rhythm: most go through, some do not, a few misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from random import Random

from edge_agent.demo.cast import Person
from edge_agent.virtual.people import Doorway

OPEN_AFTER_S = 0.3
THROUGH_S = 0.6
HELD_S = 3.6  # longer than the demo's held_after_s
FORCED_S = 0.5
STAYS_OUTSIDE = 0.08
HOLDS_OPEN = 0.05
FORCES = 0.06


@dataclass
class Tally:
    """What people at the doors saw that no event says: taps, and what the copied card met."""

    taps: int = 0
    copied_taps: int = 0
    copied_denied: int = 0

    def saw(self, person: Person, outcome: str) -> None:
        """Count one tap."""
        self.taps += 1
        if person.copies:
            self.copied_taps += 1
            self.copied_denied += outcome == "denied"


async def stand_at(
    doorway: Doorway,
    tap: Callable[[Doorway, Person], Awaitable[str]],
    guests: Iterator[Person],
    random: Random,
    tally: Tally,
    *,
    pause_s: float,
) -> None:
    """One door's street: take the next guest, wait a little, let them tap; until none is left.

    `tap` is given the door and the guest; `pause_s` is the mean time between people. The
    door is forced once at the beginning and the first grant is held open, so that a short demo
    shows both.
    """
    first_grant = True
    async with doorway:
        await _force(doorway)
        for guest in guests:
            await asyncio.sleep(min(random.expovariate(1 / pause_s), 4 * pause_s))
            outcome = await tap(doorway, guest)
            tally.saw(guest, outcome)
            if outcome == "granted":
                stays = random.random() < STAYS_OUTSIDE and not first_grant
                if not stays:
                    holds = first_grant or random.random() < HOLDS_OPEN
                    await _walk_through(doorway, HELD_S if holds else THROUGH_S)
                first_grant = False
            elif random.random() < FORCES:
                await _force(doorway)


async def _walk_through(doorway: Doorway, open_s: float) -> None:
    await asyncio.sleep(OPEN_AFTER_S)
    await doorway.contact("open")
    await asyncio.sleep(open_s)
    await doorway.contact("closed")


async def _force(doorway: Doorway) -> None:
    await doorway.contact("open")
    await asyncio.sleep(FORCED_S)
    await doorway.contact("closed")
