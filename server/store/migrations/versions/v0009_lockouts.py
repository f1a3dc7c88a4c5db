"""Lock-outs that no campaign has counted yet."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "rotation_lockouts",
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("card", sa.String(16), nullable=False),
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("door", sa.String(63), nullable=False),
        sa.PrimaryKeyConstraint("event", name="pk_rotation_lockouts"),
    )
