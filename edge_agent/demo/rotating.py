"""The demo's rotation: new keys for the shared domain, while people keep tapping."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from edge_agent.demo.building import Building
from edge_agent.demo.cast import REGULARS
from edge_agent.demo.chips import SHARED
from edge_agent.demo.street import Tally

LOOK_S = 0.5


@dataclass
class Rotating:
    """One campaign, from its start to the end of the old keys."""

    building: Building
    tally: Tally
    patient: bool = False
    """Keep the old keys until nobody else is coming."""
    walked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nobody else is coming: who has not been by since is asked to tap once more."""
    id: str = ""

    async def run(self) -> None:
        """Return when the old keys are gone."""
        office = self.building.office
        self.id = await office.rotate(SHARED)
        await office.rotation_is(self.id, "overlap")
        to_version = int((await office.rotation(self.id))["to_version"])
        while behind := await self._behind(to_version):
            if self.walked.is_set():
                await self._once_more(behind)
            else:
                await asyncio.sleep(LOOK_S)
        if self.patient:
            await self.walked.wait()
        await office.retire(self.id)
        await office.rotation_is(self.id, "completed")

    async def told(self) -> tuple[str, int]:
        """The campaign's state, and how many good cards were refused because of it."""
        found = await self.building.office.rotation(self.id)
        return str(found["state"]), int(found["lockouts"])

    async def _behind(self, version: int) -> list[str]:
        versions = await self.building.office.key_versions(SHARED)
        return [p.name for p in REGULARS if versions.get(p.serial.hex(), version) < version]

    async def _once_more(self, names: list[str]) -> None:
        door = self.building.doors[0]
        async with self.building.doorway(door) as doorway:
            for person in REGULARS:
                if person.name in names:
                    self.tally.saw(person, await self.building.tap(doorway, person.name))
        await asyncio.sleep(LOOK_S)  # for the event of the new keys to arrive
