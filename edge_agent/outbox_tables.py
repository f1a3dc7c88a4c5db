"""What the outbox has on disk: the lines, and one row that says where their chain stands.

But for `create`, each function is one step of a transaction that its caller holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlite_utils import Database

from schemas.chain import GENESIS, Head
from schemas.suites import RandomBytes

Why = Literal["buffer_full", "storage_error"]
Cause = Literal["first_start", "start", "restart_after_kill"]


@dataclass(frozen=True)
class StoredLine:
    """A committed event."""

    id: str
    sequence: int
    line: bytes


@dataclass(frozen=True)
class Loss:
    """Events that were not stored."""

    count: int
    first: str
    last: str
    why: Why


@dataclass(frozen=True)
class OutboxState:
    """Where the store stands: its chain's head, and the last line the server has."""

    head: Head
    acknowledged: int = 0
    lost: Loss | None = None
    warned: bool = False
    server_time: datetime | None = None
    """When the server signed its newest acknowledgement: it can't be earlier than that now."""

    @property
    def waiting(self) -> int:
        """How many lines are not acknowledged."""
        return self.head.sequence - self.acknowledged


def create(database: Database, random: RandomBytes) -> OutboxState:
    """Make what is not there yet; a new chain gets its id from `random`."""
    with database.atomic():
        database.table("lines").create(
            {"sequence": int, "line": bytes}, pk="sequence", if_not_exists=True
        )
        database.table("chain").create(
            {
                "id": int,
                "chain": str,
                "sequence": int,
                "hash": str,
                "acknowledged": int,
                "warned": int,
                "lost": int,
                "lost_from": str,
                "lost_until": str,
                "why": str,
                "server_time": str,
                "running": int,
            },
            pk="id",
            if_not_exists=True,
        )
        database.execute(
            "INSERT OR IGNORE INTO chain (id, chain, sequence, hash, acknowledged, warned, lost)"
            " VALUES (1, ?, 0, ?, 0, 0, 0)",
            [random(8).hex(), GENESIS],
        )
    return read_state(database)


def read_state(database: Database) -> OutboxState:
    """The state as it is on disk; another process may read it while the agent runs."""
    (chain, sequence, digest, acknowledged, warned, lost, first, last, why, server_time) = (
        database.execute(
            "SELECT chain, sequence, hash, acknowledged, warned, lost, lost_from, lost_until, why,"
            " server_time FROM chain"
        ).fetchone()
    )
    return OutboxState(
        Head(chain, sequence, digest),
        acknowledged,
        Loss(lost, first, last, why) if lost else None,
        bool(warned),
        datetime.fromisoformat(server_time) if server_time else None,
    )


def save(database: Database, state: OutboxState) -> None:
    """Keep `state`; the chain itself never changes."""
    lost = state.lost or Loss(0, "", "", "buffer_full")
    database.execute(
        "UPDATE chain SET sequence = ?, hash = ?, acknowledged = ?, warned = ?,"
        " lost = ?, lost_from = ?, lost_until = ?, why = ?, server_time = ?",
        [
            state.head.sequence,
            state.head.hash,
            state.acknowledged,
            int(state.warned),
            lost.count,
            lost.first,
            lost.last,
            lost.why,
            state.server_time.isoformat() if state.server_time else "",
        ],
    )


def insert(database: Database, stored: StoredLine) -> None:
    """Keep one line."""
    database.execute("INSERT INTO lines VALUES (?, ?)", [stored.sequence, stored.line])


def line_at(database: Database, sequence: int) -> bytes | None:
    """The line of that number, if it is kept."""
    row = database.execute("SELECT line FROM lines WHERE sequence = ?", [sequence]).fetchone()
    return None if row is None else bytes(row[0])


def forget(database: Database, sequence: int) -> None:
    """Delete the lines up to `sequence`."""
    database.execute("DELETE FROM lines WHERE sequence <= ?", [sequence])


def lines_after(
    database: Database, chain: str, sequence: int, limit: int, most_bytes: int
) -> list[StoredLine]:
    """The next lines after `sequence`: at most `limit`, and joined at most `most_bytes`."""
    found: list[StoredLine] = []
    size = 0
    for number, line in database.execute(
        "SELECT sequence, line FROM lines WHERE sequence > ? ORDER BY sequence LIMIT ?",
        [sequence, limit],
    ):
        size += len(line) + 1
        if found and size > most_bytes:
            break
        found.append(StoredLine(f"{chain}-{number}", number, line))
    return found


def begin(database: Database) -> Cause:
    """How the last run ended; from now on this one is running."""
    (running,) = database.execute("SELECT running FROM chain").fetchone()
    database.execute("UPDATE chain SET running = 1")
    if running is None:
        return "first_start"
    return "restart_after_kill" if running else "start"


def end(database: Database) -> None:
    """Mark that the run ends in order."""
    database.execute("UPDATE chain SET running = 0")
