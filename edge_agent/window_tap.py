"""A card at a reader where a window is open: bound, unbound, or left to the ordinary tap."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from edge_agent.card.apdu import MalformedApdu
from edge_agent.card.application import UnlockQuestion, select_root
from edge_agent.card.binding import BindOutcome, BindResult, bind
from edge_agent.card.script import TransportKeyRefused
from edge_agent.card.session import perform
from edge_agent.card.unbinding import unbind
from edge_agent.core.decision import Direction
from edge_agent.house import House
from edge_agent.log import log
from edge_agent.readers.port import CardChannel, CardRemoved, Feedback, Reader
from edge_agent.secure_element.port import ElementUnavailable, SecureElement
from edge_agent.transport_keys import NO_ANSWER, NO_CONNECTION, Given
from edge_agent.windows import Window, Windows
from schemas.reasons import Reason
from schemas.transport import TransportRefusal

WINDOW_TIMEOUT_S = 20.0
"""For the whole conversation: the server is asked twice at most, and the card is slow to write."""

_GOOD = (BindOutcome.BOUND, BindOutcome.ALREADY_BOUND, BindOutcome.UNBOUND)
CARD_REMOVED, TIMED_OUT, UNAVAILABLE, NOT_KEPT = (
    "card_removed",
    "timed_out",
    "element_unavailable",
    "not_kept",
)
HOLD_UP_AGAIN = "the event could not be stored: hold the card up again"
_TRY_AGAIN = (CARD_REMOVED, TIMED_OUT, NO_ANSWER, NO_CONNECTION)
_ERROR = (UNAVAILABLE, NOT_KEPT, TransportRefusal.FAILED)


@dataclass(frozen=True)
class _Asked:
    """What a card is asked at the door now, and by which element."""

    question: UnlockQuestion
    element: SecureElement


class WindowTap:
    """The cards at one reader of a door that has windows."""

    def __init__(
        self, door: str, direction: Direction, house: House, windows: Windows, reader: Reader
    ) -> None:
        self._door = door
        self._direction = direction
        self._house = house
        self._windows = windows
        self._reader = reader
        self._keys = house.transport_keys

    async def take(self, card: CardChannel) -> bool:
        """Whether the card was for a window; if not, it is to be decided on as any card.

        What was done is durable before the reader shows it. Raises CardRemoved or TimeoutError if
        the card went away before it was known.
        """
        window = self._windows.at(self._direction)
        if window is None:
            return False
        asked = self._asked()
        with self._house.elements.giving.by(asked.question):
            return await self._take(window, card, asked)

    async def _take(self, window: Window, card: CardChannel, asked: _Asked) -> bool:
        until = asyncio.get_running_loop().time() + WINDOW_TIMEOUT_S
        async with asyncio.timeout_at(until):
            card_id = await self._card_id(card, asked)
        if not self._windows.is_open(window):  # it was just replaced, or ended
            return False
        if not self._is_for(window, card_id, asked.question.domain):
            return False
        window.busy = window.met = True
        try:
            await self._reader.feedback(await self._serve(window, card, card_id, asked, until))
            return True
        finally:
            window.busy = False
            self._windows.rest(window)

    def _asked(self) -> _Asked:
        question = self._house.question(self._house.view(self._door))
        return _Asked(question, self._house.elements.get(question.domain, question.suite))

    async def _card_id(self, card: CardChannel, asked: _Asked) -> bytes | None:
        try:
            return await perform(select_root(), card, asked.element, self._house.recorder.clock)
        except MalformedApdu:
            return None

    def _is_for(self, window: Window, card_id: bytes | None, domain: str) -> bool:
        """What is bound here goes its way, unless its keys are to be taken from it."""
        if card_id is None:
            return True
        if window.unbinds and card_id.hex() == window.command.card:
            return True
        held = self._house.store.find(card_id.hex()).card
        return held is None or domain not in held.domains

    async def _serve(
        self,
        window: Window,
        card: CardChannel,
        card_id: bytes | None,
        asked: _Asked,
        until: float,
    ) -> Feedback:
        given: Given | None = None

        async def transport_key(of: bytes) -> bytes:
            nonlocal given
            if of != card_id:
                raise TransportKeyRefused(BindOutcome.NOT_OUR_CARD, "it says another serial now")
            given = await self._keys.ask(window.command.id, of)
            return given.key

        try:
            async with asyncio.timeout_at(until):
                result = self._refused_here(window, card_id, asked.question)
                if result is None:
                    assert card_id is not None
                    script = bind(asked.question, self._house.random)
                    if window.unbinds:
                        script = unbind(asked.question)
                    with self._keys.lending(window.command.id, card_id):
                        result = await perform(
                            script, card, asked.element, self._house.recorder.clock, transport_key
                        )
                    if result.outcome == BindOutcome.ALREADY_BOUND:
                        await transport_key(card_id)  # whether it may be is the server's to say
        except TransportKeyRefused as refusal:
            result = _ended(card_id, refusal.outcome, str(refusal))
        except CardRemoved as error:
            result = _ended(card_id, CARD_REMOVED, str(error))
        except TimeoutError:
            result = _ended(card_id, TIMED_OUT, f"it took more than {WINDOW_TIMEOUT_S:g} s")
        except ElementUnavailable as error:
            result = _ended(card_id, UNAVAILABLE, str(error))
        except Exception as error:
            log.exception("window_tap_failed", door=self._door, command=window.command.id)
            result = _ended(card_id, TransportRefusal.FAILED, f"{type(error).__name__}: {error}")
        return await self._end(window, result, asked.question, given)

    def _refused_here(
        self, window: Window, card_id: bytes | None, question: UnlockQuestion
    ) -> BindResult | None:
        if card_id is None:
            return _ended(None, BindOutcome.NOT_OUR_CARD)
        if window.command.card not in (None, card_id.hex()):
            return _ended(card_id, TransportRefusal.OTHER_CARD, "the window is for another card")
        if card_id in window.refused:
            return _ended(
                card_id, BindOutcome.TRANSPORT_KEY_REFUSED, "not tried again: tries are few"
            )
        version, domain, store = question.key_version, question.domain, self._house.store
        if not window.unbinds and (
            version in store.denied_versions(domain) or version < store.key_floor(domain)
        ):
            return _ended(card_id, Reason.KEY_VERSION_RETIRED, f"version {version} of {domain}")
        return None

    async def _end(
        self, window: Window, result: BindResult, question: UnlockQuestion, given: Given | None
    ) -> Feedback:
        """Record it; a window that was used up is closed."""
        outcome, card, detail = str(result.outcome), result.card_id, result.detail
        log.info("window_tap", door=self._door, command=window.command.id, card=card, why=outcome)
        if outcome in _GOOD:
            data: dict[str, Any] = {"card": card, "domain": question.domain}
            if not window.unbinds and given is not None:
                data |= {
                    "key_version": question.key_version,
                    "person": window.command.person,
                    "transport": given.source,
                }
            if await self._windows.done(window, **data):
                self._windows.close(window)
                return Feedback.BOUND
            outcome, detail = NOT_KEPT, HOLD_UP_AGAIN
        if outcome == BindOutcome.TRANSPORT_KEY_REFUSED and card is not None:
            window.refused.add(bytes.fromhex(card))
        await self._windows.tell(window, outcome, card=card, detail=detail)
        if not self._windows.is_open(window):
            await self._windows.tell(window, "replaced")
        return _feedback(outcome)


def _ended(card_id: bytes | None, outcome: str, detail: str = "") -> BindResult:
    return BindResult(None if card_id is None else card_id.hex(), outcome, detail)


def _feedback(outcome: str) -> Feedback:
    if outcome in _TRY_AGAIN:
        return Feedback.TRY_AGAIN
    return Feedback.ERROR if outcome in _ERROR else Feedback.DENIED
