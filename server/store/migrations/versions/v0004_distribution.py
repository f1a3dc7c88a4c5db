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
