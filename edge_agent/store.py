"""The policy this agent enforces, in its own database: settings in memory, cards on disk.

A policy is applied in one transaction or not at all, while taps go on reading the old one. The
version never goes back, also across restarts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlite_utils import Database

from edge_agent.core.decision import DoorView
from edge_agent.database import DatabaseThread, connect
from schemas.errors import SchemaError
from schemas.policy import DoorSettings, Policy, PolicyCard, Schedule
from schemas.root import Root
from schemas.statement import open_statement

MAX_POLICY_BYTES = 256 * 1024 * 1024
APART_BYTES = 1024 * 1024
"""A larger policy is verified and stored by a process of its own: taps go on meanwhile."""


class PolicyRollback(SchemaError):
    """A policy older than the one applied."""


class PolicyEquivocation(SchemaError):
    """Another policy under the version that is applied already."""


@dataclass(frozen=True)
class Applied:
    """The policy in force, but for its cards."""

    version: int
    issued: datetime
    expires: datetime | None
    doors: Mapping[str, DoorView]


@dataclass(frozen=True)
class Found:
    """What one policy says of one card: all three parts are of the same version."""

    applied: Applied | None
    card: PolicyCard | None
    revoked: bool


@dataclass(frozen=True)
class PolicyFile:
    """A signed policy on disk, and what it is held to. `now` is aware."""

    path: Path
    root: Root
    agent: str
    now: datetime


class PolicyStore:
    """The applied policy. Reading never waits for an apply (WAL).

    One card is looked up on the event loop itself: that takes some 20 us, a fraction of what
    handing it to another thread and waiting for the interpreter costs at the worst moment.
    """

    def __init__(self, path: Path, reader: Database, writer: DatabaseThread) -> None:
        self._path = path
        self._reader = reader
        self._writer = writer
        self._applied = _read_applied(reader)

    @classmethod
    async def open(cls, path: Path) -> PolicyStore:
        """The store at `path`, made empty if it is not there."""
        writer = DatabaseThread(path, "policy-writer")
        await writer.run(_create)
        return cls(path, connect(path), writer)

    @property
    def applied(self) -> Applied | None:
        """The policy in force; None before the first."""
        return self._applied

    def find(self, card_id: str | None) -> Found:
        """What the policy says of `card_id` (16 hex digits)."""
        database = self._reader
        with database.atomic():  # one snapshot
            version = _version(database)
            if version != (self._applied.version if self._applied else None):
                self._applied = _read_applied(database)
            if card_id is None:
                return Found(self._applied, None, revoked=False)
            key = bytes.fromhex(card_id)
            card = database.execute("SELECT body FROM cards WHERE card = ?", [key]).fetchone()
            revoked = database.execute("SELECT 1 FROM revoked WHERE card = ?", [key]).fetchone()
        return Found(
            self._applied,
            PolicyCard.model_validate_json(card[0]) if card else None,
            revoked is not None,
        )

    async def apply(self, file: PolicyFile) -> bool:
        """Verify and apply the policy in `file`; False if it is the one applied already.

        Raises the refusal by name (`schemas.errors`, PolicyRollback, PolicyEquivocation), or
        OSError.
        """
        size = await asyncio.to_thread(lambda: file.path.stat().st_size)
        if size > APART_BYTES:
            changed = await _apply_apart(self._path, file)
        else:
            changed = await self._writer.run(apply_file, file)
        self._applied = _read_applied(self._reader)
        return changed

    async def close(self) -> None:
        """Let go of the database."""
        self._reader.close()
        await self._writer.close()


async def _apply_apart(path: Path, file: PolicyFile) -> bool:
    # Parsing a large policy would hold the interpreter, and with it every door, for seconds.
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return await loop.run_in_executor(pool, _apply_to, path, file)


def _apply_to(path: Path, file: PolicyFile) -> bool:
    database = connect(path)
    try:
        return apply_file(database, file)
    finally:
        database.close()


def apply_file(database: Database, file: PolicyFile) -> bool:
    """Do the work of `PolicyStore.apply` on an open database."""
    data = file.path.read_bytes()
    file_digest = hashlib.sha256(data).hexdigest()
    row = database.execute("SELECT version, file, content FROM policy").fetchone()
    version, seen_file, content = row or (None, None, None)
    if file_digest == seen_file:
        return False
    policy = open_statement(
        data,
        Policy,
        file.root.key_ring(),
        site=file.root.site,
        audience=file.agent,
        now=file.now,
        max_bytes=MAX_POLICY_BYTES,
    )
    digest = hashlib.sha256(policy.model_dump_json().encode()).hexdigest()
    if version is not None and policy.counter < version:
        raise PolicyRollback(f"policy {policy.counter} is older than {version}, which is applied")
    if policy.counter == version:
        if digest != content:
            raise PolicyEquivocation(f"policy {version} was applied with another content")
        return False
    _replace(database, policy, file_digest, digest)
    return True


def _replace(database: Database, policy: Policy, file_digest: str, digest: str) -> None:
    body = {
        "timezone": policy.timezone,
        "expires": policy.expires.isoformat() if policy.expires else None,
        "doors": {name: door.model_dump(mode="json") for name, door in policy.doors.items()},
        "schedules": {
            name: schedule.model_dump(mode="json") for name, schedule in policy.schedules.items()
        },
        "rules": [rule.model_dump(mode="json") for rule in policy.rules],
    }
    with database.atomic():
        database.execute("DELETE FROM policy")
        database.execute("DELETE FROM cards")
        database.execute("DELETE FROM revoked")
        database.execute(
            "INSERT INTO policy VALUES (1, ?, ?, ?, ?, ?)",
            [policy.counter, policy.issued.isoformat(), json.dumps(body), file_digest, digest],
        )
        database.conn.executemany(
            "INSERT OR REPLACE INTO cards VALUES (?, ?)",
            ((bytes.fromhex(card.card), card.model_dump_json()) for card in policy.cards),
        )
        database.conn.executemany(
            "INSERT OR IGNORE INTO revoked VALUES (?)",
            ((bytes.fromhex(card),) for card in policy.revoked),
        )


def _create(database: Database) -> None:
    with database.atomic():
        policy = {
            "id": int,
            "version": int,
            "issued": str,
            "body": str,
            "file": str,
            "content": str,
        }
        database.table("policy").create(policy, pk="id", if_not_exists=True)
        database.table("cards").create({"card": bytes, "body": str}, pk="card", if_not_exists=True)
        database.table("revoked").create({"card": bytes}, pk="card", if_not_exists=True)


def _version(database: Database) -> int | None:
    row = database.execute("SELECT version FROM policy").fetchone()
    return None if row is None else int(row[0])


def _read_applied(database: Database) -> Applied | None:
    row = database.execute("SELECT version, issued, body FROM policy").fetchone()
    if row is None:
        return None
    version, issued, text = row
    body: dict[str, Any] = json.loads(text)
    zone = ZoneInfo(body["timezone"])
    schedules = {name: Schedule.model_validate(each) for name, each in body["schedules"].items()}
    doors = {
        name: DoorView(
            DoorSettings.model_validate(settings),
            zone,
            tuple(
                (rule["group"], schedules[rule["schedule"]])
                for rule in body["rules"]
                if name in rule["doors"]
            ),
        )
        for name, settings in body["doors"].items()
    }
    end = body.get("expires")  # none in what an older version applied
    expires = datetime.fromisoformat(end) if end else None
    return Applied(version, datetime.fromisoformat(issued), expires, doors)


def read_version(database: Database) -> tuple[int, datetime] | None:
    """Version and time of issue of the applied policy; another process may ask."""
    row = database.execute("SELECT version, issued FROM policy").fetchone()
    return None if row is None else (int(row[0]), datetime.fromisoformat(row[1]))
