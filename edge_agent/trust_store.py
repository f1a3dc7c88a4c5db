"""What the agent believes, on disk before it counts: trusted state, denials, policy and cards.

Each message is verified and kept in one transaction on one thread, and only then is it what the
doors go by. So a kill at any moment leaves the state before or the one after, and nothing that was
accepted is forgotten. The rules are in `core.trusted_state`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from sqlite_utils import Database

from edge_agent import trust_tables as tables
from edge_agent.clock import Clock
from edge_agent.core import trusted_state as rules
from edge_agent.core.applied import Applied
from edge_agent.core.door_mode import OVERRIDES, Override, exempt_groups, with_override
from edge_agent.core.freshness import Heard
from edge_agent.core.trusted_state import TrustedState
from edge_agent.database import DatabaseThread, connect
from edge_agent.log import log
from edge_agent.lookup import Found, InForce, look_up
from edge_agent.staging import Staging
from schemas.card_chunks import MAX_CHUNK_BYTES
from schemas.command import Action, Command
from schemas.errors import MalformedChunk, PartialBundle
from schemas.lockdown import Lockdown
from schemas.policy import DoorMode
from schemas.revocation import Denied
from schemas.root import Root
from schemas.versions import Version


class TrustStore:
    """Open it with `open`. What is read is in memory, but for a card and its denials.

    Those are looked up on the event loop itself: some 50 us, less than another thread may cost.

    The `take_*`, `offer_policy`, `add_chunk` and `apply_staged` calls raise refusals by their name
    (`schemas.errors`), or sqlite3.Error; either way nothing has changed.
    """

    def __init__(self, reader: Database, writer: DatabaseThread, agent: str, clock: Clock) -> None:
        self._reader = reader
        self._writer = writer
        self._agent = agent
        self._clock = clock
        # The writer's thread assigns these, each after its commit.
        self._state: TrustedState
        self._in_force = InForce()
        self._staging: Staging | None = None
        self._missing: tuple[str, ...] = ()
        self._overrides: Mapping[str, Override] = {}
        self._denied_versions: frozenset[str] = frozenset()
        self._word: Heard | None = None
        self._heard: Heard | None = None
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
    def state(self) -> TrustedState:
        """What is believed, and durable."""
        return self._state

    @property
    def applied(self) -> Applied | None:
        """The policy in force; None before the first."""
        return self._in_force.applied

    @property
    def lockdowns(self) -> tuple[Lockdown, ...]:
        """The lockdowns in force, of doors elsewhere too."""
        lockdowns = self._state.lockdowns
        return () if lockdowns is None else lockdowns.active

    @property
    def overrides(self) -> Mapping[str, Override]:
        """Door -> the mode it was commanded into, ended or not. A restart ends `unlocked`."""
        return self._overrides

    @property
    def staged(self) -> Version | None:
        """The policy whose chunks are being gathered."""
        staging = self._staging
        return None if staging is None else staging.candidate.version

    @property
    def missing(self) -> tuple[str, ...]:
        """Digests of chunks that the staged policy lacks, as far as they are known."""
        return self._missing

    def heartbeat_age_s(self, now: datetime) -> float | None:
        """How old the newest heartbeat is that asks for nothing more; None: there never was one."""
        heard = self._heard
        return None if heard is None else heard.age_s(now, self._clock.monotonic())

    def key_floor(self, domain: str) -> int:
        """The lowest key version that counts in a domain."""
        return self._state.key_floors.get(domain, 1)

    def denied_versions(self, domain: str) -> frozenset[int]:
        """Key versions of a domain that the revocation log denies."""
        parts = (subject.split("/") for subject in self._denied_versions)
        return frozenset(int(version) for name, version in parts if name == domain)

    def locked_down(self) -> tuple[str, ...]:
        """The doors of the policy in force that are locked down."""
        applied = self.applied
        if applied is None:
            return ()
        site, lockdowns = self._state.root.site, self.lockdowns
        return tuple(
            door
            for door, view in applied.doors.items()
            if exempt_groups(site, door, view.settings.areas, lockdowns) is not None
        )

    def find(self, card_id: str | None) -> Found:
        """What policy and revocation log say of `card_id` (16 hex digits).

        Raises PartialBundle if the disk has lost a part of the policy, or sqlite3.Error.
        """
        return look_up(self._reader, self._in_force, card_id)

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

    async def drop_staged(self) -> None:
        """Gather no more chunks for the staged policy."""
        await self._writer.run(self._drop_staged)
        await self._writer.run(self._collect)

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
        self._state = state
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
        versions = {each.subject for each in denied if each.kind == "key-version"}
        self._keep(database, state, lambda: tables.add_denials(database, denied))
        self._denied_versions |= versions

    def _take_lockdowns(self, database: Database, envelope: bytes, now: datetime) -> None:
        self._keep(database, rules.after_lockdowns(self._state, envelope, self._agent, now))

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
        self, database: Database, state: TrustedState, more: Callable[[], None] | None = None
    ) -> None:
        """Commit the state, with `more` in the same transaction, and then go by it."""
        if state is self._state:
            return
        state, before = rules.answered(state), self._state
        with database.atomic():
            tables.save(database, before, state)
            if more is not None:
                more()
        self._state = state
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
