"""Unlock: a card proves to the lock that it holds the key domain's key.

Policy says which suite and versions are asked for; the card only says which of those it has. What
a card says of itself is believed for nothing else: an answer that makes no sense, a wrong one, and
a card of somebody else's each end in a Proof that is not PROVED, never in an exception.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.card import layout
from edge_agent.card.apdu import Command, MalformedApdu, Response
from edge_agent.card.layout import Info, Slot
from edge_agent.card.script import (
    Admit,
    Check,
    Script,
    ask_bytes,
    ask_card,
    ask_card_timed,
    ask_check,
)
from edge_agent.core.proof import Proof, ProofOutcome
from edge_agent.secure_element.port import ElementUnavailable, Purpose
from schemas.policy import DoorSettings
from schemas.suites import RandomBytes, SuiteName


@dataclass(frozen=True)
class UnlockQuestion:
    """What a lock asks of any card: a domain's key, of these versions and no others."""

    site: str
    domain: str
    suite: SuiteName
    key_version: int
    """The preferred version: a card that has it is asked for it."""
    accepted_key_versions: tuple[int, ...] = ()
    """Older ones that still open during an overlap, best first."""
    mutual: bool = True
    """The reader proves itself to the card first."""

    @classmethod
    def of(
        cls,
        site: str,
        settings: DoorSettings,
        held: frozenset[int] | None = None,
        denied: frozenset[int] = frozenset(),
        floor: int = 1,
    ) -> UnlockQuestion:
        """What a door asks: of the versions its policy takes, best first, those it can ask for.

        `held` are the versions its secure element has (None: not known), `denied` those that were
        revoked, `floor` the lowest that counts. So a lock that was not given the preferred version
        yet shuts nobody out, and a card with two versions is asked for the one that still counts.
        Where none is left the policy's own are asked for: the decision says no, and why.
        """
        wanted = (
            settings.key_version,
            *sorted(set(settings.accepted_key_versions) - {settings.key_version}, reverse=True),
        )
        usable = tuple(
            version
            for version in wanted
            if (held is None or version in held) and version not in denied and version >= floor
        )
        preferred, *others = usable or wanted
        return cls(site, settings.domain, settings.suite, preferred, tuple(others), settings.mutual)

    @property
    def aid(self) -> bytes:
        """The name of the domain's application on a card."""
        return layout.application_id(self.site, self.domain)


def unlock(question: UnlockQuestion, random: RandomBytes) -> Script[Proof]:
    """Ask the card in the field for its proof; `random` makes the challenge."""
    card_id: bytes | None = None
    try:
        card_id = yield from select_application(question.aid)
        if card_id is None:
            card_id = yield from select_root()
            info = None
        else:
            info = yield from read_info()
        if info is None or card_id is None:
            outcome = ProofOutcome.UNREADABLE if card_id is None else ProofOutcome.NO_APPLICATION
            return _proof(card_id, outcome)
        slot = choose_slot(info, question)
        if isinstance(slot, ProofOutcome):
            return _proof(card_id, slot)
        version = info.versions[slot]
        admit_first = question.mutual or info.admit_first
        proved, response_ms = yield from authenticate(
            card_id, slot, version, random, admit_first=admit_first
        )
    except MalformedApdu:
        outcome = ProofOutcome.UNREADABLE if card_id is None else ProofOutcome.FAILED
        return _proof(card_id, outcome)
    except ElementUnavailable:
        return _proof(card_id, ProofOutcome.ELEMENT_UNAVAILABLE)
    outcome = ProofOutcome.PROVED if proved else ProofOutcome.FAILED
    return Proof(card_id.hex(), outcome, version, response_ms)


def select_application(aid: bytes) -> Script[bytes | None]:
    """Select the application; the serial in its FCI. Raises MalformedApdu."""
    selected = yield from ask_card(Command(layout.CLA_ISO, layout.SELECT, 0x04, 0x00, aid, le=256))
    return layout.serial_in(selected.data) if selected.ok else None


def read_info() -> Script[Info | None]:
    """The info record of the selected application; None if it is not there or not finished."""
    command = Command(
        layout.CLA_ISO, layout.READ_BINARY, 0x80 | layout.INFO_SFI, 0, le=layout.INFO_BYTES
    )
    record = yield from ask_card(command)
    return Info.decode(record.data) if record.ok else None


def select_root() -> Script[bytes | None]:
    """Select the MF; the serial in its FCI. Raises MalformedApdu."""
    command = Command(layout.CLA_ISO, layout.SELECT, 0x00, 0x00, layout.MF_ID.to_bytes(2), le=256)
    selected = yield from ask_card(command)
    return layout.serial_in(selected.data) if selected.ok else None


def choose_slot(info: Info, question: UnlockQuestion) -> Slot | ProofOutcome:
    """The slot to ask for: the preferred version if the card has it, else the best accepted.

    A card can't be made to fall back: where it has the preferred version, that one is asked.
    """
    wanted = (question.key_version, *question.accepted_key_versions)
    if info.suite == question.suite:
        for version in wanted:
            for slot, held in info.versions.items():
                if held == version:
                    return slot
    if info.suite == question.suite and max(info.versions.values()) < min(wanted):
        return ProofOutcome.VERSION_RETIRED
    return ProofOutcome.VERSION_UNSUPPORTED


def authenticate(
    card_id: bytes, slot: Slot, version: int, random: RandomBytes, *, admit_first: bool
) -> Script[tuple[bool, float | None]]:
    """Whether the card proved the slot's keys, and its response time in milliseconds.

    Raises MalformedApdu or ElementUnavailable.
    """
    if admit_first and not (yield from admit(card_id, slot, version)):
        return False, None
    challenge = random(layout.CHALLENGE_BYTES)
    reply = yield from ask_card_timed(
        Command(
            layout.CLA_ISO,
            layout.INTERNAL_AUTHENTICATE,
            0x00,
            slot.key(Purpose.AUTH),
            challenge,
            le=layout.CRYPTOGRAM_BYTES,
        )
    )
    response = reply.response
    if not response.ok or len(response.data) != layout.CRYPTOGRAM_BYTES:
        return False, reply.elapsed_ms
    proved = yield from ask_check(Check(card_id, version, challenge, response.data))
    return proved, reply.elapsed_ms


def admit(card_id: bytes, slot: Slot, version: int) -> Script[bool]:
    """Whether the card took our proof of the slot's `admit` key.

    Raises MalformedApdu or ElementUnavailable.
    """
    card_challenge = yield from get_challenge(layout.CHALLENGE_BYTES)
    if card_challenge is None:
        return False
    cryptogram = yield from ask_bytes(Admit(card_id, version, card_challenge))
    verdict = yield from external_authenticate(slot.key(Purpose.ADMIT), cryptogram)
    return verdict.ok


def get_challenge(length: int) -> Script[bytes | None]:
    """The card's challenge, or None if it gives none of this length."""
    response = yield from ask_card(
        Command(layout.CLA_ISO, layout.GET_CHALLENGE, 0x00, 0x00, le=length)
    )
    return response.data if response.ok and len(response.data) == length else None


def external_authenticate(reference: int, cryptogram: bytes) -> Script[Response]:
    """The card's verdict on our answer to its challenge."""
    return (
        yield from ask_card(
            Command(layout.CLA_ISO, layout.EXTERNAL_AUTHENTICATE, 0x00, reference, cryptogram)
        )
    )


def _proof(card_id: bytes | None, outcome: ProofOutcome) -> Proof:
    return Proof(None if card_id is None else card_id.hex(), outcome, None, None)
