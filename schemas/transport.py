"""How a lock is told the transport key of one card, while an operator's window is open.

The agent asks with a public key that it made for this one question; the answer is sealed to that
key (`schemas.sealed_to`), so who listens learns nothing, then or later. Where the door's keys are
on an ESAM, the answer also has what lends the transport key to that chip (`schemas.esam_issue`).
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from schemas.command import CommandId, Session
from schemas.keys import ChallengeHex, DomainIndex, EsamSerial, KeyVersion
from schemas.names import CardId, Name, PointHex
from schemas.statement import Statement

TRANSPORT_LIFE = timedelta(seconds=30)
MAX_TRANSPORT_BYTES = 4 * 1024
_HEX = StringConstraints(pattern=r"^(?:[0-9a-f]{2})+$", max_length=510)


class TransportSource(StrEnum):
    """Where a transport key comes from: how far it can be trusted."""

    LIST = "list"
    """The maker's list: the card's own."""
    DERIVED = "derived"
    """From the batch's master key and the card's serial."""
    DEFAULT = "default"
    """The product's default, which anybody may know: trust on first use."""
    DESK = "desk"
    """A list at the lock itself (`ostiary-agent bind`)."""


class TransportRefusal(StrEnum):
    """Why no transport key is given; nothing was written to the card."""

    WINDOW_CLOSED = "window_closed"
    """No operator's window is open for this agent by that command, or it was used up."""
    UNKNOWN_KEY = "unknown_key"
    """Neither list, master key nor default has one for this card."""
    OTHER_PERSON = "other_person"
    """The card is another person's."""
    OTHER_CARD = "other_card"
    """The window is for one card, and this is not it."""
    CARD_NOT_ACTIVE = "card_not_active"
    """The card is revoked, lost, stolen, damaged or suspended."""
    ESAM_REFUSED = "esam_refused"
    """The ESAM that asks to be lent the key is not this agent's, not in service, or not for the
    domain at that place; or the card has keys of the domain already, or is to be unbound."""
    FAILED = "failed"
    """The server can't at the moment; its log says why."""


class LoanRequest(BaseModel):
    """To which ESAM, for which domain and version, the key is to be lent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    esam: EsamSerial
    domain: Name
    index: DomainIndex
    version: KeyVersion
    challenge: ChallengeHex


class TransportRequest(Statement):
    """An agent asks for one card's transport key. `counter` counts within the session."""

    purpose: Literal["transport-request"] = "transport-request"
    session: Session
    command: CommandId = Field(description="that opened the window")
    card: CardId
    recipient: PointHex = Field(description="a public key of the site's suite, made for this")
    loan: LoanRequest | None = None


class TransportKey(Statement):
    """The answer, or why there is none. `counter` is its time of issue in microseconds."""

    purpose: Literal["transport-key"] = "transport-key"
    session: Session
    command: CommandId
    card: CardId
    request: int = Field(ge=0, description="counter of what is answered")
    refusal: TransportRefusal | None = None
    source: TransportSource | None = None
    sealed: Annotated[str, _HEX] | None = Field(default=None, description="the key, sealed, in hex")
    loan: Annotated[str, _HEX] | None = Field(
        default=None, description="data of WRITE KEY that lends the key, in hex"
    )

    @model_validator(mode="after")
    def _whole(self) -> TransportKey:
        if self.expires is None or not (timedelta() < self.expires - self.issued <= TRANSPORT_LIFE):
            raise ValueError(f"a transport key expires within {TRANSPORT_LIFE.seconds} s")
        if (self.refusal is None) != (self.sealed is not None and self.source is not None):
            raise ValueError("either a refusal, or a sealed key and where it is from")
        return self


def transport_context(site: str, agent: str, session: str, request: int, card: str) -> str:
    """What a sealed transport key is bound to."""
    return f"transport key of {card} for {site}/{agent}, {session}/{request}"
