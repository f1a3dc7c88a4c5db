"""How windows stand: what their doors said of them, and the time."""

from __future__ import annotations

from datetime import datetime, timedelta

from server.store.windows import State, Window

LATE = timedelta(seconds=10)
"""A card that was held up in time is bound to the end, and the event of it takes a moment."""


def may_ask(window: Window, now: datetime) -> bool:
    """Whether its door may still ask for transport keys."""
    return window.state == "open" and now < window.until + LATE


def standing(window: Window, now: datetime) -> State:
    """What an operator is told. `ended`: its time is over, and its door has said nothing."""
    if window.state != "open" or now < window.until + LATE:
        return window.state
    return "ended" if window.outcome is None else "not_bound"
