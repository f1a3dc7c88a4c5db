"""The first schema: agents, their event lines and chains, door states."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_position = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make every table, and give the store a name that cursors carry."""
    op.create_table(
        "agents",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("suite", sa.String(8), nullable=False),
        sa.Column("point", sa.LargeBinary(65), nullable=False),
        sa.Column("keyid", sa.String(64), nullable=False),
        sa.Column("added_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_agents"),
        sa.UniqueConstraint("keyid", name="uq_agents_keyid"),
    )
    op.create_table(
        "events",
        sa.Column("position", _position, nullable=False),
        sa.Column("source", sa.String(63), nullable=False),
        sa.Column("chain", sa.String(16), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("line", sa.LargeBinary, nullable=False),
        sa.Column("type", sa.String(150), nullable=False),
        sa.Column("subject", sa.String(90), nullable=False),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.Column("recorded_us", sa.BigInteger, nullable=False),
        sa.Column("signed_from", sa.BigInteger),
        sa.Column("keyid", sa.String(64)),
        sa.Column("signature", sa.LargeBinary(80)),
        sa.PrimaryKeyConstraint("position", name="pk_events"),
        sa.UniqueConstraint("source", "chain", "sequence", name="uq_events_source_chain_sequence"),
    )
    op.create_index("ix_events_subject_events_position", "events", ["subject", "position"])
    op.create_index("ix_events_type_events_position", "events", ["type", "position"])
    op.create_table(
        "chains",
        sa.Column("source", sa.String(63), nullable=False),
        sa.Column("chain", sa.String(16), nullable=False),
        sa.Column("first_seen_us", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("source", "chain", name="pk_chains"),
    )
    op.create_table(
        "doors",
        sa.Column("door", sa.String(63), nullable=False),
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("contact", sa.String(10), nullable=False),
        sa.Column("mode", sa.String(20), nullable=False),
        sa.Column("alarm", sa.String(10), nullable=False),
        sa.Column("changed_us", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("door", name="pk_doors"),
    )
    meta = op.create_table(
        "meta",
        sa.Column("key", sa.String(100), nullable=False),
        sa.Column("value", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    op.bulk_insert(meta, [{"key": "store_id", "value": secrets.token_hex(8)}])
