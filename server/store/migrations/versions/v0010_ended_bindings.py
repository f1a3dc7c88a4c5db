"""When bindings were ended, so that a door's late news brings none of them back."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "ended_bindings",
        sa.Column("card", sa.String(16), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("ended_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("card", "domain", name="pk_ended_bindings"),
    )
