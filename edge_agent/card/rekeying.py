"""Re-key: give a card that has just opened the door the next version of the domain's keys.

The new keys go to the slot that is not in use, under `maintain` of the version that the card has
just proved; they are proved in turn, and then one write of the info record names them. What the
record names is whole at every moment: a version that is about to be written over is taken out of it
first. So a card that is torn away opens as before or as after, and the next tap does the rest. Both
versions stay on the card: a lock that was not given the new one yet still opens.
"""

from __future__ import annotations

from enum import StrEnum

from edge_agent.card.apdu import MalformedApdu
from edge_agent.card.application import (
    UnlockQuestion,
    admit,
    authenticate,
    read_info,
)
from edge_agent.card.binding import (
    CardEnded,
    name_alone,
    write_info,
    write_keys,
)
from edge_agent.card.layout import Info, Slot
from edge_agent.card.script import ProtectNextKey, Script
from schemas.keys import Purpose
from schemas.suites import RandomBytes


class RekeyOutcome(StrEnum):
    """How it ended, when the card stayed to the end."""

    REKEYED = "rekeyed"
    ANOTHER_CARD = "another_card"
    """It has no application selected, or not that version: it is not as it was when it opened."""
    NOT_ADMITTED = "not_admitted"
    """It did not let the reader in."""
    REFUSED = "refused"
    """It did not take a key or the info record."""
    NOT_PROVED = "not_proved"
    """It took the keys but could not prove them: nothing was committed."""


def rekey(
    card_id: bytes, question: UnlockQuestion, from_version: int, random: RandomBytes
) -> Script[RekeyOutcome]:
    """Write the question's preferred version to the card that has just proved `from_version`.

    Goes on where unlock ended: nothing else may have been said to the card in between. A card that
    came in its place takes nothing, for what is written is enciphered for `card_id` alone. Raises
    ElementUnavailable.
    """
    try:
        return (yield from _rekey(card_id, question, from_version, random))
    except (MalformedApdu, CardEnded):
        return RekeyOutcome.REFUSED


def _rekey(
    card_id: bytes, question: UnlockQuestion, from_version: int, random: RandomBytes
) -> Script[RekeyOutcome]:
    info = yield from read_info()  # the application is still selected
    used = None if info is None else _slot_of(info, question, from_version)
    if info is None or used is None:
        return RekeyOutcome.ANOTHER_CARD
    admit_first = question.mutual or info.admit_first
    # Unlock was asked to do the same: if so, the card has admitted this reader already.
    if not (admit_first or (yield from admit(card_id, used, from_version))):
        return RekeyOutcome.NOT_ADMITTED
    idle, version = used.other, question.key_version
    if idle in info.versions:
        yield from name_alone(card_id, info, used)

    def under_maintain(
        purpose: Purpose, header: bytes, command_header: bytes, challenge: bytes
    ) -> ProtectNextKey:
        return ProtectNextKey(
            card_id, version, purpose, header, command_header, challenge, under=from_version
        )

    yield from write_keys(question, idle, under_maintain)
    proved, _ = yield from authenticate(card_id, idle, version, random, admit_first=True)
    if not proved:
        return RekeyOutcome.NOT_PROVED
    both = Info(info.suite, {used: from_version, idle: version}, idle, admit_first)
    yield from write_info(card_id, version, both)
    return RekeyOutcome.REKEYED


def _slot_of(info: Info, question: UnlockQuestion, version: int) -> Slot | None:
    if info.suite != question.suite:
        return None
    return next((slot for slot, held in info.versions.items() if held == version), None)
