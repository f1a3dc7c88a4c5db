"""Bind: give a card the keys of this lock's domain, at the lock, without an issuing machine.

Each step either changes one thing on the card as a whole or nothing, the keys go to the slot that
is not in use, and the commit record is written last, under a key the card has just proved. So a
card that is torn away holds the old state or the new one, and binding again finishes the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from edge_agent.card import layout
from edge_agent.card.apdu import Command, MalformedApdu, Response, StatusWord
from edge_agent.card.application import (
    UnlockQuestion,
    admit,
    authenticate,
    choose_slot,
    external_authenticate,
    get_challenge,
    read_info,
    select_application,
    select_root,
)
from edge_agent.card.layout import FileKind, Info, Right, Slot
from edge_agent.card.script import (
    AskTransportKey,
    Protect,
    ProtectKey,
    ProtectNextKey,
    Script,
    TransportKeyRefused,
    ask_bytes,
    ask_card,
)
from edge_agent.core.proof import ProofOutcome
from edge_agent.secure_element.port import Purpose
from schemas.secure_messaging import pad
from schemas.suites import RandomBytes, SuiteName, suite

KEY_SPACE_BYTES = layout.KEY_FILE_RECORDS * layout.KEY_RECORD_BYTES
APPLICATION_BYTES = KEY_SPACE_BYTES + layout.INFO_BYTES


class BindOutcome(StrEnum):
    """How binding ended, when the card stayed to the end."""

    BOUND = "bound"
    ALREADY_BOUND = "already_bound"
    """It proved the preferred version; nothing was written."""
    TRANSPORT_KEY_REFUSED = "transport_key_refused"
    """The card has another transport key, and now one try fewer."""
    BLOCKED = "blocked"
    """The card's transport key has no tries left."""
    UNBOUND = "unbound"
    """It has no keys of this domain any more, or had none."""
    CARD_FULL = "card_full"
    """No memory, or no file id, is left for another application."""
    NOT_OUR_CARD = "not_our_card"
    """It does not behave as a card of this kind does."""
    NOT_PROVED = "not_proved"
    """It took the keys but could not prove them: nothing was committed."""


@dataclass(frozen=True)
class BindResult:
    """The card and how binding it ended; `card_id` is None if it named no serial.

    `outcome` is a BindOutcome, or the name of why no transport key was to be had.
    """

    card_id: str | None
    outcome: str
    detail: str = ""


ProtectWrite = Callable[[Purpose, bytes, bytes, bytes], ProtectKey | ProtectNextKey]
"""What protects one key: of its purpose, key header, command header and the card's challenge."""


class CardEnded(Exception):
    """A script of this kind can't go on; the outcome says why."""

    def __init__(self, outcome: BindOutcome) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome


def bind(question: UnlockQuestion, random: RandomBytes) -> Script[BindResult]:
    """Bind the card in the field in the question's domain, with its preferred key version.

    Its transport key is asked for only if it is not bound yet. Raises ElementUnavailable.
    """
    return (yield from ended_well(lambda card_id: _bind(card_id, question, random)))


def ended_well(work: Callable[[bytes], Script[BindOutcome]]) -> Script[BindResult]:
    """What became of `work` with the card in the field, whatever the card does."""
    card_id: bytes | None = None
    outcome: str
    detail = ""
    try:
        card_id = yield from select_root()
        if card_id is None:
            raise CardEnded(BindOutcome.NOT_OUR_CARD)
        outcome = yield from work(card_id)
    except MalformedApdu:
        outcome = BindOutcome.NOT_OUR_CARD
    except CardEnded as end:
        outcome = end.outcome
    except TransportKeyRefused as refusal:
        outcome, detail = refusal.outcome, str(refusal)
    return BindResult(None if card_id is None else card_id.hex(), outcome, detail)


def _bind(card_id: bytes, question: UnlockQuestion, random: RandomBytes) -> Script[BindOutcome]:
    info: Info | None = None
    used: Slot | None = None
    exists = (yield from select_application(question.aid)) is not None
    if exists:
        info = yield from read_info()
        if info is not None:
            used = yield from _proved_slot(card_id, question, info, random)
            if used is not None and info.versions[used] == question.key_version:
                return BindOutcome.ALREADY_BOUND
    transport_key = yield from ask_bytes(AskTransportKey(card_id))
    yield from prove_transport_key(question.suite, transport_key)
    if not exists:
        yield from _create_application(question.aid)
    if (yield from select_application(question.aid)) != card_id:
        return BindOutcome.NOT_OUR_CARD
    yield from _create(FileKind.KEYS, 0, KEY_SPACE_BYTES)
    yield from _create(
        FileKind.BINARY,
        layout.INFO_SFI,
        layout.INFO_BYTES,
        bytes((Right.ALWAYS, Right.MAINTAIN)),
    )
    slot = Slot.A if info is None else (used or info.preferred).other
    if info is not None and used is not None and slot in info.versions:
        if not (yield from admit(card_id, used, info.versions[used])):
            return BindOutcome.NOT_OUR_CARD
        yield from name_alone(card_id, info, used)

    def under_transport_key(
        purpose: Purpose, header: bytes, command_header: bytes, challenge: bytes
    ) -> ProtectKey:
        version = question.key_version
        return ProtectKey(
            card_id, version, purpose, header, command_header, challenge, transport_key
        )

    yield from write_keys(question, slot, under_transport_key)
    proved, _ = yield from authenticate(
        card_id, slot, question.key_version, random, admit_first=True
    )
    if not proved:
        return BindOutcome.NOT_PROVED
    yield from _commit(card_id, question, slot)
    return BindOutcome.BOUND


def _proved_slot(
    card_id: bytes, question: UnlockQuestion, info: Info, random: RandomBytes
) -> Script[Slot | None]:
    """The slot by which the card opens at this lock now, if it does."""
    slot = choose_slot(info, question)
    if isinstance(slot, ProofOutcome):
        return None
    version = info.versions[slot]
    proved, _ = yield from authenticate(card_id, slot, version, random, admit_first=True)
    return slot if proved else None


def prove_transport_key(suite_name: SuiteName, transport_key: bytes) -> Script[None]:
    """Prove the transport key to the MF. Raises CardEnded.

    The card's challenge is 8 bytes and we fill the block: so a false card can't choose whole blocks
    for us to encipher, of which it could make the CMAC that protects the keys (docs/card.md).
    """
    yield from select_root()
    challenge = yield from get_challenge(layout.TRANSPORT_CHALLENGE_BYTES)
    if challenge is None:
        raise CardEnded(BindOutcome.NOT_OUR_CARD)
    cryptogram = suite(suite_name).encrypt_block(transport_key, pad(challenge))
    verdict = yield from external_authenticate(layout.TRANSPORT_KEY, cryptogram)
    match verdict.status:
        case StatusWord.OK:
            return
        case StatusWord.WRONG:
            raise CardEnded(BindOutcome.TRANSPORT_KEY_REFUSED)
        case StatusWord.BLOCKED:
            raise CardEnded(BindOutcome.BLOCKED)
    raise CardEnded(BindOutcome.NOT_OUR_CARD)


def _create_application(aid: bytes) -> Script[None]:
    """Create the ADF under the first file id that is free."""
    rights = bytes((Right.TRANSPORT, Right.TRANSPORT))
    for file_id in layout.ADF_IDS:
        created = yield from _create(FileKind.APPLICATION, file_id, APPLICATION_BYTES, rights + aid)
        if created.ok:
            return
    raise CardEnded(BindOutcome.CARD_FULL)


def _create(kind: FileKind, file_id: int, size: int, rest: bytes = b"") -> Script[Response]:
    """CREATE FILE. One that is there already is left over from a tear, and as good."""
    data = bytes((kind,)) + size.to_bytes(2) + rest
    command = Command(layout.CLA_COS, layout.CREATE_FILE, file_id >> 8, file_id & 0xFF, data)
    created = yield from ask_card(command)
    if not (created.ok or created.status is StatusWord.FILE_EXISTS):
        raise CardEnded(_refusal(created))
    return created


def write_keys(question: UnlockQuestion, slot: Slot, protect: ProtectWrite) -> Script[None]:
    """Write the three keys of the question's version to a slot of the card. Raises CardEnded."""
    version = question.key_version
    for purpose in Purpose:
        command = Command(layout.CLA_COS_SECURE, layout.WRITE_KEY, 0x01, slot.key(purpose))
        use = Right.ADMIT if question.mutual and purpose is Purpose.AUTH else Right.ALWAYS
        header = layout.key_header(purpose, version, use=use)
        challenge = yield from protected_challenge()
        body = yield from ask_bytes(protect(purpose, header, command.header, challenge))
        yield from send_protected(command, body)


def _commit(card_id: bytes, question: UnlockQuestion, slot: Slot) -> Script[None]:
    """From here on the card is bound."""
    version = question.key_version
    info = Info(question.suite, {slot: version}, slot, question.mutual)
    yield from write_info(card_id, version, info)


def name_alone(card_id: bytes, info: Info, used: Slot) -> Script[None]:
    """Name no version but that of `used`, which was admitted: the other slot is to be written.

    So each version that the record names is whole, wherever the card is torn away.
    Raises CardEnded.
    """
    version = info.versions[used]
    yield from write_info(card_id, version, replace(info, versions={used: version}, preferred=used))


def write_info(card_id: bytes, version: int, info: Info) -> Script[None]:
    """Write the info record, as a whole, under `maintain` of `version`, whose slot was admitted.

    Raises CardEnded.
    """
    command = Command(layout.CLA_SECURE, layout.UPDATE_BINARY, 0x80 | layout.INFO_SFI, 0x00)
    body = yield from ask_bytes(
        Protect(card_id, version, info.encode(), command.header, (yield from protected_challenge()))
    )
    yield from send_protected(command, body)


def protected_challenge() -> Script[bytes]:
    """The card's challenge for one protected command. Raises CardEnded."""
    challenge = yield from get_challenge(layout.CHALLENGE_BYTES)
    if challenge is None:
        raise CardEnded(BindOutcome.NOT_OUR_CARD)
    return challenge


def send_protected(command: Command, body: bytes) -> Script[None]:
    """Send a body under secure messaging. Raises CardEnded."""
    answer = yield from ask_card(Command(command.cla, command.ins, command.p1, command.p2, body))
    if not answer.ok:
        raise CardEnded(_refusal(answer))


def _refusal(response: Response) -> BindOutcome:
    if response.status is StatusWord.MEMORY_FULL:
        return BindOutcome.CARD_FULL
    return BindOutcome.NOT_OUR_CARD
