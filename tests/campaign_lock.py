"""A lock in a rotation: what it holds, what it does and says when told something, its events."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from schemas.chain import Head, compose_line, parse_line
from schemas.event_data import KeysHeld, KeysRefused
from schemas.events import event_type
from schemas.keys import CheckValues, StageOrder
from schemas.suites import suite
from server.ingest.heads import Row
from server.store.rotations import Versions

ZONE = "zone-a"
SUITE = suite("intl")
OWN = CheckValues(auth="0a0a0a", admit="0b0b0b", maintain="0c0c0c")


@dataclass
class FakeLock:
    """An agent with one door of the domain; what it holds outlives the server."""

    agent: str
    domain: str = ZONE
    held: dict[int, CheckValues] = field(default_factory=dict)
    floor: int = 1
    preferred: int = 1
    accepted: tuple[int, ...] = ()
    online: bool = True
    refuses: str = ""
    """Why it takes no keys; empty: it does."""
    silent: bool = False
    """It hears orders and says nothing."""
    deaf: bool = False
    """No policy reaches it."""
    was_away: bool = False
    """Others did not wait for it: it may be asked to prefer what it is given only now."""
    orders: list[StageOrder] = field(default_factory=list)

    def obey(self, order: StageOrder) -> tuple[str, dict[str, Any]]:
        """Do as it is told; the name and data of the event that answers."""
        if self.refuses:
            refused = KeysRefused(
                clock={"status": "synced"},
                domain=self.domain,
                version=order.version,
                reason="failed",
                detail=self.refuses,
            )
            return "keys.refused", refused.model_dump(mode="json")
        asks = [self.preferred, *self.accepted]
        assert order.floor <= min(asks), f"{self.agent} would lose what it asks for"
        self.held[order.version] = order.check_values or OWN
        self.floor = max(self.floor, order.floor)
        self.held = {v: checks for v, checks in self.held.items() if v >= self.floor}
        return "keys.held", self.keys_held()

    def ask_for(self, versions: Versions) -> bool:
        """Take the policy; whether that is news."""
        if (self.preferred, self.accepted) == (versions.preferred, versions.accepted):
            return False
        if versions.preferred not in self.held:
            assert self.was_away, f"{self.agent} has not what it is to prefer"
            return False
        self.preferred, self.accepted = versions.preferred, versions.accepted
        return True

    def keys_held(self) -> dict[str, Any]:
        """The data of its `keys.held`."""
        held = KeysHeld(
            clock={"status": "synced"},
            domain=self.domain,
            suite="intl",
            esam=None,
            held=self.held,
            floor=self.floor,
            preferred=self.preferred,
            accepted=self.accepted,
        )
        return held.model_dump(mode="json")


class Chains:
    """The events of all agents, each chained to the one before. `heads`: of what is committed."""

    def __init__(self, site: str) -> None:
        self._site = site
        self.heads: dict[str, Head] = {}

    def next(self, agent: str, name: str, data: dict[str, Any], time: datetime) -> tuple[Row, Head]:
        """The agent's next event, and the head of its chain once that is committed."""
        head = self.heads.get(agent) or Head(SUITE.digest(agent.encode()).hex()[:16])
        line, head = compose_line(
            head,
            SUITE.digest,
            source=f"/sites/{self._site}/agents/{agent}",
            type=event_type(name),
            subject=f"agents/{agent}",
            time=time,
            data=data | {"clock": {"status": "synced"}},
        )
        return Row(agent, parse_line(line, SUITE.digest), None), head
