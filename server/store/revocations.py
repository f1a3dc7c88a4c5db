"""The revocation log's rows: read back as entries, and appended to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.chain import GENESIS
from schemas.keys import MAX_KEY_VERSION
from schemas.revocation import RevocationEntry, RevocationReason, RevokedKind
from schemas.versions import LogHead
from server.clock import from_microseconds, microseconds
from server.store.distribution_tables import revocation_bases, revocations
from server.store.model_tables import cards, persons

_AT_ONCE = 500
_PAGE = 1000


@dataclass(frozen=True)
class Ends:
    """Where the log stands: `count` entries, the last of them (or the base after it) at `head`."""

    base: LogHead
    head: LogHead
    count: int


async def read_ends(connection: AsyncConnection) -> Ends:
    """Both ends of the log, and how many entries it has."""
    count = (await connection.execute(select(func.count()).select_from(revocations))).scalar_one()
    base = await _newest(connection, revocation_bases)
    last = await _newest(connection, revocations)
    return Ends(base, max(base, last, key=lambda head: head.sequence), count)


async def _newest(connection: AsyncConnection, table: Any) -> LogHead:
    query = select(table.c.sequence, table.c.hash).order_by(table.c.sequence.desc()).limit(1)
    row = (await connection.execute(query)).one_or_none()
    return LogHead() if row is None else LogHead(sequence=row.sequence, hash=row.hash)


async def hash_at(connection: AsyncConnection, sequence: int) -> str | None:
    """The log's hash up to and including `sequence`; None where nothing stands."""
    if sequence == 0:
        return GENESIS
    for table in (revocations, revocation_bases):
        query = select(table.c.hash).where(table.c.sequence == sequence)
        found: str | None = (await connection.execute(query)).scalar_one_or_none()
        if found is not None:
            return found
    return None


async def read_entries(connection: AsyncConnection, first: int, last: int) -> list[RevocationEntry]:
    """The entries from `first` to `last`, both included."""
    query = (
        select(revocations)
        .where(revocations.c.sequence.between(first, last))
        .order_by(revocations.c.sequence)
    )
    return [_entry(row) for row in await connection.execute(query)]


async def find_entries(
    connection: AsyncConnection,
    *,
    after: int,
    limit: int,
    kind: RevokedKind | None = None,
    subject: str | None = None,
) -> list[RevocationEntry]:
    """Entries beyond `after`, oldest first, of this kind and subject."""
    query = select(revocations).where(revocations.c.sequence > after)
    if kind is not None:
        query = query.where(revocations.c.kind == kind)
    if subject is not None:
        query = query.where(revocations.c.subject == subject)
    rows = await connection.execute(query.order_by(revocations.c.sequence).limit(limit))
    return [_entry(row) for row in rows]


async def entries_against(
    connection: AsyncConnection, subjects: Iterable[tuple[RevokedKind, str]]
) -> list[RevocationEntry]:
    """All entries there ever were against these: (kind, subject) each."""
    by_kind: dict[RevokedKind, list[str]] = {}
    for kind, subject in subjects:
        by_kind.setdefault(kind, []).append(subject)
    found: list[RevocationEntry] = []
    for kind, named in by_kind.items():
        for start in range(0, len(named), _AT_ONCE):
            query = select(revocations).where(
                revocations.c.kind == kind,
                revocations.c.subject.in_(named[start : start + _AT_ONCE]),
            )
            found += [_entry(row) for row in await connection.execute(query)]
    return found


async def newest_of(
    connection: AsyncConnection, kind: RevokedKind, subjects: Sequence[str]
) -> dict[str, RevocationEntry]:
    """The newest entry of each subject that has one."""
    found: dict[str, RevocationEntry] = {}
    for start in range(0, len(subjects), _AT_ONCE):
        query = (
            select(revocations)
            .where(revocations.c.kind == kind)
            .where(revocations.c.subject.in_(subjects[start : start + _AT_ONCE]))
            .order_by(revocations.c.sequence)
        )
        found.update({row.subject: _entry(row) for row in await connection.execute(query)})
    return found


async def denied_versions(connection: AsyncConnection, domain: str) -> frozenset[int]:
    """The key versions of a domain that are revoked: none of them ever counts again."""
    named = [f"{domain}/{version}" for version in range(1, MAX_KEY_VERSION + 1)]
    found = await newest_of(connection, "key-version", named)
    return frozenset(int(subject.rpartition("/")[2]) for subject in found)


async def read_cleared(
    connection: AsyncConnection, kind: RevokedKind, subjects: Sequence[str]
) -> dict[str, int]:
    """Up to which sequence the model has answered revocations of each subject that it knows."""
    if kind == "key-version":  # nothing answers those
        return {}
    table = cards if kind == "card" else persons
    found: dict[str, int] = {}
    for start in range(0, len(subjects), _AT_ONCE):
        some = subjects[start : start + _AT_ONCE]
        query = select(table.c.id, table.c.cleared).where(table.c.id.in_(some))
        found.update({row.id: row.cleared for row in await connection.execute(query)})
    return found


async def read_denied(
    connection: AsyncConnection, last: int
) -> dict[tuple[RevokedKind, str], tuple[int, str]]:
    """Whom entries up to `last` deny: the sequence and the reason of the newest of each."""
    found: dict[tuple[RevokedKind, str], tuple[int, str]] = {}
    after = 0
    while True:  # a page at a time, or 100,000 rows hold up everything else for a second
        query = (
            select(*(revocations.c[name] for name in ("sequence", "kind", "subject", "reason")))
            .where(revocations.c.sequence > after, revocations.c.sequence <= last)
            .order_by(revocations.c.sequence)
            .limit(_PAGE)
        )
        page = (await connection.execute(query)).all()
        found.update({(kind, subject): (n, reason) for n, kind, subject, reason in page})
        if len(page) < _PAGE:
            return found
        after = page[-1].sequence


async def append(
    connection: AsyncConnection, entries: Iterable[tuple[RevocationEntry, str]]
) -> None:
    """Add entries, each with its hash."""
    rows = [
        {
            "sequence": entry.sequence,
            "kind": entry.kind,
            "subject": entry.subject,
            "reason": entry.reason,
            "time_us": microseconds(entry.time),
            "hash": digest,
        }
        for entry, digest in entries
    ]
    if rows:
        await connection.execute(insert(revocations), rows)


async def append_base(connection: AsyncConnection, base: LogHead, now_us: int) -> None:
    """Let the log go on after `base`."""
    await connection.execute(
        insert(revocation_bases).values(sequence=base.sequence, hash=base.hash, time_us=now_us)
    )


def _entry(row: Row[Any]) -> RevocationEntry:
    return RevocationEntry(
        kind=row.kind,
        subject=row.subject,
        sequence=row.sequence,
        reason=RevocationReason(row.reason),
        time=from_microseconds(row.time_us),
    )
