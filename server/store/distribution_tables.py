"""What the server has told its agents: policies, the revocation log, lockdowns, used counters.

Portable between SQLite and PostgreSQL; v0004 makes the same ones.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, String, Table, Text

from server.store.tables import metadata

revocations = Table(
    "revocations",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(12), nullable=False),
    Column("subject", String(67), nullable=False),
    Column("reason", String(12), nullable=False),
    Column("time_us", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Index(None, "kind", "subject"),
)
"""Append-only: no entry is ever changed or taken away."""

revocation_bases = Table(
    "revocation_bases",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", String(64), nullable=False),
    Column("time_us", BigInteger, nullable=False),
)
"""Where the log went on after a restored backup: no entry stands at these sequences."""

lockdowns = Table(
    "lockdowns",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("scope", String(8), nullable=False),
    Column("name", String(63), nullable=False),
    Column("exempt", Text, nullable=False),
    Column("since_us", BigInteger, nullable=False),
    Column("started_by", String(100), nullable=False),
    Column("ended_us", BigInteger),
    Column("ended_by", String(100)),
)

lockdown_statements = Table(
    "lockdown_statements",
    metadata,
    Column("counter", BigInteger, primary_key=True, autoincrement=False),
    Column("envelope", LargeBinary, nullable=False),
)
"""The exact bytes that went out: another signature under the same counter would be equivocation."""

command_counters = Table(
    "command_counters",
    metadata,
    Column("agent", String(63), primary_key=True),
    Column("counter", BigInteger, nullable=False),
)

policies = Table(
    "policies",
    metadata,
    Column("agent", String(63), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", String(64), nullable=False),
    Column("content", String(64), nullable=False),
    Column("scope", String(64), nullable=False),
    Column("cards", Integer, nullable=False),
    Column("issued_us", BigInteger, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
)
"""The newest policy of each agent, and the one it has applied, as signed. `content` is the digest
of all that does not change from version to version; `scope` that of the groups and key domains by
which cards were chosen."""

policy_chunks = Table(
    "policy_chunks",
    metadata,
    Column("agent", String(63), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("body", LargeBinary, nullable=False),
)
"""What those policies name, and nothing else: what stands here is what the agent may read."""
