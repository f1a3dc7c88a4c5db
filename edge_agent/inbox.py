"""What the server says: each message is verified and stored, then acted on, then receipted.

A message counts by its signature, never by its topic; the topic only says what it has to be. Every
refusal is reported by its name, and changes nothing.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from edge_agent.core.trusted_base import opened
from edge_agent.core.trusted_state import TrustedState
from edge_agent.fetching import Fetching
from edge_agent.handover import Handover
from edge_agent.log import log
from edge_agent.neighbours import Doors, Keys, Renewals, TransportAnswers
from edge_agent.outbox import AcknowledgementMismatch
from edge_agent.receipts import Receipts
from edge_agent.recorder import Recorder
from edge_agent.refusals import Refusals
from edge_agent.reporting import Reporting
from edge_agent.trust_store import TrustStore
from edge_agent.unsaved import OnlyInMemory
from schemas.card_chunks import MAX_CHUNK_BYTES
from schemas.command import Command
from schemas.enrolment import Certificate
from schemas.envelope import open_envelope
from schemas.errors import (
    BrokenLog,
    Expired,
    MalformedChunk,
    MalformedEnvelope,
    MalformedTopic,
    RetainedReplay,
    SchemaError,
    UnknownKey,
    WrongSession,
)
from schemas.keys import MAX_KEY_STATEMENT_BYTES, KeyPackage, StageOrder
from schemas.statement import Statement, parse_statement, payload_type
from schemas.topics import (
    ACKNOWLEDGEMENT,
    CERTIFICATE,
    CHUNK,
    COMMAND,
    HEARTBEAT,
    KEYS,
    LOCKDOWN,
    POLICY,
    REVOCATION,
    ROOT,
    SNAPSHOT,
    STAGE,
    TRANSPORT,
)
from schemas.transport import MAX_TRANSPORT_BYTES, TransportKey

MAX_BYTES = {
    POLICY: 192 * 1024,
    SNAPSHOT: 128 * 1024,
    CHUNK: MAX_CHUNK_BYTES,
    STAGE: MAX_KEY_STATEMENT_BYTES,
    KEYS: MAX_KEY_STATEMENT_BYTES,
    TRANSPORT: MAX_TRANSPORT_BYTES,
}
MAX_OTHER_BYTES = 64 * 1024
CHANNELS = (
    ACKNOWLEDGEMENT,
    HEARTBEAT,
    POLICY,
    CHUNK,
    REVOCATION,
    SNAPSHOT,
    LOCKDOWN,
    ROOT,
    COMMAND,
    CERTIFICATE,
    STAGE,
    KEYS,
    TRANSPORT,
)
TO_EVERYONE = (REVOCATION, LOCKDOWN, ROOT)
RETAINED = (HEARTBEAT, LOCKDOWN)
"""Channels of states: what a broker kept there may still be the newest."""
SAVE_AGAIN_S = 5.0
_NOT_KEPT = "it is in force from memory until the disk takes it; a restart would forget it"
S = TypeVar("S", bound=Statement)
ELSEWHERE = "elsewhere"
"""The purpose of what came on a topic that nobody subscribed to."""


class Inbox:
    """Takes one message after another."""

    def __init__(
        self,
        store: TrustStore,
        recorder: Recorder,
        *,
        doors: Doors,
        renewals: Renewals,
        keys: Keys,
        transport: TransportAnswers,
        handover: Handover,
        fetching: Fetching,
        reporting: Reporting,
        receipts: Receipts,
        refusals: Refusals,
    ) -> None:
        self._store = store
        self._receipts = receipts
        self._recorder = recorder
        self._doors = doors
        self._renewals = renewals
        self._keys = keys
        self._transport = transport
        self._handover = handover
        self._fetching = fetching
        self._reporting = reporting
        self._refusals = refusals
        self._answered = 0
        """Counter of the last command whose refusal was told to the server."""
        self._behind = asyncio.Event()
        """The disk did not take what is in force."""
        self.session = ""
        """Of the connection that messages come by."""
        self.accepted = 0
        """Messages that were not refused."""
        self._take: dict[str, Callable[[bytes], Awaitable[None]]] = {
            ACKNOWLEDGEMENT: self._acknowledgement,
            HEARTBEAT: self._heartbeat,
            POLICY: self._policy,
            CHUNK: self._chunk,
            REVOCATION: self._revocation,
            SNAPSHOT: self._snapshot,
            LOCKDOWN: self._lockdown,
            ROOT: self._root,
            COMMAND: self._command,
            CERTIFICATE: self._certificate,
            STAGE: self._stage,
            KEYS: self._package,
            TRANSPORT: self._transport_key,
        }

    async def take(self, channel: str, payload: bytes, *, retained: bool) -> None:
        """Take what came on `channel`.

        A refusal is reported, and so is a disk that can't keep what was verified: it is asked for
        again. What shuts people out is acted on all the same, and written when that can be.
        """
        try:
            _hold_to_its_channel(channel, payload, retained=retained)
            await self._take[channel](payload)
        except OnlyInMemory as failure:
            self._behind.set()
            await self._doors.trust_changed()
            log.error("not_kept", purpose=channel, why=str(failure), consequence=_NOT_KEPT)
            self._refusals.report(channel, failure)
        except (SchemaError, AcknowledgementMismatch, sqlite3.Error, OSError) as refusal:
            self._refusals.report(channel, refusal)
        else:
            self.accepted += 1

    async def keep_saving(self) -> None:
        """Write what is in force from memory alone until the disk takes it, for ever."""
        while True:
            await self._behind.wait()
            self._behind.clear()
            while self._store.is_behind:
                await asyncio.sleep(SAVE_AGAIN_S)
                try:
                    await self._store.save()
                except (sqlite3.Error, OSError) as error:
                    log.error("not_kept", why=str(error), again_in_s=SAVE_AGAIN_S)
            await self._changed()

    async def _acknowledgement(self, envelope: bytes) -> None:
        await self._handover.acknowledged(envelope, self._store.state)

    async def _heartbeat(self, envelope: bytes) -> None:
        before = self._store.state
        try:
            await self._store.take_heartbeat(envelope, self._now())
        except UnknownKey:
            self._fetching.ask_for_root()  # the keys may have changed while we were away
            raise
        named = self._store.state.heartbeat
        if named is not None and self._store.state is not before:
            clock = self._recorder.clock
            self._recorder.time.hear(named.issued, clock.now(), clock.monotonic())
            self._doors.heartbeat_heard()
            self._fetching.look()
        await self._apply_policy()  # one that a failing disk or a kill left staged
        await self._receipts.give()  # what a full store or a failing disk did not take

    async def _policy(self, envelope: bytes) -> None:
        await self._fetching.policy_came(envelope, self._now())
        await self._apply_policy()

    async def _chunk(self, body: bytes) -> None:
        await self._fetching.chunk_came(body)
        await self._apply_policy()
        await self._apply_snapshot()

    async def _apply_policy(self) -> None:
        if self._fetching.policy_is_whole:
            await self._store.apply_staged()
            await self._changed()

    async def _revocation(self, envelope: bytes) -> None:
        before = self._store.state
        try:
            await self._store.take_revocation(envelope, self._now())
        except BrokenLog as gap:  # a message got lost: that is no attack yet
            log.info("revocations_missing", why=str(gap))
            self._fetching.ask_for_revocations()
            return
        await self._changed_since(before)

    async def _snapshot(self, envelope: bytes) -> None:
        self._fetching.snapshot_came(envelope, self._now())
        await self._apply_snapshot()

    async def _apply_snapshot(self) -> None:
        snapshot = self._fetching.whole_snapshot()
        if snapshot is not None:
            await self._store.take_snapshot(*snapshot, self._now())
            await self._changed(snapshot=True)

    async def _lockdown(self, envelope: bytes) -> None:
        before = self._store.state
        await self._store.take_lockdowns(envelope, self._now())
        await self._changed_since(before)

    async def _root(self, envelope: bytes) -> None:
        before = self._store.state
        await self._store.take_root(envelope)
        await self._changed_since(before)

    async def _command(self, envelope: bytes) -> None:
        try:
            command = await self._store.take_command(envelope, self.session, self._now())
        except (Expired, WrongSession) as refusal:
            await self._answer(envelope, refusal)
            raise
        self._reporting.changed()
        await self._doors.execute(command)

    async def _answer(self, envelope: bytes, refusal: SchemaError) -> None:
        """A command of the server's own gets its result though it came too late, once."""
        state = self._store.state
        held = open_envelope(envelope, state.ring, payload_type(COMMAND))
        command = parse_statement(held.payload, Command)
        if command.counter > max(state.command, self._answered):
            self._answered = command.counter
            draft = self._recorder.about_agent(
                "command.refused",
                command=command.id,
                action=command.action,
                door=command.door,
                reason=type(refusal).__name__,
                detail=str(refusal)[:500],
            )
            await self._recorder.record_soon([draft])

    async def _certificate(self, envelope: bytes) -> None:
        certificate = self._opened(envelope, Certificate)
        await self._renewals.renewed(certificate)
        receipt = self._recorder.about_agent("certificate.applied", until=certificate.until)
        await self._recorder.record_soon([receipt])
        self._reporting.changed()

    async def _stage(self, envelope: bytes) -> None:
        self._keys.ordered(self._opened(envelope, StageOrder))

    async def _package(self, envelope: bytes) -> None:
        package = self._opened(envelope, KeyPackage)
        self._of_this_session(package)
        self._keys.packaged(package)

    async def _transport_key(self, envelope: bytes) -> None:
        answer = self._opened(envelope, TransportKey)
        self._of_this_session(answer)
        self._transport.answered(answer)

    def _opened(self, envelope: bytes, model: type[S]) -> S:
        return opened(self._store.state, envelope, model, self._recorder.agent, self._now())

    def _of_this_session(self, statement: KeyPackage | TransportKey) -> None:
        if statement.session != self.session:
            raise WrongSession(
                f"{statement.purpose} is for session {statement.session}, not {self.session}"
            )

    async def _changed_since(self, before: TrustedState) -> None:
        if self._store.state is not before:
            await self._changed()

    async def _changed(self, *, snapshot: bool = False) -> None:
        """What is durable now is acted on, and only then receipted."""
        await self._doors.trust_changed()
        self._keys.policy_changed()
        await self._receipts.give(snapshot=snapshot)
        self._reporting.changed()
        self._fetching.look()

    def _now(self) -> datetime:
        now, _ = self._recorder.judge_time()
        return now


def _hold_to_its_channel(channel: str, payload: bytes, *, retained: bool) -> None:
    if channel == ELSEWHERE:
        raise MalformedTopic("a message came on a topic that was not subscribed to")
    if retained and channel not in RETAINED:
        raise RetainedReplay(f"the broker kept a message of {channel}: only a fresh one counts")
    limit = MAX_BYTES.get(channel, MAX_OTHER_BYTES)
    if len(payload) > limit:
        refusal = MalformedChunk if channel == CHUNK else MalformedEnvelope
        raise refusal(f"{channel} is {len(payload)} bytes long, the limit is {limit}")
