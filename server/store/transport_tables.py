"""Transport keys of new cards, and the windows that operators opened to bind and unbind cards.

No column holds a key: `sealed` is under the site's key-encryption key (`schemas.sealed`).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from server.store.tables import metadata

transport_keys = Table(
    "transport_keys",
    metadata,
    Column("card", String(16), primary_key=True),
    Column("source", String(8), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("kept", Boolean, nullable=False),
    Column("added_us", BigInteger, nullable=False),
)
"""Of the maker's list; and of other cards, the one that was given. `kept`: a card was bound with
it, so it is the card's, and stays, for unbinding writes it back."""

transport_roots = Table(
    "transport_roots",
    metadata,
    Column("source", String(8), primary_key=True),
    Column("suite", String(8), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("added_us", BigInteger, nullable=False),
)
"""At most two: a batch's master key (`derived`) and a product's default (`default`)."""

windows = Table(
    "windows",
    metadata,
    Column("command", String(16), primary_key=True),
    Column("agent", String(63), nullable=False),
    Column("door", String(63), nullable=False),
    Column("domain", String(63), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("person", String(63)),
    Column("card", String(16)),
    Column("direction", String(4), nullable=False),
    Column("opened_by", String(100), nullable=False),
    Column("opened_us", BigInteger, nullable=False),
    Column("until_us", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("outcome", String(100)),
    Column("detail", Text, nullable=False),
    Column("came", String(16)),
    Column("news", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default="0"),
)
"""`domain` is the door's when it was opened; `came` the card that the last event was about; `news`
counts the events; `revision` is the model's when it was opened."""

window_cards = Table(
    "window_cards",
    metadata,
    Column("command", String(16), ForeignKey("windows.command"), primary_key=True),
    Column("card", String(16), primary_key=True),
)
"""The cards whose transport key was given in a window."""
