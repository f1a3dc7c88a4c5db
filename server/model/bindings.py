"""Bindings: which card holds keys of which domain, as doors say it in `card.bound` events."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clock import microseconds
from server.model.revisions import next_revision, touch
from server.store.model_tables import bindings, cards, doors, ended_bindings

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
    revision: int = 0,
) -> bool:
    """Take note that a card now holds keys of the domain, in the event's own transaction.

    `revision` is that of the window. Older news than what is known, as from a door that was cut
    off, changes no version. Returns whether a policy may change by it: if so, call
    `state.model_changed()` after the commit.
    """
    time_us = microseconds(time)
    values = {"key_version": key_version, "event": event_id, "time_us": time_us}
    ours = (bindings.c.card == card) & (bindings.c.domain == domain)
    query = select(bindings.c.time_us, bindings.c.revision).where(ours)
    known = (await connection.execute(query)).one_or_none()
    if known is not None:  # a policy says that a card is bound, not by which version
        news = {**values, "other_version": None} if time_us > known.time_us else {}
        newest = max(known.revision, revision)
        await connection.execute(update(bindings).where(ours).values(revision=newest, **news))
        return False
    change = await next_revision(connection)
    row = {"card": card, "domain": domain, "revision": revision, **values}
    await connection.execute(insert(bindings).values(row))
    return await _altered(connection, change, card, domain)


async def unbind(connection: AsyncConnection, card: str, domain: str, revision: int) -> bool:
    """An operator had it, at `revision`, that a card opens no door of the domain. As `bind`.

    What was bound in a window of later than that stays.
    """
    change = await next_revision(connection)
    await end(connection, [card], domain, revision)
    gone = await connection.execute(
        delete(bindings).where(
            bindings.c.card == card,
            bindings.c.domain == domain,
            bindings.c.revision < revision,
        )
    )
    return bool(gone.rowcount) and await _altered(connection, change, card, domain)


async def end(
    connection: AsyncConnection, some: Collection[str], domain: str, revision: int
) -> None:
    """Remember that an operator had the bindings of these cards in the domain ended.

    `EVERYWHERE` for the domain: the cards themselves were deleted.
    """
    ours = ended_bindings.c.card.in_(some) & (ended_bindings.c.domain == domain)
    await connection.execute(
        delete(ended_bindings).where(ours, ended_bindings.c.revision <= revision)
    )
    later = set(await connection.scalars(select(ended_bindings.c.card).where(ours)))
    rows = [
        {"card": card, "domain": domain, "revision": revision} for card in some if card not in later
    ]
    if rows:
        await connection.execute(insert(ended_bindings), rows)


async def was_ended(connection: AsyncConnection, card: str, domain: str, revision: int) -> bool:
    """Whether that came after a window of `revision` was opened."""
    query = select(ended_bindings.c.card).where(
        ended_bindings.c.card == card,
        ended_bindings.c.domain.in_((domain, EVERYWHERE)),
        ended_bindings.c.revision > revision,
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
