"""The revocation log: denials that beat everything. Entries are added and never taken away.

Each entry's hash covers the one before, so an agent that holds (sequence, hash) knows the whole
log up to there. Whoever is to be let in again gets that from the policy (`PolicyCard.card_cleared`,
`person_cleared`), which another role signs: the `revoke` role can do nothing but deny.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from schemas.errors import BrokenLog, Equivocation, MalformedChunk, first_problem
from schemas.names import DigestHex
from schemas.statement import Statement
from schemas.versions import LogHead

MAX_ENTRIES = 250
"""In one message."""
MAX_SNAPSHOT_CHUNKS = 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Digest = Callable[[bytes], bytes]
RevokedKind = Literal["card", "person", "key-version"]
_SUBJECT = {
    "card": re.compile(r"[0-9a-f]{16}\Z"),
    "person": re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z"),
    "key-version": re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?/[1-9][0-9]{0,2}\Z"),
}


class RevocationReason(StrEnum):
    """Why; the door gives the matching denial reason."""

    REVOKED = "revoked"
    SUSPENDED = "suspended"
    LOST = "lost"
    STOLEN = "stolen"
    DAMAGED = "damaged"
    COMPROMISED = "compromised"
    LEFT = "left"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Denied(_Model):
    """One subject that is denied, and by which entry: a line of a snapshot."""

    kind: RevokedKind
    subject: Annotated[str, StringConstraints(max_length=67)] = Field(
        description="card id, person, or `<key domain>/<version>`"
    )
    sequence: int = Field(ge=1, lt=2**63)
    reason: RevocationReason

    @model_validator(mode="after")
    def _subject_of_its_kind(self) -> Denied:
        if not _SUBJECT[self.kind].match(self.subject):
            raise ValueError(f"{self.subject!r} does not name a {self.kind}")
        return self


class RevocationEntry(Denied):
    """One entry of the log."""

    time: AwareDatetime

    def hash_after(self, previous: str, digest: Digest) -> str:
        """The entry's hash in hex, given that of the entry before."""
        time_us = (self.time - _EPOCH) // timedelta(microseconds=1)
        text = f"{previous}\n{self.sequence}\n{self.kind}\n{self.subject}\n{self.reason}\n{time_us}"
        return digest(text.encode()).hex()


class Revocation(Statement):
    """Consecutive entries. `counter` is the sequence of the last, `previous` the hash before."""

    purpose: Literal["revocation"] = "revocation"
    previous: DigestHex
    entries: tuple[RevocationEntry, ...] = Field(min_length=1, max_length=MAX_ENTRIES)

    @model_validator(mode="after")
    def _consecutive(self) -> Revocation:
        first = self.entries[0].sequence
        if [e.sequence for e in self.entries] != list(range(first, first + len(self.entries))):
            raise ValueError("sequences do not follow by one")
        if self.counter != self.entries[-1].sequence:
            raise ValueError("counter is not the last sequence")
        return self

    def after(self, head: LogHead, digest: Digest) -> tuple[tuple[RevocationEntry, ...], LogHead]:
        """What is new to someone who holds the log up to `head`, and the head it makes.

        Raises BrokenLog if entries are missing in between, and Equivocation if those known already
        have other hashes.
        """
        first = self.entries[0].sequence
        if first > head.sequence + 1:
            raise BrokenLog(f"entries {head.sequence + 1} to {first - 1} are missing")
        at, known = self.previous, first - 1 == head.sequence and self.previous == head.hash
        for entry in self.entries:
            at = entry.hash_after(at, digest)
            if entry.sequence == head.sequence:
                known = at == head.hash
        if self.counter < head.sequence:
            return (), head
        if not known:
            raise Equivocation(f"entry {head.sequence} has another hash than the one held")
        new = tuple(e for e in self.entries if e.sequence > head.sequence)
        return new, LogHead(sequence=self.counter, hash=at)


class RevocationSnapshot(Statement):
    """The whole log in short, in chunks of lines. `counter` is the last sequence it covers."""

    purpose: Literal["revocation-snapshot"] = "revocation-snapshot"
    hash: DigestHex = Field(description="of the last entry it covers")
    chunks: tuple[DigestHex, ...] = Field(max_length=MAX_SNAPSHOT_CHUNKS)


def write_denied(denied: Iterable[Denied]) -> bytes:
    """One chunk of a snapshot: a JSON line for each."""
    return "".join(each.model_dump_json() + "\n" for each in denied).encode()


def read_denied(body: bytes) -> list[Denied]:
    """The lines of a snapshot's chunk. Raises MalformedChunk."""
    try:
        return [Denied.model_validate_json(line, strict=True) for line in body.splitlines()]
    except ValidationError as error:
        raise MalformedChunk(f"snapshot: {first_problem(error)}") from None
