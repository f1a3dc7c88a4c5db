"""What follows from agents' own words: the newest receipts, and whether each is heard."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, String, Table

from server.store.tables import metadata

applied = Table(
    "applied",
    metadata,
    Column("agent", String(63), primary_key=True),
    Column("root", BigInteger, nullable=False),
    Column("policy", BigInteger, nullable=False),
    Column("policy_hash", String(64), nullable=False),
    Column("revocation", BigInteger, nullable=False),
    Column("revocation_hash", String(64), nullable=False),
    Column("lockdown", BigInteger, nullable=False),
    Column("time_us", BigInteger, nullable=False),
)

presence = Table(
    "presence",
    metadata,
    Column("agent", String(63), primary_key=True),
    Column("online", Boolean, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
)
