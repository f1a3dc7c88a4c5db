"""The tables. Portable between SQLite and PostgreSQL; the migrations make the same ones.

`events` is append-only and holds the exact bytes that were signed. One signature may cover several
lines of a chain: it stands in the row of the last of them, with `signed_from`, the first. Every row
is covered by the next row at or after it (same source and chain) that has a signature.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite makes only an INTEGER primary key an alias of its row id
_Position = BigInteger().with_variant(Integer, "sqlite")

agents = Table(
    "agents",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("suite", String(8), nullable=False),
    Column("point", LargeBinary(65), nullable=False),
    Column("keyid", String(64), nullable=False, unique=True),
    Column("added_us", BigInteger, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("position", _Position, primary_key=True),
    Column("source", String(63), nullable=False),
    Column("chain", String(16), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("line", LargeBinary, nullable=False),
    Column("type", String(150), nullable=False),
    Column("subject", String(90), nullable=False),
    Column("time_us", BigInteger, nullable=False),
    Column("recorded_us", BigInteger, nullable=False),
    Column("signed_from", BigInteger),
    Column("keyid", String(64)),
    Column("signature", LargeBinary(80)),
    UniqueConstraint("source", "chain", "sequence"),
    Index(None, "subject", "position"),
    Index(None, "type", "position"),
)

chains = Table(
    "chains",
    metadata,
    Column("source", String(63), primary_key=True),
    Column("chain", String(16), primary_key=True),
    Column("first_seen_us", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)

door_states = Table(
    "door_states",
    metadata,
    Column("door", String(63), primary_key=True),
    Column("agent", String(63), nullable=False),
    Column("contact", String(10), nullable=False),
    Column("mode", String(20), nullable=False),
    Column("alarm", String(10), nullable=False),
    Column("changed_us", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("key", String(100), primary_key=True),
    Column("value", String(200), nullable=False),
)
