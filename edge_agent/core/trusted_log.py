"""How an agent comes to hold more of the revocation log: entry by entry, or all at once.

`trusted_state` states the rules. What comes of them here can only be more denials.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from edge_agent.core.trusted_base import (
    TrustedState,
    differ,
    is_repeated,
    known_sequence,
    no_leap,
    opened,
)
from schemas.card_chunks import MAX_CHUNK_BYTES
from schemas.errors import MalformedChunk, MixAndMatch, PartialBundle, Replayed
from schemas.revocation import Denied, Revocation, RevocationSnapshot, read_denied
from schemas.suites import suite
from schemas.versions import LogHead


def after_revocation(
    state: TrustedState, envelope: bytes, agent: str, now: datetime
) -> tuple[TrustedState, tuple[Denied, ...]]:
    """The state with more of the log, and the denials to add to those held.

    Raises what `open_statement` raises, BrokenLog (entries before these are missing: to be
    pulled), Equivocation or MixAndMatch.
    """
    message = opened(state, envelope, Revocation, agent, now)
    digest = suite(state.root.suite).digest
    named = None if state.heartbeat is None else state.heartbeat.revocation
    at = message.previous
    for entry in message.entries:
        at = entry.hash_after(at, digest)
        if named is not None and entry.sequence == named.sequence and at != named.hash:
            raise MixAndMatch(f"entry {entry.sequence} is not the one the newest heartbeat names")
    base = state.revocation
    if "revoke" in state.renewed and message.entries[0].sequence == 1:
        base = LogHead()  # the new keys tell the log from its beginning
    entries, head = message.after(base, digest)
    if not entries:
        return state, ()
    return replace(state, revocation=head, renewed=state.renewed - {"revoke"}), entries


def open_snapshot(
    state: TrustedState, envelope: bytes, agent: str, now: datetime
) -> RevocationSnapshot:
    """A snapshot that goes beyond the log that is held.

    Raises what `open_statement` raises, Replayed, Equivocation, Rollback, FastForward or
    MixAndMatch.
    """
    snapshot = opened(state, envelope, RevocationSnapshot, agent, now)
    head, held = LogHead(sequence=snapshot.counter, hash=snapshot.hash), state.revocation
    if head == held:
        raise Replayed(f"snapshot at {head.sequence} says what is held already")
    if "revoke" not in state.renewed:
        is_repeated(head.sequence, held.sequence, same=False, what="snapshot")
    no_leap("snapshot", head.sequence, known_sequence(state))
    if state.heartbeat is not None and differ(head, state.heartbeat.revocation):
        raise MixAndMatch(f"snapshot at {head.sequence} is not of the log the heartbeat names")
    return snapshot


def after_snapshot(
    state: TrustedState, envelope: bytes, agent: str, now: datetime, bodies: Mapping[str, bytes]
) -> tuple[TrustedState, tuple[Denied, ...]]:
    """The state with a whole log, and the denials to add to those held.

    `bodies` has the snapshot's chunks by digest. Raises what `open_snapshot` raises, PartialBundle
    if a chunk is not there, and MalformedChunk if one is something else.
    """
    snapshot = open_snapshot(state, envelope, agent, now)
    denied = tuple(_denied(state, snapshot, bodies))
    head = LogHead(sequence=snapshot.counter, hash=snapshot.hash)
    return replace(state, revocation=head, renewed=state.renewed - {"revoke"}), denied


def _denied(
    state: TrustedState, snapshot: RevocationSnapshot, bodies: Mapping[str, bytes]
) -> Iterator[Denied]:
    for name in snapshot.chunks:
        body = bodies.get(name)
        if body is None:
            raise PartialBundle(f"snapshot at {snapshot.counter}: chunk {name} is missing")
        if len(body) > MAX_CHUNK_BYTES or state.digest(body) != name:
            raise MalformedChunk(f"snapshot at {snapshot.counter}: bytes are not chunk {name}")
        for denied in read_denied(body):
            if denied.sequence > snapshot.counter:
                raise MalformedChunk(f"snapshot at {snapshot.counter} has entry {denied.sequence}")
            yield denied
