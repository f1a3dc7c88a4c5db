"""Makes each refusal a named event: the first of its kind at once, repeats counted by the minute.

Whoever can send us messages can send nonsense without end. Kinds of refusals are few (a purpose and
the name of an error), and what they may cost in events is bounded: so no flood fills the disk.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from edge_agent.log import log
from edge_agent.recorder import Recorder
from schemas.topics import CHUNK, POLICY

WINDOW_S = 60.0
BURST = 256
"""So many events may come at once: more than there are kinds that need no stolen key."""
SECONDS_FOR_ONE_MORE = 6.0
"""Afterwards: 120 hours of a flood that mixes all kinds are 72,000 events."""


@dataclass
class _Window:
    due_s: float
    count: int = 0
    detail: str = ""


class Refusals:
    """What was refused and not told yet."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._windows: dict[tuple[str, str], _Window] = {}
        self._fresh = asyncio.Event()
        self._left = float(BURST)
        self._left_at_s = recorder.clock.monotonic()

    def report(self, purpose: str, refusal: Exception) -> None:
        """`refusal` is why something that came as `purpose` does not count."""
        now_s = self._recorder.clock.monotonic()
        window = self._windows.setdefault((purpose, type(refusal).__name__), _Window(now_s))
        window.count += 1
        window.detail = str(refusal).encode("ascii", "backslashreplace").decode()[:500]
        if window.due_s <= now_s:
            self._fresh.set()

    async def run(self) -> None:
        """Tell what is due, for ever."""
        while True:
            self._fresh.clear()
            wait_s = await self.tell_due()
            try:
                async with asyncio.timeout(wait_s):
                    await self._fresh.wait()
            except TimeoutError:
                pass  # a minute is over, or another event may be spent

    async def tell_due(self) -> float | None:
        """Tell what is due; in how many seconds there may be more. None: at the next refusal."""
        now_s = self._recorder.clock.monotonic()
        self._left = min(BURST, self._left + (now_s - self._left_at_s) / SECONDS_FOR_ONE_MORE)
        self._left_at_s = now_s
        for kind, window in list(self._windows.items()):
            if window.due_s > now_s:
                continue
            del self._windows[kind]
            if not window.count:
                continue  # a minute without it: the next one is a first one
            if self._left < 1:
                self._windows[kind] = window
                return SECONDS_FOR_ONE_MORE
            self._left -= 1
            self._windows[kind] = _Window(now_s + WINDOW_S)  # last in line, whoever came first
            await self._tell(*kind, window)
        dues = [window.due_s for window in self._windows.values()]
        return max(0.0, min(dues) - now_s) if dues else None

    async def _tell(self, purpose: str, reason: str, window: _Window) -> None:
        name = "policy.rejected" if purpose in (POLICY, CHUNK) else "statement.rejected"
        told = {"purpose": purpose, "reason": reason, "detail": window.detail}
        log.warning("refused", **told, count=window.count)
        draft = self._recorder.about_agent(name, **told, count=window.count)
        await self._recorder.record([draft])
