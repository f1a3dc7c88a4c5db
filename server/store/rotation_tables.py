"""Which key versions doors ask for, what each lock has, and the campaigns that change it.

`domain_versions` has a row for a domain once its versions are other than those from the start (1,
and no other). `floor` there is for domains whose locks make their own secrets; the key authority's
have theirs in `key_domains`. Lists and check values are JSON.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Integer, String, Table, Text

from server.store.tables import metadata

domain_versions = Table(
    "domain_versions",
    metadata,
    Column("domain", String(63), primary_key=True),
    Column("preferred", Integer, nullable=False),
    Column("accepted", Text, nullable=False),
    Column("floor", Integer, nullable=False),
)

lock_keys = Table(
    "lock_keys",
    metadata,
    Column("agent", String(63), primary_key=True),
    Column("domain", String(63), primary_key=True, index=True),
    Column("esam", String(16)),
    Column("held", Text, nullable=False),
    Column("floor", Integer, nullable=False),
    Column("preferred", Integer, nullable=False),
    Column("accepted", Text, nullable=False),
    Column("time_us", BigInteger, nullable=False),
)
"""The newest `keys.held` of an agent and domain."""

rotations = Table(
    "rotations",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("domain", String(63), nullable=False, index=True),
    Column("from_version", Integer, nullable=False),
    Column("to_version", Integer, nullable=False),
    Column("deadline_us", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("resumes", String(16)),
    Column("reason", Text, nullable=False),
    Column("wave", Integer, nullable=False),
    Column("hold", Boolean, nullable=False),
    Column("leave_behind", Boolean, nullable=False),
    Column("destroy", Boolean, nullable=False),
    Column("lockouts", Integer, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
)

rotation_locks = Table(
    "rotation_locks",
    metadata,
    Column("rotation", String(16), primary_key=True),
    Column("agent", String(63), primary_key=True),
    Column("wave", Integer, nullable=False),
    Column("quarantined", Boolean, nullable=False),
)

rotation_lockouts = Table(
    "rotation_lockouts",
    metadata,
    Column("event", String(40), primary_key=True),
    Column("domain", String(63), nullable=False),
    Column("card", String(16), nullable=False),
    Column("agent", String(63), nullable=False),
    Column("door", String(63), nullable=False),
)
"""Good cards that were refused by their key version, until the campaign has counted them."""
