"""Bindings follow from what doors sign, in the transaction that stores the event.

What a door says of a window counts only as far as the server itself recorded that window, when the
operator opened it: whose card it is for, at which agent, and of which cards the transport key was
given there. A card that is not known yet becomes that person's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.event_data import (
    CardBound,
    CardData,
    CardRekeyed,
    CardUnbound,
    CommandRefused,
    EventData,
    WindowEnded,
)
from schemas.events import EventLine, event_name
from schemas.server_event_data import ModelChanged
from server.clock import Clock, microseconds
from server.ingest.alone import alone
from server.ingest.heads import Row
from server.ingest.verify import AlarmKind, Refusal
from server.model.altered import altered
from server.model.bindings import bind, is_bound, rekey, serves, unbind, was_ended
from server.model.bodies import Card
from server.model.kinds import CARDS
from server.model.revisions import next_revision, touch, touch_all
from server.store.announcements import announce
from server.store.model_tables import cards, persons
from server.store.transport import keep_key
from server.store.windows import State, Window, is_given, read_window, tell_window

_DATA: dict[str, type[EventData]] = {
    "card.bound": CardBound,
    "card.unbound": CardUnbound,
    "card.rekeyed": CardRekeyed,
    "card.not_bound": WindowEnded,
    "command.refused": CommandRefused,
}
_LAST: dict[str, State] = {"nobody_came": "not_bound", "replaced": "ended"}
"""The outcomes that end a window; after any other it goes on."""
ENDED = "binding_ended"
"""The outcome of a card that was bound, when its binding was ended meanwhile."""
_ENDED_SINCE = "an operator ended the binding of card {} in {}"


class _Unbelievable(Exception):
    """Why what a door says is not taken."""


@dataclass
class Taken:
    """What followed from the rows of one commit."""

    policies: bool = False
    """A policy may change."""
    announced: bool = False
    alarms: list[Refusal] = field(default_factory=list)


class Bound:
    """The projection."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._taken = Taken()

    def taken(self) -> Taken:
        """What followed from the last commit; nothing if it is asked again."""
        taken, self._taken = self._taken, Taken()
        return taken

    async def project(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        """Take note of what `rows` say of cards, each by the agent of that lock."""
        self._taken = Taken()  # of a commit that failed nothing followed
        for row in rows:
            event = row.link.event
            model = _DATA.get(event_name(event.type))
            if model is None:
                continue
            try:
                data = model.model_validate(
                    {k: v for k, v in event.data.items() if k in model.model_fields}
                )
            except ValidationError:
                continue  # a newer agent's way to say it: kept as an event, and no more
            async with alone(connection, row):
                try:
                    await self._take(connection, row.source, event, data)
                except _Unbelievable as why:
                    name = event_name(event.type)
                    said = f"agent {row.source} says in {event.id} ({name}): {why}"
                    self._taken.alarms.append(Refusal(AlarmKind.BINDING_REFUSED, row.source, said))

    async def _take(
        self, connection: AsyncConnection, agent: str, event: EventLine, data: EventData
    ) -> None:
        match data:
            case CardBound():
                await self._bound(connection, agent, event, data)
            case CardUnbound():
                await self._unbound(connection, agent, data)
            case CardRekeyed():
                await _serves(connection, agent, data.domain)
                version = data.from_version, data.key_version
                time = self._said(event)
                await rekey(connection, data.card, data.domain, *version, event.id, time)
            case WindowEnded():
                await _tell(connection, agent, data)
            case CommandRefused():
                window = await read_window(connection, data.command)
                if window is not None and window.agent == agent and window.state == "open":
                    told = data.reason[:100], data.detail, None
                    await tell_window(connection, window.command, "refused", *told)

    async def _bound(
        self, connection: AsyncConnection, agent: str, event: EventLine, data: CardBound
    ) -> None:
        card, domain = data.card, data.domain
        revision = 0
        if data.command is None:
            await _serves(connection, agent, domain)
            ended = await was_ended(connection, card, domain, 0)
            if ended and not await is_bound(connection, card, domain):
                raise _Unbelievable(f"{_ENDED_SINCE.format(card, domain)}: it needs a window")
        else:
            window = await _window(connection, agent, data, data.command)
            if window.kind != "bind" or window.person is None:
                raise _Unbelievable(f"the window {window.command} is not to bind")
            if not await is_given(connection, window.command, card):
                raise _Unbelievable(f"the key of card {card} was not given in this window")
            if window.state == "bound" and window.came != card:
                raise _Unbelievable(f"in the window {window.command} a card was bound already")
            revision = window.revision
            await keep_key(connection, card)  # which it was bound with, whatever it counts for
            if await was_ended(connection, card, domain, revision):
                why = _ENDED_SINCE.format(card, domain)
                await tell_window(connection, window.command, "not_bound", ENDED, why, card)
                raise _Unbelievable(f"{why}, after the window {window.command} was opened")
            await self._belongs(connection, card, window.person, window.opened_by)
            await tell_window(connection, window.command, "bound", None, "", card)
        self._taken.policies |= await bind(
            connection, card, domain, data.key_version, event.id, self._said(event), revision
        )

    async def _unbound(self, connection: AsyncConnection, agent: str, data: CardUnbound) -> None:
        if data.command is None:
            raise _Unbelievable(f"card {data.card} was unbound without a window")
        window = await _window(connection, agent, data, data.command)
        if window.kind != "unbind" or window.card != data.card:
            raise _Unbelievable(f"the window {window.command} is not to unbind card {data.card}")
        if window.state == "unbound":
            raise _Unbelievable(f"in the window {window.command} the card was unbound already")
        await tell_window(connection, window.command, "unbound", None, "", data.card)
        self._taken.policies |= await unbind(connection, data.card, data.domain, window.revision)

    def _said(self, event: EventLine) -> datetime:
        """When the door said it: never later than now, else nothing that is true came after it."""
        return min(event.time, self._clock.now())

    async def _belongs(
        self, connection: AsyncConnection, card: str, person: str, opened_by: str
    ) -> None:
        """See that the card is the person's; one that is not known becomes it."""
        owner = await connection.scalar(select(cards.c.person).where(cards.c.id == card))
        if owner == person:
            return
        if owner is not None:
            raise _Unbelievable(f"card {card} is {owner}'s, the window was for {person}")
        if await connection.scalar(select(persons.c.id).where(persons.c.id == person)) is None:
            raise _Unbelievable(f"the window was for {person}, who is not there any more")
        revision = await next_revision(connection)
        row = CARDS.row(card, Card(person=person))
        await connection.execute(insert(cards).values(id=card, revision=revision, cleared=0, **row))
        policies = await altered(connection, CARDS, [card])
        if policies is None:
            await touch_all(connection, revision)
        else:
            await touch(connection, revision, policies)
        said = ModelChanged(by=opened_by, kind=CARDS.name, id=card, action="created")
        now_us = microseconds(self._clock.now())
        await announce(connection, "model.changed", f"{CARDS.plural}/{card}", said, now_us)
        self._taken.announced = True
        self._taken.policies |= bool(policies)


async def _serves(connection: AsyncConnection, agent: str, domain: str) -> None:
    """Nobody speaks for another's lock. Raises _Unbelievable."""
    if not await serves(connection, agent, domain):
        raise _Unbelievable(f"no door of the agent is in key domain {domain}")


async def _window(connection: AsyncConnection, agent: str, data: CardData, command: str) -> Window:
    """The window in which the agent may say this."""
    window = await read_window(connection, command)
    if window is None:
        raise _Unbelievable(f"the server has opened no window {command}")
    if window.agent != agent:
        raise _Unbelievable(f"the window {command} is of agent {window.agent}")
    if window.domain != data.domain:
        raise _Unbelievable(f"the window {command} is of {window.domain}, not {data.domain}")
    if window.state == "refused":
        raise _Unbelievable(f"the window {command} was refused by the door")
    return window


async def _tell(connection: AsyncConnection, agent: str, data: WindowEnded) -> None:
    window = await read_window(connection, data.command)
    if window is None or window.agent != agent or window.state != "open":
        return
    state = _LAST.get(data.outcome, "open")
    await tell_window(connection, window.command, state, data.outcome, data.detail, data.card)
