"""Walking a stored chain: is every byte still what its signer signed, and is nothing missing?

What this can't see: lines cut off the end of a chain together with its head, for which the agent's
next message shows a gap; and `recorded_us`, which is the server's own word.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.chain import (
    EVENTS_TYPE,
    MAX_LINES,
    Head,
    Link,
    check_follows,
    join_lines,
    parse_line,
)
from schemas.envelope import KeyRing, pae
from schemas.errors import SchemaError
from schemas.events import agent_source, server_source
from schemas.names import SERVER
from schemas.suites import Suite
from server.clock import microseconds
from server.store.tables import chains, events

_PAGE = 1000
"""Rows read at once."""


@dataclass(eq=False)
class BadPlace(Exception):
    """The first place in a chain where the store is not what was signed."""

    source: str
    chain: str
    sequence: int
    position: int | None
    why: str


class StoredRow(NamedTuple):
    """A row of `events`."""

    position: int
    source: str
    chain: str
    sequence: int
    line: bytes
    type: str
    subject: str
    time_us: int
    signed_from: int | None
    keyid: str | None
    signature: bytes | None


_COLUMNS = [events.c[name] for name in StoredRow._fields]


class ChainAudit:
    """Takes the rows of one chain in order of sequence. Pure, and usable in any thread."""

    def __init__(self, source: str, chain: str, site: str, suite: Suite, trusted: KeyRing) -> None:
        self.source, self.chain = source, chain
        self._speaker = server_source(site) if source == SERVER else agent_source(site, source)
        self._suite, self._trusted = suite, trusted
        self._head = Head(chain)
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        self._covered = 0
        self._last_position: int | None = None

    @property
    def lines(self) -> int:
        """How many lines were found good so far."""
        return self._head.sequence

    def check(self, rows: Sequence[StoredRow]) -> None:
        """The next rows. Raises BadPlace."""
        for row in rows:
            self._last_position = row.position
            if row.sequence != self._head.sequence + 1:
                raise self._bad(
                    self._head.sequence + 1, f"missing; the next line stored is {row.sequence}"
                )
            try:
                link = parse_line(row.line, self._suite.digest)
                check_follows(self._head, link)
            except SchemaError as error:
                raise self._bad(row.sequence, f"line: {error}") from None
            self._check_columns(row, link)
            self._head = Head(self.chain, row.sequence, link.hash)
            self._lines.append(row.line)
            self._check_signature(row)

    def finish(self, head: Head | None) -> None:
        """The chain's end, against the head kept for it. Raises BadPlace."""
        if self._covered != self._head.sequence:
            raise self._bad(self._covered + 1, "no signature covers this line")
        if head is None:
            raise self._bad(self._head.sequence, "the chain has no row in `chains`")
        if head != self._head:
            raise self._bad(
                min(head.sequence, self._head.sequence) + 1,
                f"`chains` says the head is line {head.sequence} with digest {head.hash}, "
                f"the lines end at {self._head.sequence} with {self._head.hash}",
            )

    def _check_columns(self, row: StoredRow, link: Link) -> None:
        event = link.event
        said = (
            self._speaker,
            f"{self.chain}-{row.sequence}",
            row.type,
            row.subject,
            row.time_us,
        )
        is_ = (event.source, event.id, event.type, event.subject, microseconds(event.time))
        for name, ours, theirs in zip(
            ("source", "id", "type", "subject", "time_us"), said, is_, strict=True
        ):
            if ours != theirs:
                raise self._bad(
                    row.sequence, f"column {name}: the store says {ours}, the line {theirs}"
                )

    def _check_signature(self, row: StoredRow) -> None:
        parts = (row.signed_from, row.keyid, row.signature)
        if parts == (None, None, None):
            return
        first, keyid, signature = parts
        if first is None or keyid is None or signature is None:
            raise self._bad(row.sequence, "signature, signed_from and keyid are not all there")
        count = row.sequence - first + 1
        if not 1 <= count <= len(self._lines):
            raise self._bad(row.sequence, f"signed_from {first} is not a line before this one")
        if first > self._covered + 1:
            raise self._bad(self._covered + 1, "no signature covers this line")
        trust = self._trusted.get(keyid)
        if trust is None or trust.holder != self.source or EVENTS_TYPE not in trust.payload_types:
            raise self._bad(row.sequence, f"keyid {keyid[:70]} is not a key of {self.source}")
        payload = join_lines(list(self._lines)[-count:])
        try:
            trust.key.verify(pae(EVENTS_TYPE, payload), signature)
        except SchemaError as error:
            raise self._bad(
                row.sequence, f"signature over lines {first} to {row.sequence}: {error}"
            ) from None
        self._covered = row.sequence

    def _bad(self, sequence: int, why: str) -> BadPlace:
        return BadPlace(self.source, self.chain, sequence, self._last_position, why)


async def count_events(db: AsyncEngine) -> int:
    """How many lines there are to walk."""
    async with db.connect() as connection:
        return int(await connection.scalar(select(func.count()).select_from(events)) or 0)


async def list_chains(db: AsyncEngine) -> dict[tuple[str, str], Head | None]:
    """Each (source, chain) with the head kept for it; None where lines have no head."""
    async with db.connect() as connection:
        found: dict[tuple[str, str], Head | None] = {}
        for row in await connection.execute(select(events.c.source, events.c.chain).distinct()):
            found[row.source, row.chain] = None
        for row in await connection.execute(select(chains)):
            found[row.source, row.chain] = Head(row.chain, row.sequence, row.hash)
    return dict(sorted(found.items()))


async def read_chain(db: AsyncEngine, source: str, chain: str) -> AsyncIterator[list[StoredRow]]:
    """The rows of a chain by sequence, a page at a time."""
    after: int | None = None
    query = (
        select(*_COLUMNS)
        .where(events.c.source == source, events.c.chain == chain)
        .order_by(events.c.sequence)
        .limit(_PAGE)
    )
    async with db.connect() as connection:
        while True:
            some = query if after is None else query.where(events.c.sequence > after)
            rows = [StoredRow(*row) for row in await connection.execute(some)]
            if not rows:
                return
            yield rows
            after = rows[-1].sequence
