"""Bindings: which card holds keys of which domain, as doors say it in `card.bound` events."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clock import microseconds
from server.model.revisions import next_revision, touch
from server.store.model_tables import bindings, cards, doors, ended_bindings

MAX_KEY_VERSION = 255
EVERYWHERE = ""
"""In place of a domain: all of them."""


async def serves(connection: AsyncConnection, agent: str, domain: str) -> bool:
    """Whether a door of the agent is in the domain: no other agent's word on it counts."""
    return bool(await serving(connection, {(agent, domain)}))


async def serving(
    connection: AsyncConnection, pairs: Collection[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Those of these agents and domains of which an agent `serves` the domain."""
    query = (
        select(doors.c.agent, doors.c.domain)
        .where(doors.c.agent.in_({agent for agent, _ in pairs}))
        .where(doors.c.domain.in_({domain for _, domain in pairs}))
    )
    return {(agent, domain) for agent, domain in await connection.execute(query)} & {*pairs}


async def is_bound(connection: AsyncConnection, card: str, domain: str) -> bool:
    """Whether the card holds keys of the domain, as far as is known."""
    query = select(bindings.c.card).where(bindings.c.card == card, bindings.c.domain == domain)
    return await connection.scalar(query) is not None


async def bind(  # noqa: PLR0917 an event's words, in their order
    connection: AsyncConnection,
    card: str,
    domain: str,
    key_version: int,
    event_id: str,
    time: datetime,
) -> bool:
    """Take note that a card now holds keys of the domain, in the event's own transaction.

    Older news than what is known, as from a door that was cut off, changes nothing. Returns whether
    a policy may change by it: if so, call `state.model_changed()` after the commit.
    """
    if not 1 <= key_version <= MAX_KEY_VERSION:
        return False  # a device's nonsense, which a database's column might not hold
    time_us = microseconds(time)
    values = {"key_version": key_version, "event": event_id, "time_us": time_us}
    ours = (bindings.c.card == card) & (bindings.c.domain == domain)
    known_us = await connection.scalar(select(bindings.c.time_us).where(ours))
    if known_us is not None:  # a policy says that a card is bound, not by which version
        if time_us > known_us:
            known = update(bindings).where(ours)
            await connection.execute(known.values(**values, other_version=None))
        return False
    revision = await next_revision(connection)
    await connection.execute(insert(bindings).values(card=card, domain=domain, **values))
    return await _altered(connection, revision, card, domain)


async def unbind(
    connection: AsyncConnection, card: str, domain: str, ordered: datetime, said: datetime | None
) -> bool:
    """Take note that a card opens no door of the domain any more. Returns as `bind` does.

    `ordered` is when an operator had it so. A binding that is newer than a door `said` so stays.
    """
    revision = await next_revision(connection)
    await end(connection, [card], domain, ordered)
    query = delete(bindings).where(bindings.c.card == card, bindings.c.domain == domain)
    if said is not None:
        query = query.where(bindings.c.time_us <= microseconds(said))
    gone = await connection.execute(query)
    return bool(gone.rowcount) and await _altered(connection, revision, card, domain)


async def end(
    connection: AsyncConnection, some: Collection[str], domain: str, ordered: datetime
) -> None:
    """Remember when an operator had it that these cards are bound in a domain no more.

    `EVERYWHERE` for the domain: the cards themselves were deleted.
    """
    old = delete(ended_bindings).where(
        ended_bindings.c.card.in_(some), ended_bindings.c.domain == domain
    )
    await connection.execute(old)
    ended_us = microseconds(ordered)
    rows = [{"card": card, "domain": domain, "ended_us": ended_us} for card in some]
    await connection.execute(insert(ended_bindings), rows)


async def was_ended(connection: AsyncConnection, card: str, domain: str, since: datetime) -> bool:
    """Whether `end` was said of the card and domain after `since`."""
    query = select(ended_bindings.c.card).where(
        ended_bindings.c.card == card,
        ended_bindings.c.domain.in_((domain, EVERYWHERE)),
        ended_bindings.c.ended_us > microseconds(since),
    )
    return await connection.scalar(query.limit(1)) is not None


async def rekey(  # noqa: PLR0917 an event's words, in their order
    connection: AsyncConnection,
    card: str,
    domain: str,
    from_version: int,
    key_version: int,
    event_id: str,
    time: datetime,
) -> None:
    """Take note that a card has another version now, beside the one it opened with.

    No policy says by which version a card is bound, so none changes.
    """
    time_us = microseconds(time)
    await connection.execute(
        update(bindings)
        .where(bindings.c.card == card, bindings.c.domain == domain, bindings.c.time_us < time_us)
        .values(
            key_version=key_version, other_version=from_version, event=event_id, time_us=time_us
        )
    )


async def _altered(connection: AsyncConnection, revision: int, card: str, domain: str) -> bool:
    slot = await connection.scalar(select(cards.c.slot).where(cards.c.id == card))
    if slot is None:
        return False
    query = select(doors.c.agent).where(doors.c.domain == domain, doors.c.agent.is_not(None))
    agents = set(await connection.scalars(query))
    await touch(connection, revision, {agent: {slot} for agent in agents})
    return bool(agents)
