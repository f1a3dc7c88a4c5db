"""All doors of an agent, as its link sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_agent.commanding import Commanding
from edge_agent.door_task import DoorTask
from edge_agent.freshness_watch import FreshnessWatch, look_all
from edge_agent.house import House
from schemas.command import Command
from schemas.report import DoorReport


class Ensemble:
    """Commands go to the door they name, changes to all. `restart` ends the process in order."""

    def __init__(
        self, doors: Sequence[DoorTask], house: House, restart: Callable[[], None]
    ) -> None:
        self._doors = doors
        self._house = house
        self.watch = FreshnessWatch(doors, house)
        """Its `run` lets pass what passes by itself."""
        self._commanding = Commanding({door.name: door for door in doors}, house, restart)

    async def execute(self, command: Command) -> None:
        """Carry out a command whose counter is durable, and record what came of it."""
        await self._commanding.execute(command)
        self.watch.look_now()  # what it set may end

    async def trust_changed(self) -> None:
        """Go by what is in force now; returns once the strikes are where they belong."""
        await look_all(self._doors)
        self.watch.look_now()

    def heartbeat_heard(self) -> None:
        """Doors may be fresh again."""
        self.watch.look_now()

    def reports(self) -> dict[str, DoorReport]:
        """Each door as it is now."""
        return {
            door.name: DoorReport(
                contact=door.contact, mode=door.mode, freshness=self._house.freshness(door.name)
            )
            for door in self._doors
        }
