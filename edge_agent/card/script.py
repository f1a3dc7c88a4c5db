"""The steps a card script may yield, the answers it is sent, and one typed question for each."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TypeVar

from edge_agent.card.apdu import Command, Response
from edge_agent.secure_element.port import Purpose

Result = TypeVar("Result")


@dataclass(frozen=True)
class Reply:
    """The card's answer to a Command, and how long it took."""

    response: Response
    elapsed_ms: float


@dataclass(frozen=True)
class Admit:
    """To the element: answer the card's challenge. Sent: 16 bytes."""

    card_id: bytes
    version: int
    card_challenge: bytes


@dataclass(frozen=True)
class Check:
    """To the element: is this the answer to our challenge? Sent: bool."""

    card_id: bytes
    version: int
    challenge: bytes
    cryptogram: bytes


@dataclass(frozen=True)
class ProtectKey:
    """To the element: the body of WRITE KEY under the transport key. Sent: bytes."""

    card_id: bytes
    version: int
    purpose: Purpose
    key_header: bytes
    command_header: bytes
    card_challenge: bytes
    transport_key: bytes = field(repr=False)


@dataclass(frozen=True)
class Protect:
    """To the element: the body of a command under the card's `maintain` key. Sent: bytes."""

    card_id: bytes
    version: int
    plaintext: bytes
    command_header: bytes
    card_challenge: bytes


@dataclass(frozen=True)
class ProtectNextKey:
    """To the element: the body of WRITE KEY under the card's own `maintain`. Sent: bytes."""

    card_id: bytes
    version: int
    purpose: Purpose
    key_header: bytes
    command_header: bytes
    card_challenge: bytes
    under: int
    """The version of the `maintain` key."""


@dataclass(frozen=True)
class AskTransportKey:
    """To whoever has them: the card's transport key. Sent: 16 bytes."""

    card_id: bytes


class TransportKeyRefused(Exception):
    """There is no transport key to be had for this card; `outcome` is the reason's name."""

    def __init__(self, outcome: str, detail: str = "") -> None:
        super().__init__(detail or outcome)
        self.outcome = outcome


Step = Command | Admit | Check | ProtectKey | ProtectNextKey | Protect | AskTransportKey
Answer = Reply | bytes | bool
Script = Generator[Step, Answer, Result]


def ask_card(command: Command) -> Script[Response]:
    """The card's response to `command`."""
    return (yield from ask_card_timed(command)).response


def ask_card_timed(command: Command) -> Script[Reply]:
    """The card's response to `command`, with the time it took."""
    answer = yield command
    assert isinstance(answer, Reply)
    return answer


def ask_bytes(
    step: Admit | ProtectKey | ProtectNextKey | Protect | AskTransportKey,
) -> Script[bytes]:
    """What the element makes, or the transport key."""
    answer = yield step
    assert isinstance(answer, bytes)
    return answer


def ask_check(step: Check) -> Script[bool]:
    """The element's verdict."""
    answer = yield step
    assert isinstance(answer, bool)
    return answer
