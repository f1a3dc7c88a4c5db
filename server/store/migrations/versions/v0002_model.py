"""The management model; what doors were seen to be makes room for what they are meant to be."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Rename the projection of door events, and make the model's tables."""
    op.rename_table("doors", "door_states")
    if op.get_bind().dialect.name == "postgresql":  # there such names are unique
        op.execute("ALTER INDEX pk_doors RENAME TO pk_door_states")
    state = op.create_table(
        "model_state",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("timezone", sa.String(64), nullable=False),
        sa.Column("site_revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model_state"),
    )
    first = {"id": 1, "revision": 0, "name": "", "timezone": "UTC", "site_revision": 0}
    op.bulk_insert(state, [first])
    op.create_table(
        "calendars",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("days", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_calendars"),
    )
    op.create_table(
        "schedules",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("windows", sa.Text, nullable=False),
        sa.Column("special_days", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_schedules"),
    )
    op.create_table(
        "schedule_calendars",
        sa.Column("schedule", sa.String(63), nullable=False),
        sa.Column("calendar", sa.String(63), nullable=False),
        sa.Column("position", sa.SmallInteger, nullable=False),
        sa.Column("ranges", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("schedule", "calendar", name="pk_schedule_calendars"),
        sa.ForeignKeyConstraint(
            ["schedule"], ["schedules.id"], name="fk_schedule_calendars_schedule"
        ),
        sa.ForeignKeyConstraint(
            ["calendar"], ["calendars.id"], name="fk_schedule_calendars_calendar"
        ),
    )
    op.create_index("ix_schedule_calendars_calendar", "schedule_calendars", ["calendar"])
    op.create_table(
        "areas",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("parent", sa.String(63)),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_areas"),
        sa.ForeignKeyConstraint(["parent"], ["areas.id"], name="fk_areas_parent"),
    )
    op.create_index("ix_areas_parent", "areas", ["parent"])
    op.create_table(
        "doors",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("agent", sa.String(63)),
        sa.Column("area", sa.String(63)),
        sa.Column("readers", sa.String(20), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("suite", sa.String(8)),
        sa.Column("unlock_schedule", sa.String(63)),
        sa.Column("behaviour", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_doors"),
        sa.ForeignKeyConstraint(["area"], ["areas.id"], name="fk_doors_area"),
        sa.ForeignKeyConstraint(
            ["unlock_schedule"], ["schedules.id"], name="fk_doors_unlock_schedule"
        ),
    )
    op.create_index("ix_doors_agent", "doors", ["agent"])
    op.create_index("ix_doors_area", "doors", ["area"])
    op.create_index("ix_doors_domain", "doors", ["domain"])
    op.create_index("ix_doors_unlock_schedule", "doors", ["unlock_schedule"])
    op.create_table(
        "groups",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_groups"),
    )
    op.create_table(
        "persons",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("valid_from_us", sa.BigInteger),
        sa.Column("valid_until_us", sa.BigInteger),
        sa.Column("cleared", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_persons"),
    )
    op.create_table(
        "memberships",
        sa.Column("person", sa.String(63), nullable=False),
        sa.Column("group", sa.String(63), nullable=False),
        sa.Column("until_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("person", "group", name="pk_memberships"),
        sa.ForeignKeyConstraint(["person"], ["persons.id"], name="fk_memberships_person"),
        sa.ForeignKeyConstraint(["group"], ["groups.id"], name="fk_memberships_group"),
    )
    op.create_index("ix_memberships_group", "memberships", ["group"])
    op.create_table(
        "cards",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("person", sa.String(63), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("valid_from_us", sa.BigInteger),
        sa.Column("valid_until_us", sa.BigInteger),
        sa.Column("offline", sa.Boolean, nullable=False),
        sa.Column("slot", sa.SmallInteger, nullable=False),
        sa.Column("cleared", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cards"),
        sa.ForeignKeyConstraint(["person"], ["persons.id"], name="fk_cards_person"),
    )
    op.create_index("ix_cards_person", "cards", ["person"])
    op.create_index("ix_cards_slot", "cards", ["slot"])
    op.create_table(
        "rules",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("group", sa.String(63), nullable=False),
        sa.Column("schedule", sa.String(63), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rules"),
        sa.ForeignKeyConstraint(["group"], ["groups.id"], name="fk_rules_group"),
        sa.ForeignKeyConstraint(["schedule"], ["schedules.id"], name="fk_rules_schedule"),
    )
    op.create_index("ix_rules_group", "rules", ["group"])
    op.create_index("ix_rules_schedule", "rules", ["schedule"])
    op.create_table(
        "rule_doors",
        sa.Column("rule", sa.String(63), nullable=False),
        sa.Column("door", sa.String(63), nullable=False),
        sa.PrimaryKeyConstraint("rule", "door", name="pk_rule_doors"),
        sa.ForeignKeyConstraint(["rule"], ["rules.id"], name="fk_rule_doors_rule"),
        sa.ForeignKeyConstraint(["door"], ["doors.id"], name="fk_rule_doors_door"),
    )
    op.create_index("ix_rule_doors_door", "rule_doors", ["door"])
    op.create_table(
        "rule_areas",
        sa.Column("rule", sa.String(63), nullable=False),
        sa.Column("area", sa.String(63), nullable=False),
        sa.PrimaryKeyConstraint("rule", "area", name="pk_rule_areas"),
        sa.ForeignKeyConstraint(["rule"], ["rules.id"], name="fk_rule_areas_rule"),
        sa.ForeignKeyConstraint(["area"], ["areas.id"], name="fk_rule_areas_area"),
    )
    op.create_index("ix_rule_areas_area", "rule_areas", ["area"])
    op.create_table(
        "bindings",
        sa.Column("card", sa.String(16), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("key_version", sa.SmallInteger, nullable=False),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("card", "domain", name="pk_bindings"),
    )
    op.create_index("ix_bindings_domain", "bindings", ["domain"])
    op.create_table(
        "touched",
        sa.Column("id", _row_id, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("agent", sa.String(63)),
        sa.Column("slot", sa.SmallInteger),
        sa.PrimaryKeyConstraint("id", name="pk_touched"),
    )
    op.create_index("ix_touched_revision", "touched", ["revision"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("scopes", sa.String(100), nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("expires_us", sa.BigInteger),
        sa.Column("last_used_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("name", name="uq_tokens_name"),
    )
