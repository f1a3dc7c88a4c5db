"""Drives a script: carries its commands to the card and its requests to the secure element.

A script is a generator without any I/O (as h11 and wsproto are): it yields a Step and is sent the
answer to it. This is the only place where the two meet the world, and where time is measured.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import TypeVar

from edge_agent.card.apdu import Command, MalformedApdu, Response
from edge_agent.card.script import (
    Admit,
    Answer,
    AskTransportKey,
    Check,
    Protect,
    ProtectKey,
    ProtectNextKey,
    Reply,
    Step,
    TransportKeyRefused,
)
from edge_agent.clock import Clock
from edge_agent.readers.port import CardChannel
from edge_agent.secure_element.port import ElementUnavailable, SecureElement
from schemas.transport import TransportRefusal

Result = TypeVar("Result")
TransportKeys = Callable[[bytes], Awaitable[bytes]]
"""The 16-byte transport key of a card, by its id. Raises TransportKeyRefused."""


def listed(keys: Mapping[str, bytes]) -> TransportKeys:
    """The transport keys of a list, by card id in hex."""

    async def look_up(card_id: bytes) -> bytes:
        try:
            return keys[card_id.hex()]
        except KeyError:
            raise TransportKeyRefused(
                TransportRefusal.UNKNOWN_KEY, f"the list has no transport key of {card_id.hex()}"
            ) from None

    return look_up


NO_TRANSPORT_KEYS = listed({})


async def perform(
    script: Generator[Step, Answer, Result],
    card: CardChannel,
    element: SecureElement,
    clock: Clock,
    transport_keys: TransportKeys = NO_TRANSPORT_KEYS,
) -> Result:
    """Run `script` to its end and return its result.

    MalformedApdu, ElementUnavailable and TransportKeyRefused are raised inside the script, which
    may turn them into a result. CardRemoved ends the script and is raised here.
    """
    try:
        step = next(script)
        while True:
            try:
                if isinstance(step, AskTransportKey):
                    answer: Answer = await transport_keys(step.card_id)
                else:
                    answer = await _answer(step, card, element, clock)
            except (MalformedApdu, ElementUnavailable, TransportKeyRefused) as error:
                step = script.throw(error)
            else:
                step = script.send(answer)
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        script.close()


async def _answer(
    step: Command | Admit | Check | ProtectKey | ProtectNextKey | Protect,
    card: CardChannel,
    element: SecureElement,
    clock: Clock,
) -> Answer:
    match step:
        case Command():
            asked = clock.monotonic()
            answer = await card.transmit(step.encode())
            elapsed_ms = (clock.monotonic() - asked) * 1000
            return Reply(Response.decode(answer), elapsed_ms)
        case Admit():
            return await element.admit(step.card_id, step.version, step.card_challenge)
        case Check():
            return await element.check(step.card_id, step.version, step.challenge, step.cryptogram)
        case ProtectKey():
            return await element.protect_key(
                step.card_id,
                step.version,
                step.purpose,
                key_header=step.key_header,
                command_header=step.command_header,
                card_challenge=step.card_challenge,
                transport_key=step.transport_key,
            )
        case ProtectNextKey():
            return await element.protect_next_key(
                step.card_id,
                step.version,
                step.purpose,
                key_header=step.key_header,
                command_header=step.command_header,
                card_challenge=step.card_challenge,
                under=step.under,
            )
        case Protect():
            return await element.protect(
                step.card_id,
                step.version,
                plaintext=step.plaintext,
                command_header=step.command_header,
                card_challenge=step.card_challenge,
            )
