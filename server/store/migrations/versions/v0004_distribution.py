"""Policies, chunks, the revocation log, lockdowns, commands, announcements."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "announcements",
        sa.Column("id", _row_id, nullable=False),
        sa.Column("name", sa.String(90), nullable=False),
        sa.Column("subject", sa.String(90), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_announcements"),
    )
    op.create_table(
        "revocations",
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("subject", sa.String(67), nullable=False),
        sa.Column("reason", sa.String(12), nullable=False),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_revocations"),
    )
    op.create_index("ix_revocations_kind_revocations_subject", "revocations", ["kind", "subject"])
    op.create_table(
        "revocation_bases",
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_revocation_bases"),
    )
    op.create_table(
        "lockdowns",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("scope", sa.String(8), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("exempt", sa.Text, nullable=False),
        sa.Column("since_us", sa.BigInteger, nullable=False),
        sa.Column("started_by", sa.String(100), nullable=False),
        sa.Column("ended_us", sa.BigInteger),
        sa.Column("ended_by", sa.String(100)),
        sa.PrimaryKeyConstraint("id", name="pk_lockdowns"),
    )
    op.create_table(
        "lockdown_statements",
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("counter", name="pk_lockdown_statements"),
    )
    op.create_table(
        "command_counters",
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("agent", name="pk_command_counters"),
    )
    op.create_table(
        "policies",
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("scope", sa.String(64), nullable=False),
        sa.Column("cards", sa.Integer, nullable=False),
        sa.Column("issued_us", sa.BigInteger, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("agent", "version", name="pk_policies"),
    )
    op.create_table(
        "policy_chunks",
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("agent", "digest", name="pk_policy_chunks"),
    )
