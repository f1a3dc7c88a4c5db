"""What the demo did, counted from the server's store and the agents' own records."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from edge_agent.demo.processes import whole_lines
from schemas.events import event_name

Event = dict[str, Any]


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds; None where nothing was measured."""

    p50: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Percentiles:
        """By the nearest-rank method."""
        ordered = sorted(values)
        if not ordered:
            return cls(None, None)

        def rank(part: float) -> float:
            return round(ordered[max(0, math.ceil(part * len(ordered)) - 1)], 3)

        return cls(rank(0.50), rank(0.99))


@dataclass(frozen=True)
class Figures:
    """The demo's result, printed as one JSON object."""

    suite: str
    doors: int
    taps: int
    granted: int
    denied: dict[str, int]
    copied_card: dict[str, int]
    events_committed: int
    events_verified: int
    lost: int
    duplicated: int
    tap_to_strike_ms: Percentiles
    event_to_commit_ms: Percentiles
    revocations: int
    revocation_ms: Percentiles
    """From the operator's order to the last door's receipt in the store."""
    bound: int
    """Cards that were given keys at a door."""
    rekeyed: int
    """Cards that were given the next version's keys, after they had opened a door."""
    rotation_state: str
    lockouts_during_rotation: int
    """Good cards that a door refused because of their key version."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


async def all_events(client: httpx.AsyncClient) -> list[Event]:
    """Every event of the store, in arrival order, through the public API."""
    events: list[Event] = []
    cursor: str | None = None
    while True:
        parameters = {"limit": "1000"} | ({"after": cursor} if cursor else {})
        answer = await client.get("/api/v1/events", params=parameters)
        answer.raise_for_status()
        page = answer.json()
        events += page["events"]
        cursor = page["next"]
        if not page["more"]:
            return events


def count(events: Sequence[Event], name: str) -> int:
    """How many events are of this noun and verb."""
    return sum(event_name(event["type"]) == name for event in events)


def denials(events: Sequence[Event]) -> dict[str, int]:
    """Denials by reason, most frequent first."""
    reasons = Counter(
        str(event["data"]["reason"])
        for event in events
        if event_name(event["type"]) == "access.denied"
    )
    return dict(reasons.most_common())


def duplicates(events: Sequence[Event]) -> int:
    """Events of the store that another with the same source, chain and sequence stands beside."""
    keys = Counter((event["source"], event["chain"], event["sequence"]) for event in events)
    return sum(times - 1 for times in keys.values())


def missing(events: Sequence[Event], recorded: dict[str, tuple[str, int]]) -> int:
    """Events that agents recorded and the store lacks.

    `recorded` is source -> (chain, last sequence), as each agent's own event store says.
    """
    stored = {(event["source"], event["chain"], int(event["sequence"])) for event in events}
    return sum(
        (source, chain, sequence) not in stored
        for source, (chain, last) in recorded.items()
        for sequence in range(1, last + 1)
    )


def commit_latencies(events: Sequence[Event]) -> list[float]:
    """Milliseconds from each event's own time to its commit, of agents that were running.

    What an agent kept from before its start, such as the binding of cards, was not sent at once.
    """
    started = {
        event["source"]: event["time"]
        for event in events
        if event_name(event["type"]) == "agent.started"
    }
    return [
        _milliseconds(event["time"], event["recordedtime"])
        for event in events
        if event["occurrence"] == "live" and event["time"] > started.get(event["source"], "~")
    ]


def _milliseconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() * 1000


def revocation_latencies(events: Sequence[Event], cards: Collection[str]) -> list[float]:
    """Milliseconds from the order to revoke one of `cards` to the commit of the last receipt.

    A receipt covers all entries up to its own. One that a door never gave makes no latency.
    """
    receipts: dict[str, list[tuple[int, str]]] = {}
    for event in events:
        if event_name(event["type"]) == "revocation.applied":
            receipt = (int(event["data"]["sequence"]), event["recordedtime"])
            receipts.setdefault(event["source"], []).append(receipt)
    latencies = []
    for event in events:
        if event_name(event["type"]) != "revocation.requested":
            continue
        if event["data"]["subject"] not in cards:
            continue
        wanted = int(event["data"]["sequence"])
        firsts = [
            min((time for sequence, time in of if sequence >= wanted), default=None)
            for of in receipts.values()
        ]
        times = [time for time in firsts if time is not None]
        if times and len(times) == len(firsts):
            latencies.append(_milliseconds(event["time"], max(times)))
    return latencies


def strike_latencies(logs: Iterable[Path]) -> list[float]:
    """Milliseconds from card in the field to strike released, from the agents' logs."""
    latencies = []
    for path in logs:
        for line in whole_lines(path):
            if '"strike_released"' not in line:
                continue
            entry = json.loads(line)
            if entry.get("tap_to_strike_ms") is not None:
                latencies.append(float(entry["tap_to_strike_ms"]))
    return latencies
