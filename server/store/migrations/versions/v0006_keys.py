"""Key domains, versions of their secrets, and ESAMs."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "key_domains",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("suite", sa.String(8), nullable=False),
        sa.Column("floor", sa.Integer, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_key_domains"),
    )
    op.create_table(
        "key_versions",
        sa.Column("domain", sa.String(63), sa.ForeignKey("key_domains.name"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("home", sa.String(8), nullable=False),
        sa.Column("stored", sa.LargeBinary, nullable=False),
        sa.Column("auth_check", sa.String(6), nullable=False),
        sa.Column("admit_check", sa.String(6), nullable=False),
        sa.Column("maintain_check", sa.String(6), nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("destroyed_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("domain", "version", name="pk_key_versions"),
    )
    op.create_table(
        "esams",
        sa.Column("serial", sa.String(16), nullable=False),
        sa.Column("suite", sa.String(8), nullable=False),
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("home", sa.String(8), nullable=False),
        sa.Column("control", sa.LargeBinary, nullable=False),
        sa.Column("added_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("serial", name="pk_esams"),
    )
    op.create_table(
        "esam_domains",
        sa.Column("serial", sa.String(16), sa.ForeignKey("esams.serial"), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("place", sa.Integer),
        sa.PrimaryKeyConstraint("serial", "domain", name="pk_esam_domains"),
        sa.UniqueConstraint("serial", "place", name="uq_esam_domains_serial"),
    )
