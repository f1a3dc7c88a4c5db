"""What a card has proved at a reader: the one thing a decision needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ProofOutcome(StrEnum):
    """How the conversation with a card ended."""

    PROVED = "proved"
    """The card holds the domain's key of an accepted version."""
    FAILED = "failed"
    """It has the application, but answered the challenge wrong, or refused the reader's proof."""
    NO_APPLICATION = "no_application"
    """A card with a serial, but with no finished application of this domain."""
    UNREADABLE = "unreadable"
    """Not a card of ours: nothing it said made sense."""
    ELEMENT_UNAVAILABLE = "element_unavailable"
    """The lock's secure element could not be asked."""
    VERSION_UNSUPPORTED = "version_unsupported"
    """Its keys are of a version or suite that this door does not know (yet)."""
    VERSION_RETIRED = "version_retired"
    """All its keys are older than the oldest version this door accepts."""


@dataclass(frozen=True)
class Proof:
    """A card's proof. Only with outcome PROVED is `card_id` more than the card's claim."""

    card_id: str | None
    """16 hex digits, or None if the card named no serial."""
    outcome: ProofOutcome
    key_version: int | None
    """The version that was asked for; set once one was chosen."""
    response_ms: float | None
    """How long the card took to answer the challenge (relays are slow), if it was asked."""
