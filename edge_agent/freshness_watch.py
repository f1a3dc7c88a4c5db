"""Watches the time: what a door is to be may change by itself, and so does how fresh it is.

It sleeps until the next edge: the end of a command's mode, a whole minute where a schedule unlocks,
the age at which a heartbeat is stale or too old. It never sleeps longer than a minute, so a clock
that was set finds it soon, and never looks twice within a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edge_agent.core.freshness import Freshness
from edge_agent.core.mode_change import MINUTE, next_edge
from edge_agent.door_task import DoorTask
from edge_agent.house import House
from edge_agent.log import log
from schemas.heartbeat import FRESH_S

LEAST_S = 1.0
LONGEST_S = MINUTE.total_seconds()
EVENTS: Mapping[Freshness, str] = {
    "fresh": "policy.fresh",
    "stale": "policy.stale",
    "expired": "policy.expired",
    "none": "policy.expired",
}
"""A door that never heard a heartbeat lets in as few as one that heard the last too long ago."""


@dataclass
class Said:
    """What was last said of each door's freshness. Pure.

    After a start nobody has been heard yet, and that alone is not worth an event: for as long as a
    heartbeat counts as fresh, only doors that are fresh again are told of.
    """

    last: dict[str, str | None] = field(default_factory=dict)
    """Door -> event; None: not fresh at the start, which may have been said before it."""

    def changes(
        self, now: Mapping[str, Freshness], *, starting: bool
    ) -> dict[str, tuple[str, ...]]:
        """The events to record: name -> the doors concerned."""
        events: dict[str, tuple[str, ...]] = {}
        for door, each in now.items():
            event = EVENTS[each]
            before = self.last.setdefault(door, event if each == "fresh" else None)
            if event == before or (starting and each != "fresh"):
                continue
            self.last[door] = event
            events[event] = (*events.get(event, ()), door)
        return events


def pause_s(edges_s: Iterable[float]) -> float:
    """How long to sleep, given in how many seconds each edge is; past ones don't count."""
    return min([LONGEST_S, *(edge_s for edge_s in edges_s if edge_s >= 0)])


class FreshnessWatch:
    """Wakes the doors when something passes, and records what that makes of their freshness."""

    def __init__(self, doors: Sequence[DoorTask], house: House) -> None:
        self._doors = doors
        self._house = house
        self._said = Said()
        self._began_s = house.recorder.clock.monotonic()
        self._asked = asyncio.Event()

    def look_now(self) -> None:
        """What the next edge was computed from has changed."""
        self._asked.set()

    async def run(self) -> None:
        """Watch, for ever."""
        while True:
            self._asked.clear()
            until_s = asyncio.get_running_loop().time() + pause_s(self._edges_s())
            await self.look()  # not before: what passes meanwhile is looked at again
            await asyncio.sleep(LEAST_S)
            try:
                async with asyncio.timeout_at(until_s):
                    await self._asked.wait()
            except TimeoutError:
                pass  # something passes about now

    async def look(self) -> None:
        """Let each door go by what is in force now, and record whose freshness changed."""
        await look_all(self._doors)
        house, recorder = self._house, self._house.recorder
        starting = recorder.clock.monotonic() - self._began_s <= FRESH_S
        now = {door.name: house.freshness(door.name) for door in self._doors}
        age_s = house.heartbeat_age_s()
        drafts = []
        for event, doors in self._said.changes(now, starting=starting).items():
            log.info(event.replace(".", "_"), doors=doors, heartbeat_age_s=age_s)
            drafts.append(recorder.about_agent(event, heartbeat_age_s=age_s, doors=doors))
            for door in self._doors:
                door.changed()
        await recorder.record_soon(drafts)

    def _edges_s(self) -> Iterator[float]:
        """In how many seconds what may change what the doors do: at most those that are known."""
        house, store = self._house, self._house.store
        now, _ = house.recorder.judge_time()
        yield FRESH_S - (house.recorder.clock.monotonic() - self._began_s)
        age_s = house.heartbeat_age_s() or 0.0
        yield FRESH_S - age_s
        if store.applied is not None and store.applied.expires is not None:
            yield (store.applied.expires - now).total_seconds()
        for door in self._doors:
            view = house.view(door.name)
            yield view.settings.grace_s - age_s
            edge = next_edge(view, store.overrides.get(door.name), now=now)
            yield (edge - now).total_seconds()


async def look_all(doors: Iterable[DoorTask]) -> None:
    """Let each door go by what is in force now; one that waits for a disk holds up no other."""
    async with asyncio.TaskGroup() as tasks:
        for door in doors:
            tasks.create_task(door.look())
