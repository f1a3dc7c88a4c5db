"""Key domains, the versions of their secrets, and the ESAMs that may be given them.

No column holds a key: `stored` and `control` are sealed, or name an object in a token, as `home`
says (`server.keys.home`).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
)

from server.store.tables import metadata

key_domains = Table(
    "key_domains",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("suite", String(8), nullable=False),
    Column("floor", Integer, nullable=False),
    Column("created_us", BigInteger, nullable=False),
)

key_versions = Table(
    "key_versions",
    metadata,
    Column("domain", String(63), ForeignKey("key_domains.name"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("home", String(8), nullable=False),
    Column("stored", LargeBinary, nullable=False),
    Column("auth_check", String(6), nullable=False),
    Column("admit_check", String(6), nullable=False),
    Column("maintain_check", String(6), nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("destroyed_us", BigInteger),
)

esams = Table(
    "esams",
    metadata,
    Column("serial", String(16), primary_key=True),
    Column("suite", String(8), nullable=False),
    Column("agent", String(63), nullable=False),
    Column("state", String(16), nullable=False),
    Column("home", String(8), nullable=False),
    Column("control", LargeBinary, nullable=False),
    Column("added_us", BigInteger, nullable=False),
)

esam_domains = Table(
    "esam_domains",
    metadata,
    Column("serial", String(16), ForeignKey("esams.serial"), primary_key=True),
    Column("domain", String(63), primary_key=True),
    Column("place", Integer),
    UniqueConstraint("serial", "place"),
)
"""Which domains an ESAM may be given; `place` is the domain's index in it once it is known."""
