"""What locks say of their keys: kept in the transaction that stores their signed events.

`keys.held` is the receipt of all that is done with keys at a lock. A good card that was refused by
its key version is what no rotation may cause; `watched` are the domains in which that is looked at.
There a grant also says which version a card has: one that was taken away at the last moment of a
re-keying has the new version, and nobody was told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.event_data import KeysHeld, KeysRefused
from schemas.events import event_name
from schemas.reasons import Reason
from server.clock import Clock
from server.core.rotation import Picture
from server.ingest.alone import alone
from server.ingest.heads import Row
from server.model.bindings import rekey, serves, serving
from server.store.model_tables import bindings, cards
from server.store.revocations import denied_versions
from server.store.rotations import LockedOut, add_lockout, put_pictures

BY_VERSION = frozenset(
    {
        Reason.KEY_VERSION_UNSUPPORTED,
        Reason.KEY_VERSION_RETIRED,
        Reason.SECURE_ELEMENT_UNAVAILABLE,
    }
)
_OURS = frozenset({"keys.held", "keys.refused", "access.denied", "access.granted"})


@dataclass
class News:
    """What was said since it was last asked, by agent and domain."""

    pictures: dict[tuple[str, str], Picture] = field(default_factory=dict)
    refusals: dict[tuple[str, str], KeysRefused] = field(default_factory=dict)
    locked_out: bool = False
    """Somebody with a good card was: there is one more to be counted."""

    def __bool__(self) -> bool:
        return bool(self.pictures or self.refusals or self.locked_out)


class LockKeys:
    """The projection, and what is new by it. `watched`: domain -> versions that have to open."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.watched: Mapping[str, frozenset[int]] = {}
        self._news = News()

    def taken(self) -> News:
        """What is committed and was not taken yet: call it after a commit."""
        news, self._news = self._news, News()
        return news

    async def project(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        """Take note of what `rows` say, each agent of the locks it serves."""
        self._news = News()  # of a commit that failed nothing is so
        told: dict[tuple[str, str], tuple[KeysHeld, datetime]] = {}
        for row in rows:
            event = row.link.event
            name = event_name(event.type)
            if name not in _OURS:
                continue
            try:
                if name == "keys.held":
                    held = KeysHeld.model_validate(event.data)
                    told[row.source, held.domain] = held, event.time
                elif name == "keys.refused":
                    refused = KeysRefused.model_validate(event.data)
                    self._news.refusals[row.source, refused.domain] = refused
                elif name == "access.granted":
                    await self._opened(connection, row)
                elif str(event.data.get("reason")) in BY_VERSION:
                    async with alone(connection, row):
                        await self._denied(connection, row)
            except ValidationError:
                continue  # a newer agent's way to say it: kept as an event, and no more
        if told:
            await self._held(connection, told)

    async def _held(
        self,
        connection: AsyncConnection,
        told: Mapping[tuple[str, str], tuple[KeysHeld, datetime]],
    ) -> None:
        theirs = await serving(connection, told)  # nobody speaks for another's lock
        ours = {who: each for who, each in told.items() if who in theirs}
        await put_pictures(connection, ours)
        for who, (held, _) in ours.items():
            self._news.pictures[who] = Picture(held.held, held.floor, held.preferred, held.accepted)

    async def _opened(self, connection: AsyncConnection, row: Row) -> None:
        event = row.link.event
        domain, card = str(event.data.get("domain")), str(event.data.get("card"))
        proved = event.data.get("key_version")
        if type(proved) is not int or proved not in self.watched.get(domain, ()):
            return
        query = select(bindings.c.key_version, bindings.c.other_version).where(
            bindings.c.card == card, bindings.c.domain == domain
        )
        bound = (await connection.execute(query)).one_or_none()
        if bound is None or proved in (bound.key_version, bound.other_version):
            return
        if await serves(connection, row.source, domain):
            versions = bound.key_version, proved
            # never later than now, else nothing that is true came after it
            time = min(event.time, self._clock.now())
            await rekey(connection, card, domain, *versions, event.id, time)

    async def _denied(self, connection: AsyncConnection, row: Row) -> None:
        event, data = row.link.event.id, row.link.event.data
        domain, card = str(data.get("domain")), str(data.get("card"))
        opens = self.watched.get(domain)
        if opens is None or not await serves(connection, row.source, domain):
            return
        query = (
            select(bindings.c.key_version, bindings.c.other_version)
            .join(cards, cards.c.id == bindings.c.card)
            .where(bindings.c.card == card, bindings.c.domain == domain)
            .where(cards.c.state == "active")
        )
        bound = (await connection.execute(query)).one_or_none()
        if bound is None:
            return
        opens -= await denied_versions(connection, domain)  # cards of those are refused on purpose
        if opens & {bound.key_version, bound.other_version}:
            out = LockedOut(event, domain, card, row.source, str(data.get("door"))[:63])
            await add_lockout(connection, out)
            self._news.locked_out = True
