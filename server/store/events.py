"""Reading stored events back, in the order they arrived, with the proof of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.chain import EVENTS_TYPE, join_lines
from schemas.envelope import envelope_json
from server.store.tables import chains, events, meta

_PAGE = 2000
"""Signed runs read at once."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One line as it was received. `position` orders arrival, and is never used twice."""

    position: int
    source: str
    chain: str
    sequence: int
    line: bytes
    type: str
    subject: str
    time_us: int
    recorded_us: int


@dataclass(frozen=True, slots=True)
class Signed:
    """Contiguous lines of one chain under the one signature that covers them."""

    source: str
    chain: str
    first: int
    last: int
    lines: tuple[bytes, ...]
    keyid: str
    signature: bytes
    position: int
    """The greatest position among the lines."""

    @property
    def payload(self) -> bytes:
        """What was signed (as DSSE payload)."""
        return join_lines(self.lines)

    @property
    def envelope(self) -> bytes:
        """The DSSE envelope, as JSON."""
        return envelope_json(EVENTS_TYPE, self.payload, [(self.keyid, self.signature)])


@dataclass(frozen=True, slots=True)
class Proof:
    """One line, the envelope whose signature covers it, and which of its lines it is, from 0."""

    line: bytes
    envelope: bytes
    index: int
    signed: Signed


_COLUMNS = [events.c[name] for name in StoredEvent.__slots__]


async def read_after(
    db: AsyncEngine,
    position: int,
    limit: int,
    *,
    types: Sequence[str] = (),
    subject: str | None = None,
) -> list[StoredEvent]:
    """Up to `limit` events that arrived after `position`, oldest first.

    `types` are full CloudEvents types, `subject` is whole (`doors/front`).
    """
    query = _matching(select(*_COLUMNS).where(events.c.position > position), types, subject)
    async with db.connect() as connection:
        rows = await connection.execute(query.order_by(events.c.position).limit(limit))
        return [StoredEvent(*row) for row in rows]


async def position_before(
    db: AsyncEngine, last: int, *, types: Sequence[str] = (), subject: str | None = None
) -> int:
    """After which position there are the `last` newest events that match; 0: all that do."""
    query = _matching(select(events.c.position), types, subject)
    query = query.order_by(events.c.position.desc()).offset(last).limit(1)
    async with db.connect() as connection:
        return int(await connection.scalar(query) or 0)


def _matching(query: Select[Any], types: Sequence[str], subject: str | None) -> Select[Any]:
    if types:
        query = query.where(events.c.type.in_(types))
    return query if subject is None else query.where(events.c.subject == subject)


async def last_position(db: AsyncEngine) -> int:
    """The newest event's position, or 0."""
    async with db.connect() as connection:
        return int(await connection.scalar(select(func.max(events.c.position))) or 0)


async def store_id(db: AsyncEngine) -> str:
    """The name of this store: a cursor of another one means nothing here."""
    async with db.connect() as connection:
        value = await connection.scalar(select(meta.c.value).where(meta.c.key == "store_id"))
    if value is None:
        raise RuntimeError("the database has no store_id; restore it from a backup")
    return str(value)


async def proof_of(db: AsyncEngine, event_id: str) -> Proof | None:
    """The line of an event id (`<chain>-<sequence>`) and what proves it, or None."""
    chain, _, number = event_id.partition("-")
    if not number.isascii() or not number.isdigit() or len(number) > 18:
        return None
    sequence = int(number)
    async with db.connect() as connection:
        source = await connection.scalar(
            select(events.c.source).where(
                # chains are few; events, by chain alone, would all be looked at
                events.c.source.in_(select(chains.c.source).where(chains.c.chain == chain)),
                events.c.chain == chain,
                events.c.sequence == sequence,
            )
        )
        if source is None:
            return None
        of_chain = (events.c.source == source) & (events.c.chain == chain)
        last = (
            await connection.execute(
                select(events.c.sequence, events.c.signed_from, events.c.keyid, events.c.signature)
                .where(of_chain, events.c.sequence >= sequence, events.c.signature.is_not(None))
                .order_by(events.c.sequence)
                .limit(1)
            )
        ).first()
        if last is None:
            return None
        rows = (
            await connection.execute(
                select(events.c.position, events.c.line)
                .where(of_chain, events.c.sequence.between(last.signed_from, last.sequence))
                .order_by(events.c.sequence)
            )
        ).all()
    lines = tuple(row.line for row in rows)
    index = sequence - last.signed_from
    if not 0 <= index < len(lines):
        return None
    signed = Signed(
        source,
        chain,
        last.signed_from,
        last.sequence,
        lines,
        last.keyid,
        last.signature,
        max(row.position for row in rows),
    )
    return Proof(lines[index], signed.envelope, index, signed)


async def read_signed(db: AsyncEngine, after: int = 0) -> AsyncIterator[Signed]:
    """Every signed run of lines whose last line arrived after `after`, in order of arrival.

    A run may begin before `after`: the signature covers it whole or not at all.
    """
    query = (
        select(
            events.c.position,
            events.c.source,
            events.c.chain,
            events.c.sequence,
            events.c.signed_from,
            events.c.keyid,
            events.c.signature,
            events.c.line,
        )
        .where(events.c.signature.is_not(None))
        .order_by(events.c.position)
        .limit(_PAGE)
    )
    async with db.connect() as connection:
        while True:
            rows = (await connection.execute(query.where(events.c.position > after))).all()
            if not rows:
                return
            for row in rows:
                lines = (row.line,)
                if row.signed_from != row.sequence:
                    found = await connection.scalars(
                        select(events.c.line)
                        .where(
                            events.c.source == row.source,
                            events.c.chain == row.chain,
                            events.c.sequence.between(row.signed_from, row.sequence),
                        )
                        .order_by(events.c.sequence)
                    )
                    lines = tuple(found)
                yield Signed(
                    row.source,
                    row.chain,
                    row.signed_from,
                    row.sequence,
                    lines,
                    row.keyid,
                    row.signature,
                    row.position,
                )
            after = rows[-1].position
