"""One card, looked up among 600,000 and as many denials: one leaf, and two rows at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlite_utils import Database

from edge_agent import trust_tables as tables
from edge_agent.core.applied import Applied
from edge_agent.core.decision import Denial
from edge_agent.staging import Staging
from edge_agent.unsaved import Unsaved
from schemas.card_chunks import find_card, slots
from schemas.errors import PartialBundle
from schemas.policy import PolicyCard
from schemas.revocation import RevokedKind


@dataclass(frozen=True)
class InForce:
    """A policy with the places of its cards; replaced as one."""

    applied: Applied | None = None
    levels: int = 1
    leaves: Mapping[str, str] = field(default_factory=dict)
    """Slots -> digest of the leaf."""

    @classmethod
    def of(cls, whole: Staging) -> InForce:
        """A policy whose chunks are all there."""
        policy = whole.candidate.policy
        return cls(Applied.of(policy, whole.candidate.hash), policy.levels, whole.leaves)


@dataclass(frozen=True)
class Found:
    """What is held of one card. `denial` is None unless it counts."""

    applied: Applied | None
    card: PolicyCard | None
    denial: Denial | None


def look_up(database: Database, in_force: InForce, unsaved: Unsaved, card_id: str | None) -> Found:
    """What policy and revocation log say of a card (16 hex digits).

    Raises PartialBundle if the disk has lost a chunk of the policy, or sqlite3.Error.
    """
    if card_id is None:
        return Found(in_force.applied, None, None)
    card = _card(database, in_force, card_id)
    return Found(in_force.applied, card, _denial(database, unsaved, card_id, card))


def _card(database: Database, in_force: InForce, card_id: str) -> PolicyCard | None:
    digest = in_force.leaves.get("".join(slots(card_id)[: in_force.levels]))
    if digest is None:
        return None
    body = tables.chunk(database, digest)
    if body is None:
        raise PartialBundle(f"chunk {digest} of the policy in force is gone from the disk")
    return find_card(body, card_id)


def _denial(
    database: Database, unsaved: Unsaved, card_id: str, card: PolicyCard | None
) -> Denial | None:
    """The card's denial or its holder's, unless the policy answers it: that may be newer."""
    denial = _latest(database, unsaved, "card", card_id)
    if denial is not None and denial.sequence > (0 if card is None else card.card_cleared):
        return denial
    if card is None:
        return None
    denial = _latest(database, unsaved, "person", card.person)
    if denial is not None and denial.sequence > card.person_cleared:
        return denial
    return None


def _latest(database: Database, unsaved: Unsaved, kind: RevokedKind, subject: str) -> Denial | None:
    kept = tables.denial_of(database, kind, subject)
    held = unsaved.denied.get((kind, subject))
    if held is None or (kept is not None and kept.sequence >= held.sequence):
        return kept
    return Denial(held.sequence, held.reason)
