"""The live picture in the terminal, drawn from what the server publishes and nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from schemas.events import event_name

RECENT = 12
WAIT_S = 10
_COLOURS = {
    "access.granted": "green",
    "access.denied": "yellow",
    "door.forced": "bold red",
    "door.held": "bold red",
    "alarm.raised": "bold red",
}
# Each grant is followed by two of the first, each new key of a lock by the others.
_UNREMARKABLE = {"door.mode_changed", "keys.package_made", "keys.held", "keys.transport_given"}


@dataclass
class Picture:
    """Counts and the newest events; `add` is fed with CloudEvents in arrival order."""

    url: str
    suite: str
    names: Sequence[str]
    counts: Counter[str] = field(default_factory=Counter)
    doors: dict[str, str] = field(default_factory=dict)
    recent: deque[Text] = field(default_factory=lambda: deque(maxlen=RECENT))

    def add(self, event: dict[str, Any]) -> None:
        """Take one event in."""
        name, data = event_name(event["type"]), event["data"]
        self.counts[name] += 1
        door = data.get("door")
        if door:
            self.doors[door] = _door_state(name, self.doors.get(door, "closed"))
        what = f"{name} {data.get('reason', '')}".strip()
        who = data.get("person") or data.get("card") or ""
        line = f"{event['time'][11:23]}  {door or '-':<10} {who:<18} {what}"
        if name not in _UNREMARKABLE:
            self.recent.append(Text(line, style=_COLOURS.get(name, "dim"), overflow="ellipsis"))

    def draw(self) -> Group:
        """What is shown now; always of the same height, so that nothing jumps."""
        doors = Table.grid(padding=(0, 2))
        for door in self.names:
            state = self.doors.get(door, "")
            style = "bold red" if state in ("forced", "held") else ""
            doors.add_row(f"  {door}", Text(state, style=style))
        totals = "   ".join(
            f"{word} {self.counts[name]}"
            for word, name in (
                ("granted", "access.granted"),
                ("denied", "access.denied"),
                ("forced", "door.forced"),
                ("held", "door.held"),
                ("alarms", "alarm.raised"),
            )
        )
        total = sum(self.counts.values())
        return Group(
            Text(f"Live page: {self.url}   suite {self.suite}   Ctrl-C ends it", style="bold"),
            Text(),
            doors,
            Text(),
            Text(f"{total} signed events at the server   {totals}"),
            Text(),
            *self.recent,
            *[Text()] * (RECENT - len(self.recent)),
        )


def _door_state(name: str, before: str) -> str:
    match name:
        case "door.opened":
            return "open"
        case "door.closed":
            return "closed"
        case "door.forced" | "door.held":
            return name.removeprefix("door.")
        case _:
            return before


async def watch(client: httpx.AsyncClient, taken: Callable[[list[dict[str, Any]]], None]) -> None:
    """Follow the feed by long polling and hand over what each answer brings, until cancelled."""
    cursor: str | None = None
    while True:
        parameters = {"limit": "500", "wait": str(WAIT_S)} | ({"after": cursor} if cursor else {})
        try:
            answer = await client.get("/api/v1/events", params=parameters, timeout=WAIT_S + 10)
            answer.raise_for_status()
        except httpx.HTTPError:
            await asyncio.sleep(1)  # the server is being restarted, or is ending with the demo
            continue
        page = answer.json()
        cursor = page["next"]
        taken(page["events"])


async def show(client: httpx.AsyncClient, picture: Picture, live: Live) -> None:
    """Keep the picture in `live` up to date, until cancelled."""

    def taken(events: list[dict[str, Any]]) -> None:
        for event in events:
            picture.add(event)
        live.update(picture.draw(), refresh=True)

    await watch(client, taken)
