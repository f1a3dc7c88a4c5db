"""The cards of a policy as a tree of chunks that are named by their digest.

A card's place follows from its id alone: six bits of SHA-256 of the id choose the first slot, six
more the second. With one level the policy names up to 64 leaves; with two it names up to 64
indexes, each an object slot -> digest of a leaf. 600,000 cards are 4,096 leaves of some 150 cards:
one changed card costs a leaf (25 KB), an index (5 KB) and the policy itself.

A leaf is JSON lines, one `PolicyCard` each, in order of card id and with `card` first: so one card
is found by its bytes, and only its own line is ever parsed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from pydantic import TypeAdapter, ValidationError

from schemas.errors import MalformedChunk, first_problem
from schemas.names import DigestHex
from schemas.policy import PolicyCard, Slot

MAX_CHUNK_BYTES = 96 * 1024
CARDS_PER_LEAF = 64
"""With more than 64 leaves of these, a policy has two levels."""

_INDEX: TypeAdapter[dict[str, str]] = TypeAdapter(dict[Slot, DigestHex])


def slots(card: str) -> tuple[str, str]:
    """The first and the second slot of a card."""
    digest = hashlib.sha256(bytes.fromhex(card)).digest()
    return f"{digest[0] & 0x3F:02x}", f"{digest[1] & 0x3F:02x}"


def write_leaf(cards: Iterable[PolicyCard]) -> bytes:
    """The leaf that holds these cards, which are all of one place."""
    lines = sorted(card.model_dump_json(exclude_defaults=True) for card in cards)
    return "".join(line + "\n" for line in lines).encode()


def write_index(leaves: Mapping[str, str]) -> bytes:
    """The index over leaves: slot -> digest."""
    return _INDEX.dump_json(dict(sorted(leaves.items())))


def read_index(body: bytes) -> dict[str, str]:
    """Raises MalformedChunk."""
    try:
        return _INDEX.validate_json(body, strict=True)
    except ValidationError as error:
        raise MalformedChunk(f"index of cards: {first_problem(error)}") from None


def check_leaf(body: bytes, place: tuple[str, ...]) -> int:
    """How many cards the leaf at `place` (one slot or two) holds.

    Raises MalformedChunk if a line is not a card, has no end, stands elsewhere than it should, or
    comes twice.
    """
    before = ""
    *lines, rest = body.split(b"\n")
    if rest:
        raise MalformedChunk("leaf of cards: its last line has no end")
    for line in lines:
        try:
            card = PolicyCard.model_validate_json(line, strict=True)
        except ValidationError as error:
            raise MalformedChunk(f"leaf of cards: {first_problem(error)}") from None
        if not line.startswith(_key(card.card)) or card.card <= before:
            raise MalformedChunk(f"leaf of cards: {card.card} is out of order")
        if slots(card.card)[: len(place)] != place:
            raise MalformedChunk(f"leaf of cards: {card.card} belongs elsewhere")
        before = card.card
    return len(lines)


def find_card(body: bytes, card: str) -> PolicyCard | None:
    """The card in a leaf that was checked."""
    lines = b"\n" + body
    start = lines.find(b"\n" + _key(card)) + 1
    if start == 0:
        return None
    return PolicyCard.model_validate_json(lines[start : lines.index(b"\n", start)])


def _key(card: str) -> bytes:
    return b'{"card":"%s",' % card.encode()
