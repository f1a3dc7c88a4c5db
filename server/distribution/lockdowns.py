"""Lockdowns: begun and ended by people alone, in force whatever restarts in between.

All agents hold one retained statement of what is locked down, so nothing can get lost on the way to
a door: it either has the newest counter, or its heartbeat tells it that it has not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Literal

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.envelope import Signer, open_envelope
from schemas.errors import SchemaError
from schemas.lockdown import Lockdown
from schemas.lockdown import Lockdowns as Statement
from schemas.names import EVERYONE
from schemas.root import Root
from schemas.server_event_data import LockdownChanged
from schemas.statement import payload_type, sign_statement
from schemas.topics import LOCKDOWN, everyone
from server.clock import Clock, microseconds
from server.distribution.publish import Publish
from server.ingest.verify import AlarmKind, Refusal
from server.store import lockdowns as rows
from server.store.announcements import announce_all

Scope = Literal["site", "area", "door"]
MOST = 128
"""In force at once: what one statement holds."""
_BELIEVED_LEAP = 10_000
"""An agent that claims a counter farther ahead than this is believed nothing."""

log = structlog.get_logger(__name__)


class NoSuchLockdown(LookupError):
    """No lockdown of this id is in force."""


class LockdownExists(Exception):
    """A lockdown of this id began before."""


class TooManyLockdowns(Exception):
    """One statement can't hold another."""


class Lockdowns:
    """What is locked down; `load` first. Durable and announced before it is told to anyone."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        root: Callable[[], Root],
        signer: Signer,
        publish: Publish,
        executor: Executor,
        clock: Clock,
        announced: Callable[[], None],
        alarm: Callable[[Refusal], None],
        new_id: Callable[[], str],
    ) -> None:
        self._engine, self._root, self._signer = engine, root, signer
        self._publish, self._executor, self._clock = publish, executor, clock
        self._announced, self._alarm, self._new_id = announced, alarm, new_id
        self._changing = asyncio.Lock()
        self._unsure = False
        self._above: dict[str, int] = {}
        """agent -> a counter it holds that this server never gave out."""
        self.counter = 0
        """Of the newest statement; 0: there never was a lockdown."""
        self.envelope: bytes | None = None
        self.active: tuple[Lockdown, ...] = ()

    async def load(self) -> None:
        """Read what is in force, and sign it anew if the site's key has changed."""
        async with self._changing:
            await self._read()
            if self.envelope is not None and not self._is_ours(self.envelope):
                await self._change(self.active, [])

    def named(self, agent: str) -> int:
        """What the agent's heartbeat is to name.

        Never less than the agent holds: it would refuse the heartbeat, and grow stale.
        """
        return max(self.counter, self._above.get(agent, 0))

    async def start(
        self,
        scope: Scope,
        name: str,
        exempt: Sequence[str],
        by: str,
        *,
        id: str | None = None,
    ) -> Lockdown:
        """Refuse entry at every door in scope, but to members of the exempt groups.

        Raises LockdownExists, TooManyLockdowns, ValueError for what is no name, or what the
        database raises. The caller has checked that the area or door is there.
        """
        async with self._changing:
            await self._settle()
            lockdown = Lockdown(
                id=id or self._new_id(),
                scope=scope,
                name=name,
                exempt=tuple(exempt),
                since=self._clock.now(),
            )
            if len(self.active) >= MOST:
                raise TooManyLockdowns(f"{MOST} lockdowns are in force: end some first")
            async with self._engine.connect() as connection:
                if await rows.has_lockdown(connection, lockdown.id):
                    raise LockdownExists(f"a lockdown {lockdown.id} began before: leave out its id")
            await self._change((*self.active, lockdown), [lockdown], by=by, began=True)
        await self.republish()
        return lockdown

    async def end(self, id: str, by: str) -> Lockdown:
        """End one. Raises NoSuchLockdown, or what the database raises."""
        async with self._changing:
            await self._settle()
            ended = [each for each in self.active if each.id == id]
            if not ended:
                raise NoSuchLockdown(f"no lockdown {id} is in force")
            await self._change(tuple(a for a in self.active if a.id != id), ended, by=by)
        await self.republish()
        return ended[0]

    async def end_all(self, by: str) -> tuple[Lockdown, ...]:
        """End everything, also what only the agents know of (see `reported`)."""
        async with self._changing:
            await self._settle()
            ended = self.active
            if ended or self._above:
                await self._change((), ended, by=by)
        await self.republish()
        return ended

    async def republish(self) -> None:
        """Give the newest statement to the broker, which keeps it for who connects later."""
        if self.envelope is None:
            return
        try:
            await self._publish(everyone(self._root().site, LOCKDOWN), self.envelope, True)
        except ConnectionError as error:
            # not lost: told again on reconnection, and every heartbeat names the counter
            log.warning("lockdown_not_told", counter=self.counter, why=str(error))

    def reported(self, agent: str, counter: int) -> None:
        """Take the counter that `agent` reports.

        One above ours is of a statement this database has forgotten: it was restored from a backup.
        Nothing is told to the doors then, for that could end a lockdown nobody has ended; the next
        change, by a person, gets a counter above it.
        """
        if counter <= self.counter:
            self._above.pop(agent, None)
        elif self._above.get(agent) != counter:
            believed = counter <= self.counter + _BELIEVED_LEAP
            if believed:
                self._above[agent] = counter
            self._alarm(
                Refusal(
                    AlarmKind.STATE_BEHIND,
                    agent,
                    f"agent {agent} holds lockdown statement {counter}, this server's newest is"
                    f" {self.counter}: a lockdown that it has forgotten may be in force. See the"
                    " doors; `ostiary lockdown end --all` ends it, a new lockdown replaces it",
                )
            )

    async def _change(
        self,
        active: tuple[Lockdown, ...],
        changed: Sequence[Lockdown],
        *,
        by: str = "",
        began: bool = False,
    ) -> None:
        counter = max(self.counter, *self._above.values(), 0) + 1
        now = self._clock.now()
        statement = Statement(
            site=self._root().site, audience=EVERYONE, issued=now, counter=counter, active=active
        )
        envelope = await asyncio.get_running_loop().run_in_executor(
            self._executor, sign_statement, statement, self._signer
        )
        event = "lockdown.started" if began else "lockdown.ended"
        news = [
            (
                event,
                f"lockdowns/{each.id}",
                LockdownChanged(
                    by=by, lockdown=each.id, scope=each.scope, name=each.name, counter=counter
                ),
            )
            for each in changed
        ]
        self._unsure = True  # a commit that fails, or is cancelled, may have happened
        async with self._engine.begin() as connection:
            if began:
                for each in changed:
                    await rows.add_lockdown(connection, each, by)
            elif changed:
                ids = [each.id for each in changed]
                await rows.end_lockdowns(connection, ids, by, microseconds(now))
            await rows.add_statement(connection, counter, envelope)
            await announce_all(connection, news, microseconds(now))
        self.counter, self.envelope, self.active = counter, envelope, active
        self._unsure = False
        self._announced()

    async def _settle(self) -> None:
        if self._unsure:
            await self._read()
            self._unsure = False

    async def _read(self) -> None:
        async with self._engine.connect() as connection:
            self.counter, self.envelope = await rows.newest_statement(connection)
            found = await rows.read_lockdowns(connection, active=True)
        self.active = tuple(each.lockdown for each in found)

    def _is_ours(self, envelope: bytes) -> bool:
        try:
            open_envelope(envelope, self._root().key_ring(), payload_type("lockdown"))
        except SchemaError:
            return False
        return True
