"""Key versions that doors ask for, what each lock has, and campaigns."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the tables; a door's own key versions, which only rotations change now, go."""
    op.create_table(
        "domain_versions",
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("preferred", sa.Integer, nullable=False),
        sa.Column("accepted", sa.Text, nullable=False),
        sa.Column("floor", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("domain", name="pk_domain_versions"),
    )
    op.create_table(
        "lock_keys",
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("esam", sa.String(16)),
        sa.Column("held", sa.Text, nullable=False),
        sa.Column("floor", sa.Integer, nullable=False),
        sa.Column("preferred", sa.Integer, nullable=False),
        sa.Column("accepted", sa.Text, nullable=False),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("agent", "domain", name="pk_lock_keys"),
    )
    op.create_index("ix_lock_keys_domain", "lock_keys", ["domain"])
    op.create_table(
        "rotations",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("from_version", sa.Integer, nullable=False),
        sa.Column("to_version", sa.Integer, nullable=False),
        sa.Column("deadline_us", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("resumes", sa.String(16)),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("wave", sa.Integer, nullable=False),
        sa.Column("hold", sa.Boolean, nullable=False),
        sa.Column("leave_behind", sa.Boolean, nullable=False),
        sa.Column("destroy", sa.Boolean, nullable=False),
        sa.Column("lockouts", sa.Integer, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("changed_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rotations"),
    )
    op.create_index("ix_rotations_domain", "rotations", ["domain"])
    op.create_table(
        "rotation_locks",
        sa.Column("rotation", sa.String(16), nullable=False),
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("wave", sa.Integer, nullable=False),
        sa.Column("quarantined", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("rotation", "agent", name="pk_rotation_locks"),
    )
    op.add_column("bindings", sa.Column("other_version", sa.SmallInteger))
    doors = sa.table("doors", sa.column("id", sa.String), sa.column("behaviour", sa.Text))
    connection = op.get_bind()
    for door, text in connection.execute(sa.select(doors.c.id, doors.c.behaviour)).all():
        behaviour = json.loads(text)
        for name in ("key_version", "accepted_key_versions"):
            behaviour.pop(name, None)
        changed = json.dumps(behaviour)
        connection.execute(sa.update(doors).where(doors.c.id == door).values(behaviour=changed))
