"""Bindings follow from what doors sign: `card.bound`, in the transaction that stores the event."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.event_data import CardBound
from schemas.events import event_type
from server.ingest.heads import Row
from server.model.bindings import bind, serves

_BOUND = event_type("card.bound")


class Bound:
    """The projection, and whether a policy may change by what it wrote."""

    def __init__(self) -> None:
        self._changed = False

    def taken(self) -> bool:
        """Whether something was bound since the last time this was asked."""
        changed, self._changed = self._changed, False
        return changed

    async def project(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        """Take note of the cards that `rows` say are bound, each by the agent of that lock."""
        for row in rows:
            event = row.link.event
            if event.type != _BOUND:
                continue
            try:
                bound = CardBound.model_validate(event.data)
            except ValidationError:
                continue  # a newer agent's way to say it: kept as an event, and no more
            if not await serves(connection, row.source, bound.domain):
                continue  # nobody speaks for another's lock
            self._changed |= await bind(
                connection, bound.card, bound.domain, bound.key_version, event.id, event.time
            )
