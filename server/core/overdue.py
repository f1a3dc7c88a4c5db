"""Which agents have not confirmed the revocation log for too long: pure, fed with the time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

OVERDUE_S = 30.0
"""An agent that is there confirms within a second: one that takes this long is a risk."""


@dataclass(frozen=True)
class Late:
    """One agent: what it has confirmed, and for how long it has been behind, in seconds."""

    agent: str
    applied: int
    waiting_s: float


class Overdue:
    """Remembers since when each agent is behind, and which of them an alarm tells of."""

    def __init__(self) -> None:
        self._since_s: dict[str, float] = {}
        self.alarmed: set[str] = set()

    def look(
        self, newest: int, applied: Mapping[str, int], agents: Collection[str], now_s: float
    ) -> tuple[list[Late], list[Late]]:
        """Agents that became overdue now, and those that are no longer.

        An agent that is still behind when a further entry comes has been behind since the first:
        `newest` moving on does not start its time anew.
        """
        began, ended = [], []
        for agent in agents:
            done = applied.get(agent, 0)
            if done < newest:
                since_s = self._since_s.setdefault(agent, now_s)
                if now_s - since_s >= OVERDUE_S and agent not in self.alarmed:
                    self.alarmed.add(agent)
                    began.append(Late(agent, done, now_s - since_s))
                continue
            since_s = self._since_s.pop(agent, now_s)
            if agent in self.alarmed:
                self.alarmed.discard(agent)
                ended.append(Late(agent, done, now_s - since_s))
        for gone in set(self._since_s).difference(agents):
            del self._since_s[gone]
            self.alarmed.discard(gone)
        return began, ended
