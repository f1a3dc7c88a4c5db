"""What the agent believes, on disk before it counts: trusted state, denials, policy and cards.

Each message is verified and kept in one transaction on one thread, and only then is it what the
doors go by. So a kill at any moment leaves the state before or the one after, and nothing that was
accepted is forgotten. What shuts people out is in force at once, even if the disk fails: see
`unsaved`. The rules are in `core.trusted_state`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from sqlite_utils import Database

from edge_agent import trust_tables as tables
from edge_agent.clock import Clock
from edge_agent.core import trusted_state as rules
from edge_agent.core.applied import Applied
from edge_agent.core.door_mode import OVERRIDES, Override, with_override
from edge_agent.core.freshness import Heard
from edge_agent.core.trusted_state import TrustedState
from edge_agent.database import DatabaseThread, connect
from edge_agent.log import log
from edge_agent.lookup import InForce
from edge_agent.staging import Staging
from edge_agent.trust_view import TrustView
from edge_agent.unsaved import OnlyInMemory, Unsaved
from schemas.card_chunks import MAX_CHUNK_BYTES
from schemas.command import Action, Command
from schemas.errors import MalformedChunk, PartialBundle
from schemas.policy import DoorMode
from schemas.revocation import Denied
from schemas.root import Root
from schemas.versions import Version


class TrustStore(TrustView):
    """Open it with `open`.

    The `take_*`, `offer_policy`, `add_chunk` and `apply_staged` calls raise refusals by their name
    (`schemas.errors`), or sqlite3.Error; either way nothing has changed. But what shuts people out
    does not wait for a disk: then they raise OnlyInMemory, and it is in force.
    """

    def __init__(self, reader: Database, writer: DatabaseThread, agent: str, clock: Clock) -> None:
        super().__init__(reader, clock)
        self._writer = writer
        self._agent = agent
        self._staging: Staging | None = None
        self._missing: tuple[str, ...] = ()
        self.notes: Mapping[str, str] = {}
        """What the agent remembers of its own doings: receipts that it gave, its session."""

    @classmethod
    async def open(cls, path: Path, pinned: Root, agent: str, clock: Clock) -> TrustStore:
        """The store at `path`, made anew with the pinned root document if it is not there.

        Raises WrongAudience or Equivocation if `path` is of another site than the pinned root, and
        sqlite3.Error.
        """
        writer = DatabaseThread(path, "trust-writer")
        try:
            await writer.run(tables.create)
            store = cls(connect(path), writer, agent, clock)
            await writer.run(store._load, pinned)
        except BaseException:
            await writer.close()
            raise
        await writer.run(store._collect)
        return store

    async def close(self) -> None:
        """Let go of the database."""
        self._reader.close()
        await self._writer.close()

    @property
    def staged(self) -> Version | None:
        """The policy whose chunks are being gathered."""
        staging = self._staging
        return None if staging is None else staging.candidate.version

    @property
    def missing(self) -> tuple[str, ...]:
        """Digests of chunks that the staged policy lacks, as far as they are known."""
        return self._missing

    async def take_root(self, envelope: bytes) -> None:
        """Pin the next root document."""
        await self._writer.run(self._take_root, envelope)

    async def take_heartbeat(self, envelope: bytes, now: datetime) -> None:
        """Hear the server's newest word."""
        await self._writer.run(self._take_heartbeat, envelope, now)

    async def take_revocation(self, envelope: bytes, now: datetime) -> None:
        """Add entries of the revocation log to those held."""
        await self._writer.run(self._take_revocation, envelope, now)

    async def take_snapshot(
        self, envelope: bytes, bodies: Mapping[str, bytes], now: datetime
    ) -> None:
        """Add a whole log to what is held; `bodies` has the chunks of the snapshot by digest."""
        await self._writer.run(self._take_snapshot, envelope, bodies, now)

    async def take_lockdowns(self, envelope: bytes, now: datetime) -> None:
        """Go by the newest lockdowns."""
        await self._writer.run(self._take_lockdowns, envelope, now)

    async def take_command(self, envelope: bytes, session: str, now: datetime) -> Command:
        """Count a command, and keep what `lock` or `block` sets and `normal` ends with it.

        Acting on it is the caller's, and so is all of `unlock`, which may be refused.
        """
        return await self._writer.run(self._take_command, envelope, session, now)

    async def set_override(self, door: str, override: Override | None) -> None:
        """Keep the mode that a door is commanded into, in place of any before; None: of none."""
        await self._writer.run(self._set_override, door, override)

    async def offer_policy(self, envelope: bytes, now: datetime) -> tuple[str, ...]:
        """Stage a policy in place of any other; the digests of the chunks that it lacks.

        The policy in force stages nothing: see `staged`.
        """
        return await self._writer.run(self._offer_policy, envelope, now)

    async def add_chunk(self, body: bytes) -> tuple[str, ...]:
        """Keep a chunk that the staged policy lacks; the digests of those that it still lacks.

        Raises MalformedChunk if it is neither lacking nor held, or stands elsewhere.
        """
        return await self._writer.run(self._add_chunk, body)

    async def apply_staged(self) -> Applied:
        """Put the staged policy in force.

        Raises PartialBundle if it lacks chunks or nothing is staged, and Equivocation, Rollback or
        MixAndMatch if what has come meanwhile rules it out: then it is staged no more.
        """
        applied = await self._writer.run(self._apply_staged)
        # Back on the event loop, so no look-up still reads the old policy's leaves.
        await self._writer.run(self._collect)
        return applied

    async def save(self) -> None:
        """Write what is in force and not on disk yet. Raises sqlite3.Error."""
        await self._writer.run(self._save)

    async def note(self, notes: Mapping[str, str]) -> None:
        """Add to `notes`. Raises sqlite3.Error."""
        await self._writer.run(self._note, notes)

    # What follows runs on the writer's thread, one after another

    def _load(self, database: Database, pinned: Root) -> None:
        state = tables.load(database)
        if state is None:
            state = TrustedState.pinned(pinned)
            with database.atomic():
                tables.save(database, None, state)
        state.hold_to(pinned)
        self._state = self._saved = state
        self.notes = tables.load_notes(database)
        self._overrides = tables.load_overrides(database)
        self._denied_versions = tables.denied_versions(database)
        now, monotonic_s = self._clock.now(), self._clock.monotonic()
        if state.heartbeat is not None:
            self._word = Heard.of(state.heartbeat.issued, now, monotonic_s)
        if state.heard is not None:
            self._heard = Heard.of(state.heard, now, monotonic_s)
        if state.policy is not None and state.policy_hash is not None:
            held = rules.Candidate(state.policy, state.policy_hash)
            whole = self._staging_of(database, held)
            if whole.missing:  # the disk lost something: it is gathered again
                log.error("policy_damaged", version=state.policy.counter, lost=len(whole.missing))
                self._stage(whole)
            else:
                self._in_force = InForce.of(whole)
        if (staged := tables.load_staged(database)) is not None:
            self._stage(self._staging_of(database, staged))

    def _take_root(self, database: Database, envelope: bytes) -> None:
        state = rules.after_root(self._state, envelope)
        before, after = (each.root.roles["policy"].keyids for each in (self._state, state))
        if before == after:
            self._keep(database, state)
            return
        # Who signed what is staged may have no say any more.
        self._keep(database, state, lambda: tables.save_staged(database, None))
        self._stage(None)

    def _take_heartbeat(self, database: Database, envelope: bytes, now: datetime) -> None:
        state = rules.after_heartbeat(self._state, envelope, self._agent, now)
        if state is self._state:
            return
        self._keep(database, state)
        assert state.heartbeat is not None
        self._word = Heard.of(state.heartbeat.issued, now, self._clock.monotonic())
        if self._state.heard == state.heartbeat.issued:
            self._heard = self._word

    def _take_revocation(self, database: Database, envelope: bytes, now: datetime) -> None:
        self._deny(database, *rules.after_revocation(self._state, envelope, self._agent, now))

    def _take_snapshot(
        self, database: Database, envelope: bytes, bodies: Mapping[str, bytes], now: datetime
    ) -> None:
        state = self._state
        self._deny(database, *rules.after_snapshot(state, envelope, self._agent, now, bodies))

    def _deny(self, database: Database, state: TrustedState, denied: tuple[Denied, ...]) -> None:
        shuts = self._unsaved.with_denied(denied)
        self._denied_versions |= {e.subject for e in denied if e.kind == "key-version"}
        self._keep(database, state, lambda: tables.add_denials(database, denied), shuts)

    def _take_lockdowns(self, database: Database, envelope: bytes, now: datetime) -> None:
        state = rules.after_lockdowns(self._state, envelope, self._agent, now)
        self._keep(database, state, shuts=self._unsaved.with_lockdowns(self.lockdowns))

    def _save(self, database: Database) -> None:
        self._keep(database, self._state)

    def _take_command(
        self, database: Database, envelope: bytes, session: str, now: datetime
    ) -> Command:
        state, command = rules.after_command(self._state, envelope, self._agent, session, now)
        mode = OVERRIDES.get(command.action)
        door, override = command.door, None if mode is None else Override(mode, command.until)
        # Whether a door may be unlocked is not known here: `set_override` comes for that.
        sets = mode is not None and mode is not DoorMode.UNLOCKED
        if door is None or not (sets or command.action is Action.NORMAL):
            self._keep(database, state)
            return command
        self._keep(database, state, lambda: tables.set_override(database, door, override))
        self._overrides = with_override(self._overrides, door, override)
        return command

    def _set_override(self, database: Database, door: str, override: Override | None) -> None:
        # After a restart nobody knows who is at an unlocked door: it is locked then.
        unlocked = override is not None and override.mode is DoorMode.UNLOCKED
        with database.atomic():
            tables.set_override(database, door, None if unlocked else override)
        self._overrides = with_override(self._overrides, door, override)

    def _offer_policy(self, database: Database, envelope: bytes, now: datetime) -> tuple[str, ...]:
        candidate = rules.after_policy(self._state, envelope, self._agent, now)
        if candidate.hash == self._state.policy_hash:
            self._drop_staged(database)
            return ()
        staging = self._staging_of(database, candidate)
        with database.atomic():
            tables.save_staged(database, candidate)
        self._stage(staging)
        return self._missing

    def _add_chunk(self, database: Database, body: bytes) -> tuple[str, ...]:
        if len(body) > MAX_CHUNK_BYTES:
            raise MalformedChunk(f"chunk of {len(body)} bytes, the limit is {MAX_CHUNK_BYTES}")
        digest, staging = self._state.digest(body), self._staging
        if tables.has_chunk(database, digest):
            return self._missing
        if staging is None:
            raise MalformedChunk(f"chunk {digest}: no policy is staged that could lack it")
        staging.check(digest, body)
        tables.add_chunk(database, digest, body)
        staging.add(digest, body)
        self._missing = tuple(staging.missing)
        return self._missing

    def _apply_staged(self, database: Database) -> Applied:
        staging = self._staging
        if staging is None or staging.missing:
            lacking = "no policy is staged" if staging is None else f"{len(staging.missing)} lack"
            raise PartialBundle(f"policy can't come into force: {lacking}")
        try:
            state = rules.with_policy(self._state, staging.candidate)
        except Exception:
            self._drop_staged(database)
            raise
        applied = Applied.of(staging.candidate.policy, staging.candidate.hash)
        self._keep(database, state, lambda: tables.save_staged(database, None))
        self._in_force = InForce(applied, staging.candidate.policy.levels, staging.leaves)
        self._stage(None)
        return applied

    def _note(self, database: Database, notes: Mapping[str, str]) -> None:
        kept = {**self.notes, **notes}
        with database.atomic():
            tables.save_notes(database, kept)
        self.notes = kept

    def _drop_staged(self, database: Database) -> None:
        if self._staging is None:
            return
        with database.atomic():
            tables.save_staged(database, None)
        self._stage(None)

    def _collect(self, database: Database) -> None:
        """Delete the chunks that the policy in force does not name.

        Not while another is staged: which of them it names shows only as its indexes come.
        """
        if self._staging is None:
            named = set(self._in_force.leaves.values())
            named.update(() if self._state.policy is None else self._state.policy.cards.values())
            with database.atomic():
                tables.forget_chunks(database, tables.chunk_digests(database) - named)

    def _keep(
        self,
        database: Database,
        state: TrustedState,
        more: Callable[[], None] | None = None,
        shuts: Unsaved | None = None,
    ) -> None:
        """Commit the state, with `more` in the same transaction, and then go by it.

        If that fails and it shuts people out, it is gone by all the same: `shuts` is what is
        unsaved then, and every later commit has it too.
        """
        if state is self._saved:
            return
        state, before = rules.answered(state), self._state
        try:
            with database.atomic():
                tables.save(database, self._saved, state)
                tables.add_denials(database, self._unsaved.denied.values())
                if more is not None:
                    more()
        except (sqlite3.Error, OSError) as error:
            if shuts is None or state is before:
                raise
            # a door gets no fresher by what is not kept
            self._state, self._unsaved = replace(state, heard=before.heard), shuts
            raise OnlyInMemory(f"in force, but only in memory: {error}") from error
        self._state = self._saved = state
        self._unsaved = Unsaved()
        if state.heard is not before.heard:
            self._heard = self._word

    def _staging_of(self, database: Database, candidate: rules.Candidate) -> Staging:
        return Staging(
            candidate,
            lambda digest: tables.has_chunk(database, digest),
            lambda digest: tables.chunk(database, digest),
        )

    def _stage(self, staging: Staging | None) -> None:
        self._staging = staging
        self._missing = () if staging is None else tuple(staging.missing)
