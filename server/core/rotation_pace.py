"""When locks are told what they lack: not too often, and not too many at once. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from schemas.keys import PACKAGE_LIFE
from server.core.rotation import Order

AT_ONCE = 256
"""Orders of one domain that are with a lock, and neither answered nor expired.

A lock has its keys after a question and its answer; the key authority makes some thousand packages
a second. So it is this many locks, and not the server, that set the pace on a slow network.
"""
FIRST_WAIT = timedelta(seconds=5)
LAST_WAIT = timedelta(minutes=10)


@dataclass
class _Told:
    order: Order
    at: datetime
    times: int
    answered: bool = False

    def outstanding(self, now: datetime) -> bool:
        return not self.answered and now < self.at + PACKAGE_LIFE

    def again(self) -> datetime:
        wait = min(FIRST_WAIT * float(2 ** min(self.times - 1, 10)), LAST_WAIT)
        return self.at + (wait if self.answered else max(wait, PACKAGE_LIFE))


class Pace:
    """Remembers which lock was told what. Lost with the process: then all are told anew."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def now_due(self, orders: Collection[Order], now: datetime) -> list[Order]:
        """Those to be sent now, which counts as done: of locks that are reachable, one each.

        A lock that got further, so that it lacks something else, is told at once.
        """
        room = AT_ONCE - sum(told.outstanding(now) for told in self._told.values())
        waiting = sorted((o for o in orders if self._is_due(o, now)), key=self._last)
        due = waiting[: max(room, 0)]
        for order in due:
            told = self._told.get(order.agent)
            times = told.times if told is not None and told.order == order else 0
            self._told[order.agent] = _Told(order, now, times + 1)
        return due

    def answered(self, agent: str) -> None:
        """The lock said `keys.held` or `keys.refused`."""
        told = self._told.get(agent)
        if told is not None:
            told.answered = True

    def forget(self, agent: str) -> None:
        """The lock came back, lacks nothing any more, or is none."""
        self._told.pop(agent, None)

    def _last(self, order: Order) -> float:
        """When it was told last: locks that never answer must not keep others from their turn."""
        told = self._told.get(order.agent)
        return 0.0 if told is None else told.at.timestamp()

    def _is_due(self, order: Order, now: datetime) -> bool:
        told = self._told.get(order.agent)
        if told is None:
            return True
        if told.order != order:
            return not told.outstanding(now)
        return now >= told.again()
