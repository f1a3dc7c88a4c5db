"""The management model's tables. Portable between SQLite and PostgreSQL; v0002 makes the same ones.

`revision` of an object is that of the change that last touched it: one counter for the whole model
(`model_state`), which every change takes first, so that changes come one after the other. Times
ending in `_us` are microseconds since 1970. `touched` says which agents' policies a change may
alter, until the compiler takes note. A door names its agent without a foreign key: a building can
be described before its devices are enrolled. So does a binding its card: doors tell of bindings.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    SmallInteger,
    String,
    Table,
    Text,
)

from server.store.tables import metadata

_NAME = String(63)
_TITLE = String(200)

model_state = Table(
    "model_state",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("name", _TITLE, nullable=False),
    Column("timezone", String(64), nullable=False),
    Column("site_revision", BigInteger, nullable=False),
)
"""One row: the counter of revisions, and the site."""

calendars = Table(
    "calendars",
    metadata,
    Column("id", _NAME, primary_key=True),
    Column("name", _TITLE, nullable=False),
    Column("days", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", _NAME, primary_key=True),
    Column("name", _TITLE, nullable=False),
    Column("windows", Text, nullable=False),
    Column("special_days", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

schedule_calendars = Table(
    "schedule_calendars",
    metadata,
    Column("schedule", _NAME, ForeignKey("schedules.id"), primary_key=True),
    Column("calendar", _NAME, ForeignKey("calendars.id"), primary_key=True, index=True),
    Column("position", SmallInteger, nullable=False),
    Column("ranges", Text, nullable=False),
)

areas = Table(
    "areas",
    metadata,
    Column("id", _NAME, primary_key=True),
    Column("name", _TITLE, nullable=False),
    Column("parent", _NAME, ForeignKey("areas.id"), index=True),
    Column("revision", BigInteger, nullable=False),
)

doors = Table(
    "doors",
    metadata,
    Column("id", _NAME, primary_key=True),
    Column("name", _TITLE, nullable=False),
    Column("agent", _NAME, index=True),
    Column("area", _NAME, ForeignKey("areas.id"), index=True),
    Column("readers", String(20), nullable=False),
    Column("domain", _NAME, nullable=False, index=True),
    Column("suite", String(8)),
    Column("unlock_schedule", _NAME, ForeignKey("schedules.id"), index=True),
    Column("behaviour", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

groups = Table(
    "groups",
    metadata,
    Column("id", _NAME, primary_key=True),
    Column("name", _TITLE, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

persons = Table(
    "persons",
    metadata,
    Column("id", _NAME, primary_key=True),
    Column("name", _TITLE, nullable=False),
    Column("note", Text, nullable=False),
    Column("valid_from_us", BigInteger),
    Column("valid_until_us", BigInteger),
    Column("cleared", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

memberships = Table(
    "memberships",
    metadata,
    Column("person", _NAME, ForeignKey("persons.id"), primary_key=True),
    Column("group", _NAME, ForeignKey("groups.id"), primary_key=True, index=True),
    Column("until_us", BigInteger),
)

cards = Table(
    "cards",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("person", _NAME, ForeignKey("persons.id"), nullable=False, index=True),
    Column("state", String(10), nullable=False),
    Column("note", Text, nullable=False),
    Column("valid_from_us", BigInteger),
    Column("valid_until_us", BigInteger),
    Column("offline", Boolean, nullable=False),
    Column("slot", SmallInteger, nullable=False, index=True),
    Column("cleared", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
)
"""`slot` is 64 * first + second of `schemas.card_chunks.slots`: 0 to 4095."""

rules = Table(
    "rules",
    metadata,
    Column("id", _NAME, primary_key=True),
    Column("name", _TITLE, nullable=False),
    Column("group", _NAME, ForeignKey("groups.id"), nullable=False, index=True),
    Column("schedule", _NAME, ForeignKey("schedules.id"), nullable=False, index=True),
    Column("revision", BigInteger, nullable=False),
)

rule_doors = Table(
    "rule_doors",
    metadata,
    Column("rule", _NAME, ForeignKey("rules.id"), primary_key=True),
    Column("door", _NAME, ForeignKey("doors.id"), primary_key=True, index=True),
)

rule_areas = Table(
    "rule_areas",
    metadata,
    Column("rule", _NAME, ForeignKey("rules.id"), primary_key=True),
    Column("area", _NAME, ForeignKey("areas.id"), primary_key=True, index=True),
)

bindings = Table(
    "bindings",
    metadata,
    Column("card", String(16), primary_key=True),
    Column("domain", _NAME, primary_key=True, index=True),
    Column("key_version", SmallInteger, nullable=False),
    Column("other_version", SmallInteger),
    Column("event", String(40), nullable=False),
    Column("time_us", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default="0"),
)
"""`revision`: of the window in which it was bound, 0 without one."""

ended_bindings = Table(
    "ended_bindings",
    metadata,
    Column("card", String(16), primary_key=True),
    Column("domain", _NAME, primary_key=True),
    Column("revision", BigInteger, nullable=False),
)
"""At which revision an operator last had a binding ended: what a window of before it brings comes
late. A domain that is the empty text: the card was deleted, with all that belonged to it."""

touched = Table(
    "touched",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("revision", BigInteger, nullable=False, index=True),
    Column("agent", _NAME),
    Column("slot", SmallInteger),
)
"""No agent: all of them. Slot: the cards of that slot; none: all cards; -1: no card at all."""

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", _NAME, nullable=False, unique=True),
    Column("hash", String(64), nullable=False),
    Column("scopes", String(100), nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("created_by", String(100), nullable=False),
    Column("expires_us", BigInteger),
    Column("last_used_us", BigInteger),
)
