"""The windows that operators opened, as rows: what a door may do, and what it says came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.command import Action, Command
from server.clock import from_microseconds, microseconds
from server.store.model_tables import doors
from server.store.transport_tables import window_cards, windows

Kind = Literal["bind", "unbind"]
State = Literal["open", "bound", "unbound", "not_bound", "ended", "refused"]


@dataclass(frozen=True)
class Window:
    """A window as the server itself recorded it, before the door heard of it.

    `state` is by the events alone; `server.distribution.windows` knows of time. `came` is the card
    of the last event, `news` how many there were. `revision` orders it among the ends of bindings.
    """

    command: str
    agent: str
    door: str
    domain: str
    kind: Kind
    person: str | None
    card: str | None
    direction: Literal["in", "out"]
    opened_by: str
    opened: datetime
    until: datetime
    state: State
    outcome: str | None
    detail: str
    came: str | None
    news: int
    revision: int


async def add_window(connection: AsyncConnection, command: Command, by: str, revision: int) -> None:
    """Record it, in the transaction that records the command."""
    assert command.until is not None
    domain = await connection.scalar(select(doors.c.domain).where(doors.c.id == command.door))
    await connection.execute(
        insert(windows).values(
            command=command.id,
            agent=command.audience,
            door=command.door,
            domain=domain,
            kind="unbind" if command.action is Action.UNBINDING_WINDOW else "bind",
            person=command.person,
            card=command.card,
            direction=command.direction,
            opened_by=by,
            opened_us=microseconds(command.issued),
            until_us=microseconds(command.until),
            state="open",
            detail="",
            news=0,
            revision=revision,
        )
    )


async def read_window(connection: AsyncConnection, command: str) -> Window | None:
    """The window that a command opened."""
    query = select(windows).where(windows.c.command == command)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    values = dict(row._mapping)
    opened, until = values.pop("opened_us"), values.pop("until_us")
    return Window(**values, opened=from_microseconds(opened), until=from_microseconds(until))


async def tell_window(  # noqa: PLR0917 an event's words, in their order
    connection: AsyncConnection,
    command: str,
    state: State,
    outcome: str | None,
    detail: str,
    came: str | None,
) -> None:
    """What its door says came of it."""
    await connection.execute(
        update(windows)
        .where(windows.c.command == command)
        .values(state=state, outcome=outcome, detail=detail, came=came, news=windows.c.news + 1)
    )


async def is_given(connection: AsyncConnection, command: str, card: str) -> bool:
    """Whether the card's transport key was given in this window."""
    query = select(window_cards.c.card).where(
        window_cards.c.command == command, window_cards.c.card == card
    )
    return await connection.scalar(query) is not None


async def count_given(connection: AsyncConnection, command: str) -> int:
    """Of how many cards the transport key was given."""
    query = select(func.count()).where(window_cards.c.command == command)
    return await connection.scalar(query) or 0


async def note_given(connection: AsyncConnection, command: str, card: str) -> None:
    """The card's transport key is given now, for the first time in this window."""
    await connection.execute(insert(window_cards).values(command=command, card=card))
