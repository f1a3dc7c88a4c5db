"""The revocation log as signed messages: ranges of entries, and snapshots for who is far behind."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.card_chunks import MAX_CHUNK_BYTES
from schemas.envelope import Signer
from schemas.names import EVERYONE
from schemas.revocation import (
    MAX_ENTRIES,
    Denied,
    Revocation,
    RevocationEntry,
    RevocationReason,
    RevocationSnapshot,
    RevokedKind,
    write_denied,
)
from schemas.statement import sign_statement
from schemas.suites import Suite
from schemas.versions import LogHead
from server.clock import Clock
from server.store import revocations as rows

_KEPT_MESSAGES = 128
_KEPT_SNAPSHOTS = 2
"""An agent that fetches the one before the newest can end what it began."""


class LogDamaged(Exception):
    """Entries are missing in the database."""


@dataclass(frozen=True)
class _Snapshot:
    sequence: int
    envelope: bytes
    chunks: Mapping[str, bytes]


class RevocationMessages:
    """Reads entries, signs them with the `revoke` role's key, and keeps what was asked for last."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        site: str,
        suite: Suite,
        signer: Signer,
        executor: Executor,
        clock: Clock,
    ) -> None:
        self._engine, self._site, self._suite = engine, site, suite
        self._signer, self._executor, self._clock = signer, executor, clock
        self._ranges: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._snapshots: deque[_Snapshot] = deque(maxlen=_KEPT_SNAPSHOTS)
        self._making = asyncio.Lock()

    async def signed(self, entries: Sequence[RevocationEntry], previous: str) -> bytes:
        """One message with these entries, which follow the one whose hash is `previous`."""
        statement = Revocation(
            site=self._site,
            audience=EVERYONE,
            issued=self._clock.now(),
            counter=entries[-1].sequence,
            previous=previous,
            entries=tuple(entries),
        )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, sign_statement, statement, self._signer)

    async def range(self, first: int, last: int) -> bytes:
        """One message with the stored entries `first` to `last`, both included.

        Raises LogDamaged, or what the database raises.
        """
        async with self._making:  # a crowd that asks for the same waits for one signature
            known = self._ranges.get((first, last))
            if known is not None:
                self._ranges.move_to_end((first, last))
                return known
            async with self._engine.connect() as connection:
                entries = await rows.read_entries(connection, first, last)
                previous = await rows.hash_at(connection, first - 1)
            if previous is None or len(entries) != last - first + 1:
                raise LogDamaged(f"entries {first} to {last} of the revocation log are not whole")
            envelope = await self.signed(entries, previous)
            self._ranges[first, last] = envelope
            if len(self._ranges) > _KEPT_MESSAGES:
                self._ranges.popitem(last=False)
            return envelope

    async def snapshot(self, ends: rows.Ends, above: int) -> tuple[bytes, Mapping[str, bytes]]:
        """The signed list of everyone who is denied, and its chunks by digest.

        It covers more than the sequence `above`. One that was made before serves while what it
        lacks is one message.
        """
        async with self._making:
            for kept in self._snapshots:
                near = ends.head.sequence - kept.sequence <= MAX_ENTRIES
                if near and kept.sequence > above and kept.sequence >= ends.base.sequence:
                    return kept.envelope, kept.chunks
            async with self._engine.connect() as connection:
                head = (await rows.read_ends(connection)).head
                denied = await rows.read_denied(connection, head.sequence)
            made = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._take, head, denied
            )
            self._snapshots.appendleft(made)
            return made.envelope, made.chunks

    def chunk(self, digest: str) -> bytes | None:
        """A chunk of one of the snapshots that were given out last."""
        for kept in self._snapshots:
            if digest in kept.chunks:
                return kept.chunks[digest]
        return None

    def _take(
        self, head: LogHead, found: Mapping[tuple[RevokedKind, str], tuple[int, str]]
    ) -> _Snapshot:
        denied = [
            # unchecked: this program wrote it, and its reader checks each line
            Denied.model_construct(
                kind=kind, subject=subject, sequence=sequence, reason=RevocationReason(reason)
            )
            for (kind, subject), (sequence, reason) in sorted(found.items(), key=_by_sequence)
        ]
        chunks = {self._suite.digest(body).hex(): body for body in cut(denied)}
        statement = RevocationSnapshot(
            site=self._site,
            audience=EVERYONE,
            issued=self._clock.now(),
            counter=head.sequence,
            hash=head.hash,
            chunks=tuple(chunks),
        )
        return _Snapshot(head.sequence, sign_statement(statement, self._signer), chunks)


def _by_sequence(found: tuple[object, tuple[int, str]]) -> int:
    return found[1][0]


def cut(denied: Sequence[Denied]) -> list[bytes]:
    """The lines of a snapshot, in chunks that fit a message.

    In order of sequence, so a new denial changes the last chunk alone.
    """
    chunks: list[bytes] = []
    lines: list[bytes] = []
    size = 0
    for each in denied:
        line = write_denied([each])
        if size + len(line) > MAX_CHUNK_BYTES:
            chunks.append(b"".join(lines))
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    return [*chunks, b"".join(lines)] if lines else chunks
