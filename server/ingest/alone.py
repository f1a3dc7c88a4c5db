"""What follows from one event, apart from all others: no content of an event holds up the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from sqlalchemy.exc import DataError
from sqlalchemy.ext.asyncio import AsyncConnection

from server.ingest.heads import Row
from server.store.database import DATABASE_ERRORS

log = structlog.get_logger(__name__)


@asynccontextmanager
async def alone(connection: AsyncConnection, row: Row) -> AsyncIterator[None]:
    """What is written inside is written whole, or, if it fails because of what `row` says, not.

    The event itself is stored all the same: before this, for it is a write that begins SQLite's
    transaction. Raises what the database raises if it is in trouble.
    """
    try:
        async with connection.begin_nested():
            yield
    except Exception as error:
        if isinstance(error, DATABASE_ERRORS) and not isinstance(error, DataError):
            raise
        log.exception("event_not_taken", event=row.link.event.id, source=row.source)
