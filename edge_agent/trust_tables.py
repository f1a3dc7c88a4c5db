"""What the trust store has on disk: the state, the denials, the overrides and the chunks.

But for `create`, each function is one step of a transaction that its caller holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar, cast

from pydantic import BaseModel, TypeAdapter
from sqlite_utils import Database

from edge_agent.core.decision import Denial
from edge_agent.core.door_mode import Override, OverrideMode
from edge_agent.core.trusted_state import Candidate, TrustedState
from schemas.heartbeat import Heartbeat
from schemas.lockdown import Lockdowns
from schemas.policy import DoorMode, Policy
from schemas.revocation import Denied, RevocationReason, RevokedKind
from schemas.root import RoleName, Root
from schemas.versions import LogHead

_M = TypeVar("_M", bound=BaseModel)
_FLOORS = TypeAdapter(dict[str, int])
_NOTES = TypeAdapter(dict[str, str])
_ROLES = TypeAdapter(frozenset[RoleName])


def create(database: Database) -> None:
    """Make what is not there yet."""
    with database.atomic():
        for statement in (
            "CREATE TABLE IF NOT EXISTS trusted (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
            "CREATE TABLE IF NOT EXISTS denied (kind TEXT, subject TEXT, sequence INTEGER NOT NULL,"
            " reason TEXT NOT NULL, PRIMARY KEY (kind, subject)) WITHOUT ROWID",
            "CREATE TABLE IF NOT EXISTS overrides (door TEXT PRIMARY KEY, mode TEXT NOT NULL,"
            " until TEXT)",
            "CREATE TABLE IF NOT EXISTS chunks (digest BLOB PRIMARY KEY, body BLOB NOT NULL)",
        ):
            database.execute(statement)


def load(database: Database) -> TrustedState | None:
    """The state as it is on disk; another process may read it while the agent runs."""
    rows = _rows(database)
    if "root" not in rows:
        return None
    root = Root.model_validate_json(rows["root"])
    return TrustedState(
        root,
        root.key_ring(),
        _read(Heartbeat, rows.get("heartbeat")),
        None if (heard := rows.get("heard")) is None else datetime.fromisoformat(heard),
        _read(Policy, rows.get("policy")),
        rows.get("policy_hash"),
        LogHead.model_validate_json(rows["revocation"]),
        _read(Lockdowns, rows.get("lockdowns")),
        int(rows["command"]),
        _FLOORS.validate_json(rows["key_floors"]),
        _ROLES.validate_json(rows["renewed"]),
    )


def save(database: Database, before: TrustedState | None, after: TrustedState) -> None:
    """Keep what `after` has other than `before`; None: nothing is kept yet."""
    for name, as_text in _AS_TEXT.items():
        value = getattr(after, name)
        if before is None or value is not getattr(before, name):
            _put(database, name, None if value is None else as_text(value))


def load_staged(database: Database) -> Candidate | None:
    """The policy whose chunks are being gathered."""
    rows = _rows(database)
    policy = _read(Policy, rows.get("staged"))
    return None if policy is None else Candidate(policy, rows["staged_hash"])


def save_staged(database: Database, candidate: Candidate | None) -> None:
    """Keep it in place of the one before."""
    _put(database, "staged", None if candidate is None else candidate.policy.model_dump_json())
    _put(database, "staged_hash", None if candidate is None else candidate.hash)


def load_notes(database: Database) -> dict[str, str]:
    """What the agent noted of its own doings; another process may read it."""
    return _NOTES.validate_json(_rows(database).get("notes", "{}"))


def save_notes(database: Database, notes: Mapping[str, str]) -> None:
    """Keep these in place of those that were there."""
    _put(database, "notes", _NOTES.dump_json(dict(notes)).decode())


def add_denials(database: Database, denied: Iterable[Denied]) -> None:
    """Add to the denials; of two for one subject the later one stays."""
    database.conn.executemany(
        "INSERT INTO denied VALUES (?, ?, ?, ?) ON CONFLICT (kind, subject) DO UPDATE"
        " SET sequence = excluded.sequence, reason = excluded.reason"
        " WHERE excluded.sequence > sequence",
        ((each.kind, each.subject, each.sequence, each.reason) for each in denied),
    )


def denial_of(database: Database, kind: RevokedKind, subject: str) -> Denial | None:
    """The latest entry of the log that denies it, and why."""
    row = database.execute(
        "SELECT sequence, reason FROM denied WHERE kind = ? AND subject = ?", [kind, subject]
    ).fetchone()
    return None if row is None else Denial(row[0], RevocationReason(row[1]))


def denied_versions(database: Database) -> frozenset[str]:
    """The key versions that are denied, as `<key domain>/<version>`."""
    rows = database.execute("SELECT subject FROM denied WHERE kind = 'key-version'")
    return frozenset(subject for (subject,) in rows)


def load_overrides(database: Database) -> dict[str, Override]:
    """The mode each door was commanded into."""
    return {
        door: Override(
            cast(OverrideMode, DoorMode(mode)),
            None if until is None else datetime.fromisoformat(until),
        )
        for door, mode, until in database.execute("SELECT door, mode, until FROM overrides")
    }


def set_override(database: Database, door: str, override: Override | None) -> None:
    """Keep it in place of the one before; None: there is none any more."""
    database.execute("DELETE FROM overrides WHERE door = ?", [door])
    if override is not None:
        until = None if override.until is None else override.until.isoformat()
        database.execute("INSERT INTO overrides VALUES (?, ?, ?)", [door, override.mode, until])


def add_chunk(database: Database, digest: str, body: bytes) -> None:
    """Keep a chunk, in a transaction of its own that is not synced.

    One that is lost in a power cut is asked for again; before its policy comes into force, a commit
    that is synced syncs the whole log, and with it the chunks.
    """
    database.execute("PRAGMA synchronous=NORMAL")
    try:
        with database.atomic():
            database.execute("INSERT INTO chunks VALUES (?, ?)", [bytes.fromhex(digest), body])
    finally:
        database.execute("PRAGMA synchronous=FULL")


def chunk(database: Database, digest: str) -> bytes | None:
    """The body of a chunk, if it is kept."""
    row = database.execute(
        "SELECT body FROM chunks WHERE digest = ?", [bytes.fromhex(digest)]
    ).fetchone()
    return None if row is None else bytes(row[0])


def has_chunk(database: Database, digest: str) -> bool:
    """Whether a chunk is kept."""
    row = database.execute("SELECT 1 FROM chunks WHERE digest = ?", [bytes.fromhex(digest)])
    return row.fetchone() is not None


def chunk_digests(database: Database) -> set[str]:
    """The digests of all chunks."""
    return {digest.hex() for (digest,) in database.execute("SELECT digest FROM chunks")}


def forget_chunks(database: Database, digests: Iterable[str]) -> None:
    """Delete these."""
    database.conn.executemany(
        "DELETE FROM chunks WHERE digest = ?", ((bytes.fromhex(each),) for each in digests)
    )


def _rows(database: Database) -> dict[str, str]:
    rows = database.execute("SELECT name, value FROM trusted WHERE value IS NOT NULL")
    return dict(rows.fetchall())


def _put(database: Database, name: str, value: str | None) -> None:
    database.execute("INSERT OR REPLACE INTO trusted VALUES (?, ?)", [name, value])


def _read(model: type[_M], text: str | None) -> _M | None:
    return None if text is None else model.model_validate_json(text)


def _json(model: BaseModel) -> str:
    return model.model_dump_json()


_AS_TEXT: dict[str, Callable[[Any], str]] = {
    "root": _json,
    "heartbeat": _json,
    "heard": datetime.isoformat,
    "policy": _json,
    "policy_hash": str,
    "revocation": _json,
    "lockdowns": _json,
    "command": str,
    "key_floors": lambda floors: _FLOORS.dump_json(dict(floors)).decode(),
    "renewed": lambda roles: _ROLES.dump_json(roles).decode(),
}
"""Each field of the state that is kept, and how."""
