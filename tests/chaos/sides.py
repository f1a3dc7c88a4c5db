"""A process put on a disk, a clock and a wire that fail.

A side dies by being left as it lies: nothing is closed, the next life begins from the files.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextvars import ContextVar
from pathlib import Path
from random import Random
from typing import Any
from weakref import WeakSet

from sqlalchemy.exc import SQLAlchemyError

from server.store.database import DatabaseUnavailable
from tests.chaos.disk import Disk, Sickness
from tests.chaos.simulation import Clock, Thread
from tests.chaos.wire import Wire
from tests.chaos.witness import Violated

RESTART_S = 5.0
MOST_REQUESTS = 20
LIVING: ContextVar[Side] = ContextVar("LIVING")
CANNOT_START = (sqlite3.Error, SQLAlchemyError, DatabaseUnavailable)


def tasks_of_sides(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
    """A task factory that notes whose each task is."""
    task = asyncio.Task(work, loop=loop, **options)
    side = LIVING.get(None)
    if side is not None:
        side._tasks.add(task)
    return task


class Side:
    """A process and whoever starts it again."""

    unsure_commits = False

    def __init__(self, name: str, folder: Path, seed: str, tally: Counter[str], wire: Wire) -> None:
        self.name = name
        self.clock = Clock()
        self.up = False
        self.slow = False
        self.sick: Sickness | None = None
        self.dice = Random(f"{seed} {name}")
        self.tally = tally
        self.disk = Disk(folder / "1", self.dice, tally, unsure=self.unsure_commits)
        self.failure: BaseException | None = None
        """What ended it that should not have."""
        self._wire = wire
        self._threads: list[Thread] = []
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._fallen = asyncio.Event()
        self._life = 1

    @property
    def identifier(self) -> str:
        """Its MQTT client id."""
        raise NotImplementedError

    async def begin(self) -> list[Any]:
        """Start, and return the coroutines that are to run."""
        raise NotImplementedError

    async def abandon(self) -> None:
        """Let go of what only this test's process holds."""

    def thread(self) -> Thread:
        """A thread of this side."""
        thread = Thread(self._latency_s)
        self._threads.append(thread)
        return thread

    def _latency_s(self) -> float:
        return 1e-6 + self.dice.random() * (1.0 if self.slow else 0.002)

    def ail(self, sick: Sickness | None) -> None:
        """The disk fails now and then, or is well again."""
        self.sick = self.disk.sick = sick

    async def keep(self) -> None:
        """Live, die, and live again, for ever."""
        LIVING.set(self)
        loop = asyncio.get_running_loop()
        while True:
            self._fallen.clear()
            self.disk.sick = self.sick
            self.disk.on_crash = lambda: loop.call_soon_threadsafe(self._fall)
            life = asyncio.create_task(self._live())
            fallen = asyncio.create_task(self._fallen.wait())
            await asyncio.wait({life, fallen}, return_when=asyncio.FIRST_COMPLETED)
            await self._leave()
            await asyncio.sleep(RESTART_S * self.dice.random())

    async def _live(self) -> None:
        try:
            work = await self.begin()
        except CANNOT_START:
            self.tally[f"{type(self).__name__.lower()} could not start"] += 1
            return
        tasks = [asyncio.create_task(each) for each in work]
        for task in tasks:
            task.add_done_callback(self._ended)
        self.up = True
        await self._fallen.wait()

    async def _end_tasks(self) -> None:
        """A dead process goes on with nothing; some of it takes more than one request to end."""
        for _ in range(MOST_REQUESTS):
            tasks = [task for task in self._tasks if not task.done()]
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=0.1)
        else:
            self.tally["tasks that would not end"] += 1
        self._tasks.clear()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or self.disk.dead:
            return
        self.failure = task.exception() or Violated("a task returned")
        self._fall()

    def _fall(self) -> None:
        self.up = False
        for thread in self._threads:
            thread.ended = True
        self._wire.break_off(self.identifier)
        self._fallen.set()

    async def _leave(self) -> None:
        self._fall()
        await self._end_tasks()
        await self.abandon()
        self._threads.clear()
        if self.disk.dead:
            self._life += 1
            folder = self.disk.image.rename(self.disk.folder.with_name(str(self._life)))
            self.disk = Disk(folder, self.dice, self.tally, unsure=self.unsure_commits)
