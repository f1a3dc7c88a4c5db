"""Transport keys as rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.suites import SuiteName
from schemas.transport import TransportSource
from server.store.transport_tables import transport_keys, transport_roots

_AT_ONCE = 500


@dataclass(frozen=True)
class KeyRow:
    """The transport key of one card, sealed."""

    card: str
    source: TransportSource
    sealed: bytes = field(repr=False)
    kept: bool


@dataclass(frozen=True)
class RootRow:
    """A master key or a default, sealed."""

    source: TransportSource
    suite: SuiteName
    sealed: bytes = field(repr=False)


async def read_keys(connection: AsyncConnection, cards: Collection[str]) -> dict[str, KeyRow]:
    """What is there of these cards."""
    wanted, found = sorted(cards), {}
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        query = select(transport_keys).where(transport_keys.c.card.in_(some))
        for row in await connection.execute(query):
            found[row.card] = KeyRow(row.card, TransportSource(row.source), row.sealed, row.kept)
    return found


async def put_keys(
    connection: AsyncConnection, rows: Sequence[KeyRow], known: Collection[str], now_us: int
) -> None:
    """Write rows; `known` are the cards that have one already. Raises IntegrityError otherwise."""
    values = [
        {"of": r.card, "source": r.source.value, "sealed": r.sealed, "kept": r.kept, "us": now_us}
        for r in rows
    ]
    new = [each for each in values if each["of"] not in known]
    old = [each for each in values if each["of"] in known]
    columns: dict[str, Any] = {
        "source": bindparam("source"),
        "sealed": bindparam("sealed"),
        "kept": bindparam("kept"),
        "added_us": bindparam("us"),
    }
    if new:
        await connection.execute(
            insert(transport_keys).values(card=bindparam("of"), **columns), new
        )
    if old:
        await _overwrite(connection)
        ours = transport_keys.c.card == bindparam("of")
        await connection.execute(update(transport_keys).where(ours).values(**columns), old)


async def keep_key(connection: AsyncConnection, card: str) -> None:
    """A card was bound with it."""
    await connection.execute(
        update(transport_keys).where(transport_keys.c.card == card).values(kept=True)
    )


async def forget_keys(connection: AsyncConnection, source: TransportSource) -> int:
    """Remove those of a source that no card was bound with; how many there were."""
    await _overwrite(connection)
    gone = await connection.execute(
        delete(transport_keys).where(
            transport_keys.c.source == source.value, transport_keys.c.kept.is_(False)
        )
    )
    return gone.rowcount


async def read_root(connection: AsyncConnection, source: TransportSource) -> RootRow | None:
    """The master key (`derived`) or the default."""
    query = select(transport_roots).where(transport_roots.c.source == source.value)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else RootRow(source, row.suite, row.sealed)


async def put_root(connection: AsyncConnection, row: RootRow, now_us: int) -> None:
    """Raises IntegrityError if there is one: `remove_root` first."""
    await connection.execute(
        insert(transport_roots).values(
            source=row.source.value, suite=row.suite, sealed=row.sealed, added_us=now_us
        )
    )


async def remove_root(connection: AsyncConnection, source: TransportSource) -> bool:
    """Whether it was there."""
    await _overwrite(connection)
    query = delete(transport_roots).where(transport_roots.c.source == source.value)
    return bool((await connection.execute(query)).rowcount)


async def count_keys(connection: AsyncConnection) -> dict[tuple[TransportSource, bool], int]:
    """(source, kept) -> how many."""
    columns = transport_keys.c.source, transport_keys.c.kept
    query = select(*columns, func.count()).group_by(*columns)
    rows = await connection.execute(query)
    return {(TransportSource(source), bool(kept)): count for source, kept, count in rows}


async def _overwrite(connection: AsyncConnection) -> None:
    """In SQLite the old bytes are overwritten, not just freed."""
    if connection.dialect.name == "sqlite":
        await connection.exec_driver_sql("PRAGMA secure_delete=ON")
