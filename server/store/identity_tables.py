"""Tables of enrolment: claims and requests, certificates, keys that were.

`enrolments` holds one row an agent, the newest claim; it goes open -> pending -> approved or
refused. `agents` (in `tables`) holds the agents of now; a key that left it stands in
`retired_keys`, for nothing but the verification of old events.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary, String, Table, Text

from server.store.tables import metadata

enrolments = Table(
    "enrolments",
    metadata,
    Column("agent", String(63), primary_key=True),
    Column("secret_hash", String(64), nullable=False, unique=True),
    Column("root_hash", String(64), nullable=False),
    Column("claimed_by", String(100), nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("state", String(10), nullable=False),
    Column("keyid", String(64)),
    Column("point", LargeBinary(65)),
    Column("chain", String(16)),
    Column("csr", Text),
    Column("received_us", BigInteger),
    Column("rival", String(64)),
    Column("certificate", Text),
    Column("detail", String(200)),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("agent", String(63), nullable=False, index=True),
    Column("key", String(64), nullable=False),
    Column("pem", Text, nullable=False),
    Column("issued_us", BigInteger, nullable=False),
    Column("until_us", BigInteger, nullable=False),
    Column("revoked_us", BigInteger),
)
"""`serial` in hex; `key` is the SHA-256 of the public key, by which a repeated request is known."""

retired_keys = Table(
    "retired_keys",
    metadata,
    Column("keyid", String(64), primary_key=True),
    Column("agent", String(63), nullable=False),
    Column("suite", String(8), nullable=False),
    Column("point", LargeBinary(65), nullable=False),
    Column("added_us", BigInteger, nullable=False),
)

announced_chains = Table(
    "announced_chains",
    metadata,
    Column("agent", String(63), primary_key=True),
    Column("chain", String(16), primary_key=True),
)
