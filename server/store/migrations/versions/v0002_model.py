"""The management model; what doors were seen to be makes room for what they are meant to be."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Rename the projection of door events, and make the model's tables."""
    op.rename_table("doors", "door_states")
