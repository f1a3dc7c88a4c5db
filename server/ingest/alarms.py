"""Alarms, at most one per (kind, agent) and minute: an attacker must not fill the store. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from schemas.server_event_data import AlarmRaised
from server.ingest.verify import Refusal

WINDOW_S = 60.0
_MAX_DETAIL = 300


@dataclass
class _Window:
    opened_s: float
    repeats: int = 0
    detail: str = ""


class Alarms:
    """Turns refusals into alarms: the first at once, its repeats as one count when the minute ends.

    An agent's name that is not in `agents` is someone's invention: all such share one window.
    """

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str | None], _Window] = {}

    def raise_for(
        self, refusals: Collection[Refusal], agents: Collection[str], now_s: float
    ) -> list[AlarmRaised]:
        """The alarms to record now: for new refusals, and for repeats whose minute is over."""
        alarms = self._ended(now_s)
        for refusal in refusals:
            agent = refusal.agent if refusal.agent in agents else None
            detail = printable(refusal.detail)
            window = self._windows.get((refusal.kind, agent))
            if window is None:
                self._windows[refusal.kind, agent] = _Window(now_s)
                alarms.append(AlarmRaised(kind=refusal.kind, agent=agent, detail=detail))
            else:
                window.repeats += 1
                window.detail = detail
        return alarms

    def due_in(self, now_s: float) -> float | None:
        """Seconds until repeats are to be recorded; None if there are none."""
        due = [w.opened_s + WINDOW_S - now_s for w in self._windows.values() if w.repeats]
        return max(0.0, min(due)) if due else None

    def _ended(self, now_s: float) -> list[AlarmRaised]:
        alarms = []
        for key, window in list(self._windows.items()):
            if now_s - window.opened_s < WINDOW_S:
                continue
            del self._windows[key]
            if window.repeats:
                kind, agent = key
                alarms.append(
                    AlarmRaised(kind=kind, agent=agent, detail=window.detail, count=window.repeats)
                )
                self._windows[key] = _Window(now_s)
        return alarms


def printable(text: str) -> str:
    """`text` cut to a line that can harm no terminal, log or encoder."""
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_DETAIL])
