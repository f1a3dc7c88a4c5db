"""Simulated time: an event loop that leaps to the next timer, with threads that live in it.

Minutes of back-off pass in milliseconds, and the order of events follows from the dice alone.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from random import Random
from typing import Any
from unittest.mock import patch

import aiosqlite.core

from schemas.event_data import ClockStatus

EPOCH = datetime(2026, 11, 24, 8, tzinfo=UTC)
TURN_S = 1e-6
"""What one turn of the loop takes: at a standstill a deadline that was rounded would never come."""
PATIENCE_S = 10.0
"""Real seconds that a real thread may take before the time goes on all the same. Less than the
disk's `LOCKED_S`: who holds what a thread waits for may itself wait for a time to come."""
LOOK_S = 0.02
"""So often it is seen whether there is a thread that still works."""


class Stalled(Exception):
    """Nobody waits for anything that could still happen."""


class Loop(asyncio.SelectorEventLoop):
    """Its time goes on only while nothing is left to do, and no real thread is `at_work`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.at_work: dict[object, threading.Thread] = {}
        super().__init__(_Leap(self))

    def time(self) -> float:
        return self.now


class _Leap(selectors.SelectSelector):
    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        self._loop.now += TURN_S
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if self._loop.at_work:
            ready = self._wait_for_threads()
            if ready:
                return ready
            self._loop.at_work.clear()
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stalled("nothing is left to happen")
            self._loop.now += timeout
        return ready

    def _wait_for_threads(self) -> list[Any]:
        """A connection may be closed when its thread has ended: that is never answered."""
        threads, ends_s = self._loop.at_work.values(), time.monotonic() + PATIENCE_S
        while any(thread.is_alive() for thread in threads) and time.monotonic() < ends_s:
            ready = super().select(LOOK_S)
            if ready:
                return ready
        return super().select(0)


class Thread(Executor):
    """One thread whose work takes simulated time. Work that is queued when it is ended is lost."""

    def __init__(self, latency_s: Callable[[], float]) -> None:
        self._latency_s = latency_s
        self._free_at = 0.0
        self.ended = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        loop = asyncio.get_running_loop()
        self._free_at = max(self._free_at, loop.time()) + self._latency_s()
        loop.call_at(self._free_at, self._work, future, lambda: fn(*args, **kwargs))
        return future

    def _work(self, future: Future[Any], fn: Callable[[], Any]) -> None:
        if self.ended or not future.set_running_or_notify_cancel():
            return
        try:
            result = fn()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """What is queued is still done, as after `wait`."""


async def to_thread(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """`asyncio.to_thread`, in simulated time."""
    await asyncio.sleep(1e-3)
    return function(*args, **kwargs)


class Clock:
    """A clock of both sides' kind, whose wall time can be moved."""

    def __init__(self, most_ahead_s: float = 1e8) -> None:
        self.jumped = timedelta(0)
        self._most_ahead_s = most_ahead_s

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.monotonic()) + self.jumped

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def status(self) -> ClockStatus:
        return ClockStatus(status="holdover")

    def jump(self, dice: Random) -> None:
        """Anywhere from seconds to years, forward or back."""
        seconds = dice.choice((-1, 1)) * 10 ** (dice.random() * 7.5)
        self.jumped = timedelta(seconds=min(seconds, self._most_ahead_s))


def run(main: Awaitable[Any]) -> Any:
    """`asyncio.run` in simulated time."""
    with _counted_threads(), asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(_await(main))


async def _await(main: Awaitable[Any]) -> Any:
    return await main


@contextmanager
def _counted_threads() -> Iterator[None]:
    """The time must not go on while SQLite's real threads work for the server."""
    connection = aiosqlite.core.Connection
    with (
        patch.object(connection, "_execute", _counted(connection._execute)),
        patch.object(connection, "_connect", _counted(connection._connect)),
        patch.object(connection, "close", _counted(connection.close)),
    ):
        yield


def _counted(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def counted(connection: Any, *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        call = object()
        loop.at_work[call] = connection._thread
        try:
            return await method(connection, *args, **kwargs)
        finally:
            loop.at_work.pop(call, None)

    return counted
