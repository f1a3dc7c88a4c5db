"""The one writer of events: heads, door states and rows move together or not at all.

Positions are given out here, not by the database, so that they have no holes, follow the order of
commit on every database, and are known before the commit. A second writer would collide with them
and fail: nothing of it would be acknowledged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import and_, bindparam, delete, func, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.chain import Head
from schemas.suites import Suite
from server.clock import microseconds
from server.ingest.doors import Doors, DoorState, project
from server.ingest.heads import ChainKey, Heads, Row
from server.ingest.receipts import Applied
from server.ingest.receipts import project as project_receipts
from server.store.announcements import told
from server.store.receipt_tables import applied
from server.store.tables import chains, door_states, events

_QUESTIONS_AT_ONCE = 250
"""Bound parameters a statement may have are limited; three are needed for each."""

_MOVE_CHAIN = (
    update(chains)
    .where(and_(chains.c.source == bindparam("of_source"), chains.c.chain == bindparam("of_chain")))
    .values(sequence=bindparam("to_sequence"), hash=bindparam("to_hash"))
)
_CHANGE_DOOR = (
    update(door_states)
    .where(door_states.c.door == bindparam("of_door"))
    .values({c: bindparam(f"to_{c.name}") for c in door_states.c if c.name != "door"})
)
_FORGET_APPLIED = delete(applied).where(applied.c.agent == bindparam("of_agent"))

Projection = Callable[[AsyncConnection, Sequence[Row]], Awaitable[None]]
"""Writes what follows from new rows into other tables, in the transaction that stores the rows."""


class Ledger:
    """What is committed, as one process holds it; `load` before anything else."""

    def __init__(self, engine: AsyncEngine, projections: Sequence[Projection] = ()) -> None:
        self._engine = engine
        self._projections = projections
        self.heads = Heads(())
        self.doors = Doors()
        self.applied: dict[str, Applied] = {}
        self.position = 0

    async def load(self) -> None:
        """Read heads, doors and the last position; also the way back after a failed commit."""
        async with self._engine.connect() as connection:
            known = await connection.execute(
                select(chains.c.source, chains.c.chain, chains.c.sequence, chains.c.hash).order_by(
                    chains.c.first_seen_us
                )
            )
            self.heads = Heads((source, Head(*head)) for source, *head in known)
            rows = await connection.execute(select(door_states))
            self.doors = Doors(DoorState(*row) for row in rows)
            receipts = await connection.execute(select(applied))
            self.applied = {row.agent: Applied(*row) for row in receipts}
            self.position = await connection.scalar(select(func.max(events.c.position))) or 0

    async def digests(
        self, questions: Collection[tuple[str, str, int]], suite: Suite
    ) -> dict[tuple[str, str, int], str]:
        """The digests of stored lines, computed from the very bytes."""
        asked = list(questions)
        found: dict[tuple[str, str, int], str] = {}
        if not asked:
            return found
        key = tuple_(events.c.source, events.c.chain, events.c.sequence)
        async with self._engine.connect() as connection:
            for start in range(0, len(asked), _QUESTIONS_AT_ONCE):
                some = asked[start : start + _QUESTIONS_AT_ONCE]
                rows = await connection.execute(
                    select(events.c.source, events.c.chain, events.c.sequence, events.c.line).where(
                        key.in_(some)
                    )
                )
                for source, chain, sequence, line in rows:
                    found[source, chain, sequence] = suite.digest(line).hex()
        return found

    async def commit(
        self,
        rows: Sequence[Row],
        heads: Mapping[ChainKey, Head],
        recorded_us: int,
        announced: Collection[int] = (),
    ) -> int:
        """Store `rows`, move `heads` and all that follows from them; the last position.

        Durably, in one transaction, with the announcements whose events are among the rows. If it
        raises, nothing is stored and nothing here has moved.
        """
        doors = Doors(base=self.doors)
        receipts: dict[str, Applied] = {}
        values = []
        for position, row in enumerate(rows, self.position + 1):
            values.append(_values(row, position, recorded_us))
            for door in project(doors, row.source, row.link.event, position):
                doors.put(door)
            before = receipts.get(row.source) or self.applied.get(row.source)
            receipt = project_receipts(before, row.source, row.link.event)
            if receipt is not None:
                receipts[row.source] = receipt
        async with self._engine.begin() as connection:
            if values:
                await connection.execute(insert(events), values)
            await self._move_chains(connection, heads, recorded_us)
            await self._change_doors(connection, doors.states)
            await self._change_applied(connection, receipts)
            for project_into in self._projections:
                await project_into(connection, rows)
            if announced:
                await told(connection, announced)
        for (source, _), head in heads.items():
            self.heads.moved(source, head)
        for door in doors.states.values():
            self.doors.put(door)
        self.applied.update(receipts)
        self.position += len(rows)
        return self.position

    def forget_receipts(self, agent: str) -> None:
        """The device is gone that gave them; `retire_agent` takes them from the store."""
        self.applied.pop(agent, None)

    async def _move_chains(
        self, connection: AsyncConnection, heads: Mapping[ChainKey, Head], now_us: int
    ) -> None:
        new, moved = [], []
        for n, ((source, chain), head) in enumerate(heads.items()):
            if self.heads.of(source, chain).sequence:
                moved.append(
                    {
                        "of_source": source,
                        "of_chain": chain,
                        "to_sequence": head.sequence,
                        "to_hash": head.hash,
                    }
                )
            else:
                # chains that begin in one commit keep their order: `load` sorts by this
                first_seen_us = now_us + n
                new.append(
                    {"source": source, "first_seen_us": first_seen_us, **asdict(head)},
                )
        if new:
            await connection.execute(insert(chains), new)
        if moved:
            await connection.execute(_MOVE_CHAIN, moved)

    async def _change_doors(
        self, connection: AsyncConnection, changed: Mapping[str, DoorState]
    ) -> None:
        new = [asdict(d) for name, d in changed.items() if name not in self.doors.states]
        known = [d for name, d in changed.items() if name in self.doors.states]
        if new:
            await connection.execute(insert(door_states), new)
        if known:
            values = [
                {f"{'of' if k == 'door' else 'to'}_{k}": v for k, v in asdict(d).items()}
                for d in known
            ]
            await connection.execute(_CHANGE_DOOR, values)

    async def _change_applied(
        self, connection: AsyncConnection, receipts: Mapping[str, Applied]
    ) -> None:
        if receipts:
            await connection.execute(_FORGET_APPLIED, [{"of_agent": agent} for agent in receipts])
            await connection.execute(insert(applied), [asdict(r) for r in receipts.values()])


def _values(row: Row, position: int, recorded_us: int) -> dict[str, object]:
    event, signed = row.link.event, row.signed
    return {
        "position": position,
        "source": row.source,
        "chain": event.chain,
        "sequence": event.number,
        "line": row.link.line,
        "type": event.type,
        "subject": event.subject,
        "time_us": microseconds(event.time),
        "recorded_us": recorded_us,
        "signed_from": signed and signed.first,
        "keyid": signed and signed.keyid,
        "signature": signed and signed.signature,
    }
