"""What agents have applied, and whether each is heard."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "applied",
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("root", sa.BigInteger, nullable=False),
        sa.Column("policy", sa.BigInteger, nullable=False),
        sa.Column("policy_hash", sa.String(64), nullable=False),
        sa.Column("revocation", sa.BigInteger, nullable=False),
        sa.Column("revocation_hash", sa.String(64), nullable=False),
        sa.Column("lockdown", sa.BigInteger, nullable=False),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("agent", name="pk_applied"),
    )
    op.create_table(
        "presence",
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("online", sa.Boolean, nullable=False),
        sa.Column("changed_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("agent", name="pk_presence"),
    )
