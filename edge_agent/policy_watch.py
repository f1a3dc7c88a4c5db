"""Applies the signed policy file at start and whenever it changes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import BrokenExecutor
from pathlib import Path

from edge_agent.log import log
from edge_agent.recorder import Recorder
from edge_agent.store import PolicyFile, PolicyStore
from schemas.errors import SchemaError
from schemas.root import Root

POLL_S = 1.0
RETRY_S = 10.0
"""After a policy could not be read or stored."""
Stamp = tuple[int, int, int]


class PolicyWatch:
    """Looks at one file. `look_now` (SIGHUP) makes it look at once, changed or not."""

    def __init__(
        self,
        path: Path,
        root: Root,
        store: PolicyStore,
        recorder: Recorder,
        applied: Callable[[], Awaitable[None]],
    ) -> None:
        self._path = path
        self._root = root
        self._store = store
        self._recorder = recorder
        self._applied = applied
        self._seen: Stamp | None = None
        self._failed = False
        self._asked = asyncio.Event()

    def look_now(self) -> None:
        """Read the file again."""
        self._seen = None
        self._asked.set()

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await self.look()
            await self._applied()  # it may have come to its end: a door it unlocked is locked then
            self._asked.clear()
            try:
                async with asyncio.timeout(RETRY_S if self._failed else POLL_S):
                    await self._asked.wait()
            except TimeoutError:
                pass  # time to look again

    async def look(self) -> None:
        """Apply the file if it is not the one seen last; a refusal becomes an event.

        A failure of disk or memory is only logged: the policy in force goes on, and the file is
        tried again.
        """
        try:
            stamp = await asyncio.to_thread(_stamp, self._path)
        except OSError as error:
            self._not_applied(error)
            return
        if stamp is None or stamp == self._seen:
            return
        self._seen, self._failed = stamp, False
        now, _ = self._recorder.judge_time()
        file = PolicyFile(self._path, self._root, self._recorder.agent, now)
        try:
            changed = await self._store.apply(file)
        except SchemaError as error:
            reason, detail = type(error).__name__, str(error)[:500]
            log.error("policy_rejected", path=str(self._path), reason=reason, detail=detail)
            draft = self._recorder.about_agent("policy.rejected", reason=reason, detail=detail)
            await self._recorder.record([draft])
            return
        except (OSError, sqlite3.Error, BrokenExecutor, MemoryError) as error:
            self._not_applied(error)
            return
        self.learn_time()
        if changed and self._store.applied is not None:
            version = self._store.applied.version
            log.info("policy_applied", version=version)
            await self._applied()
            draft = self._recorder.about_agent("policy.applied", policy_version=version)
            await self._recorder.record([draft])

    def _not_applied(self, error: Exception) -> None:
        self._seen, self._failed = None, True
        why = f"{type(error).__name__}: {error}"
        log.error("policy_unreadable", path=str(self._path), why=why, again_in_s=RETRY_S)

    def learn_time(self) -> None:
        """It can't be earlier than when the policy was signed."""
        if self._store.applied is not None:
            monotonic_s = self._recorder.clock.monotonic()
            self._recorder.time.learn(self._store.applied.issued, monotonic_s)


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
