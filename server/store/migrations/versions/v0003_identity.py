"""Claims, enrolments, certificates, retired keys."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "enrolments",
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("root_hash", sa.String(64), nullable=False),
        sa.Column("claimed_by", sa.String(100), nullable=False),
        sa.Column("expires_us", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("keyid", sa.String(64)),
        sa.Column("point", sa.LargeBinary(65)),
        sa.Column("chain", sa.String(16)),
        sa.Column("csr", sa.Text),
        sa.Column("received_us", sa.BigInteger),
        sa.Column("rival", sa.String(64)),
        sa.Column("certificate", sa.Text),
        sa.Column("detail", sa.String(200)),
        sa.PrimaryKeyConstraint("agent", name="pk_enrolments"),
        sa.UniqueConstraint("secret_hash", name="uq_enrolments_secret_hash"),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(40), nullable=False),
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("pem", sa.Text, nullable=False),
        sa.Column("issued_us", sa.BigInteger, nullable=False),
        sa.Column("until_us", sa.BigInteger, nullable=False),
        sa.Column("revoked_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
    )
    op.create_index("ix_certificates_agent", "certificates", ["agent"])
    op.create_table(
        "retired_keys",
        sa.Column("keyid", sa.String(64), nullable=False),
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("suite", sa.String(8), nullable=False),
        sa.Column("point", sa.LargeBinary(65), nullable=False),
        sa.Column("added_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("keyid", name="pk_retired_keys"),
    )
    op.create_table(
        "announced_chains",
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("chain", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("agent", "chain", name="pk_announced_chains"),
    )
