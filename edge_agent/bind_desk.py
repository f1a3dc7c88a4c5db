"""Binds cards at the door: no issuing machine, only the list of the maker's transport keys."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from secrets import token_bytes

from edge_agent.app import Parts, opened
from edge_agent.card.application import UnlockQuestion
from edge_agent.card.binding import BindOutcome, BindResult, bind
from edge_agent.card.session import listed, perform
from edge_agent.config import Config, ConfigError
from edge_agent.core.trusted_time import TrustedTime
from edge_agent.readers.port import CardChannel, CardRemoved, Feedback
from edge_agent.recorder import Recorder
from edge_agent.secure_element.esam_chip import Lend
from edge_agent.secure_element.port import ElementUnavailable
from edge_agent.virtual.doorway import Doorway
from edge_agent.window_tap import HOLD_UP_AGAIN, NOT_KEPT

_ROW = re.compile(r"([0-9a-f]{16}),([0-9a-f]{32})")


def read_transport_keys(path: Path) -> dict[str, bytes]:
    """Card id to transport key, from a CSV file with the columns `card,transport_key` in hex.

    Raises ConfigError; the message shows no key.
    """
    keys: dict[str, bytes] = {}
    try:
        with path.open(newline="") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                if number == 1 and row[:1] == ["card"]:
                    continue
                match = _ROW.fullmatch(",".join(row).lower())
                if match is None:
                    raise ConfigError(
                        f"{path}: line {number} is not a card of 16 hex digits and a transport key"
                        " of 32"
                    )
                keys[match[1]] = bytes.fromhex(match[2])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: can't be read: {why}") from None
    return keys


async def bind_cards(
    config: Config,
    transport_keys: Mapping[str, bytes],
    count: int,
    *,
    ready: Callable[[str], None],
    bound: Callable[[str], None],
    refused: Callable[[str], None],
    lend: Lend | None = None,
) -> None:
    """Bind the next `count` cards at the first reader of the first door.

    `ready` is told the door once cards can be held up, `bound` each card's id once that is on the
    disk, `refused` why a card was not bound; `lend` serves an ESAM that holds the door's keys.
    Raises what `app.opened` raises, or ReaderUnavailable.
    """
    async with opened(config) as (parts, outbox, store), AsyncExitStack() as stack:
        door = config.doors[0]
        view = store.applied.doors.get(door.door) if store.applied else None
        settings = (view or parts.default_view(door.door)).settings
        for esam in parts.elements.esams:
            esam.lend = lend
        recorder = Recorder(outbox, parts.clock, TrustedTime(), config.agent, "bind")
        doorway = Doorway(config.doorway_path, parts.clock)
        reader = parts.open_reader(door, door.readers[0].direction, doorway)
        stack.push_async_callback(reader.close)
        await stack.enter_async_context(doorway)
        question = UnlockQuestion.of(
            config.site,
            settings,
            parts.elements.get(settings.domain, settings.suite).held,
            store.denied_versions(settings.domain),
            store.key_floor(settings.domain),
        )
        desk = _Desk(parts, question, transport_keys)
        ready(door.door)
        while count > 0:
            card = await reader.next_card()
            try:
                result = await desk.bind(card)
            except (CardRemoved, ElementUnavailable) as error:
                refused(str(error))
                removed = isinstance(error, CardRemoved)
                await reader.feedback(Feedback.TRY_AGAIN if removed else Feedback.ERROR)
                continue
            if result.card_id is None or result.outcome not in _DONE:
                refused(f"{result.card_id or 'a card without a serial'}: {result.outcome}")
                await reader.feedback(Feedback.DENIED)
                continue
            draft = recorder.about_door(
                "card.bound",
                door.door,
                card=result.card_id,
                domain=question.domain,
                key_version=question.key_version,
            )
            if not await recorder.record([draft]):
                refused(f"{result.card_id}: {NOT_KEPT}: {HOLD_UP_AGAIN}")
                await reader.feedback(Feedback.ERROR)
                continue
            count -= 1
            bound(result.card_id)
            await reader.feedback(Feedback.BOUND)


_DONE = (BindOutcome.BOUND, BindOutcome.ALREADY_BOUND)
"""The second too: it may have been bound just before the power went, and was never told of."""


class _Desk:
    def __init__(
        self, parts: Parts, question: UnlockQuestion, transport_keys: Mapping[str, bytes]
    ) -> None:
        self._parts = parts
        self._question = question
        self._keys = transport_keys

    async def bind(self, card: CardChannel) -> BindResult:
        question = self._question
        element = self._parts.elements.get(question.domain, question.suite)
        script = bind(question, token_bytes)
        return await perform(script, card, element, self._parts.clock, listed(self._keys))
