"""Which bindings were ended, and when, so that a door's late news brings none of them back."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make the table, and count windows and bindings by the model's revision."""
    op.create_table(
        "ended_bindings",
        sa.Column("card", sa.String(16), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("card", "domain", name="pk_ended_bindings"),
    )
    for table in ("windows", "bindings"):
        column = sa.Column("revision", sa.BigInteger, nullable=False, server_default="0")
        op.add_column(table, column)
