"""Transport keys of new cards, and windows to bind and unbind them."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "transport_keys",
        sa.Column("card", sa.String(16), nullable=False),
        sa.Column("source", sa.String(8), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("kept", sa.Boolean, nullable=False),
        sa.Column("added_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("card", name="pk_transport_keys"),
    )
    op.create_table(
        "transport_roots",
        sa.Column("source", sa.String(8), nullable=False),
        sa.Column("suite", sa.String(8), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("added_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("source", name="pk_transport_roots"),
    )
    op.create_table(
        "windows",
        sa.Column("command", sa.String(16), nullable=False),
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("door", sa.String(63), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("person", sa.String(63)),
        sa.Column("card", sa.String(16)),
        sa.Column("direction", sa.String(4), nullable=False),
        sa.Column("opened_by", sa.String(100), nullable=False),
        sa.Column("opened_us", sa.BigInteger, nullable=False),
        sa.Column("until_us", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(100)),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("came", sa.String(16)),
        sa.Column("news", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("command", name="pk_windows"),
    )
    op.create_table(
        "window_cards",
        sa.Column("command", sa.String(16), sa.ForeignKey("windows.command"), nullable=False),
        sa.Column("card", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("command", "card", name="pk_window_cards"),
    )
