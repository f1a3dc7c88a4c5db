"""One tap, from the card in the field to a decision that is on disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from edge_agent.card.application import UnlockQuestion, unlock
from edge_agent.card.session import perform
from edge_agent.core.decision import Circumstances, Decision, Direction, DoorView, decide
from edge_agent.core.door import Grant
from edge_agent.core.freshness import freshness
from edge_agent.core.proof import Proof, ProofOutcome
from edge_agent.house import House
from edge_agent.lookup import Found
from edge_agent.outbox import Draft
from edge_agent.readers.port import CardChannel, Feedback
from schemas.event_data import Latency
from schemas.reasons import Reason

CARD_TIMEOUT_S = 5.0
"""A card that takes longer than this for the whole conversation is told to try again."""


@dataclass(frozen=True)
class Lacking:
    """A card that opened the door with another version than the door's policy prefers."""

    card_id: bytes
    question: UnlockQuestion
    from_version: int


@dataclass(frozen=True)
class TapOutcome:
    """What came of it. `grant` is None where the door stays shut."""

    entered_s: float
    decision_ms: float
    feedback: Feedback
    grant: Grant | None
    reason: Reason | None
    event_id: str | None
    lacks: Lacking | None = None
    """What the card is to be given, once its holder may pass."""


class Tap:
    """Taps at one reader."""

    def __init__(self, door: str, direction: Direction, house: House) -> None:
        self._door = door
        self._direction = direction
        self._house = house

    async def decide(self, card: CardChannel) -> TapOutcome:
        """Ask the card, decide, store. Raises CardRemoved or TimeoutError if the card went away."""
        house, clock = self._house, self._house.recorder.clock
        async with asyncio.timeout(CARD_TIMEOUT_S):
            question = house.question(house.view(self._door))
            while True:
                element = house.elements.get(question.domain, question.suite)
                proof = await perform(unlock(question, house.random), card, element, clock)
                found = house.store.find(proof.card_id)
                view = house.view_of(found.applied, self._door)
                asked, question = question, house.question(view)
                if asked == question:
                    break
                # Another policy came meanwhile: what was proved is not what it asks for.
        at = house.circumstances(
            found.applied, self._door, self._direction, self._locked_out_s(proof)
        )
        decision = decide(view, found.card, denial=found.denial, proof=proof, circumstances=at)
        decision_ms = round((clock.monotonic() - card.entered) * 1000, 3)
        self._count(proof, decision)
        draft = self._draft(
            view, found, proof=proof, decision=decision, at=at, decision_ms=decision_ms
        )
        stored = next(iter(await house.recorder.record_soon([draft]) or ()), None)
        grant = None
        if decision.granted:
            person = found.card.person if found.card else None
            # Without an id of its own, a grant is still told apart from the others.
            grant = Grant(
                stored.id if stored else f"unstored-{draft.time.isoformat()}", proof.card_id, person
            )
        return TapOutcome(
            card.entered,
            decision_ms,
            _feedback(proof, decision),
            grant,
            decision.reason,
            stored.id if stored else None,
            _lacking(view, question, proof) if decision.granted else None,
        )

    def _keys(self, proof: Proof) -> list[str]:
        reader = f"reader {self._door} {self._direction}"
        return [reader] if proof.card_id is None else [f"card {proof.card_id}", reader]

    def _locked_out_s(self, proof: Proof) -> float:
        now_s = self._house.recorder.clock.monotonic()
        return max(self._house.lockout.remaining_s(key, now_s) for key in self._keys(proof))

    def _count(self, proof: Proof, decision: Decision) -> None:
        tried = proof.outcome in (ProofOutcome.PROVED, ProofOutcome.FAILED)
        if decision.reason is Reason.LOCKED_OUT or not tried:
            return  # no key was guessed at
        now_s = self._house.recorder.clock.monotonic()
        for key in self._keys(proof):
            if proof.outcome is ProofOutcome.FAILED or decision.reason is Reason.CARD_AUTH_FAILED:
                self._house.lockout.failed(key, now_s)
            else:
                self._house.lockout.succeeded(key)

    def _draft(
        self,
        view: DoorView,
        found: Found,
        *,
        proof: Proof,
        decision: Decision,
        at: Circumstances,
        decision_ms: float,
    ) -> Draft:
        data: dict[str, Any] = {
            "direction": self._direction,
            "card": proof.card_id,
            "person": found.card.person if found.card else None,
            "domain": view.settings.domain,
            "key_version": proof.key_version,
            "policy_version": found.applied.version if found.applied else None,
            "policy_age_s": None if at.heartbeat_age_s is None else round(at.heartbeat_age_s, 3),
            "freshness": freshness(at.heartbeat_age_s, view.settings.grace_s),
            "revocation_seq": self._house.store.believed.revocation.sequence,
            "latency_ms": Latency(decision=decision_ms),
            "response_ms": proof.response_ms,
        }
        if decision.granted:
            data["response_ms"] = proof.response_ms or 0.0
            return self._house.recorder.about_door("access.granted", self._door, **data)
        data |= {"reason": decision.reason, "detail": decision.detail}
        return self._house.recorder.about_door("access.denied", self._door, **data)


def _lacking(view: DoorView, question: UnlockQuestion, proof: Proof) -> Lacking | None:
    """None where the door can't ask for what its policy prefers: it then can't give it either."""
    preferred = view.settings.key_version
    if proof.card_id is None or proof.key_version in (None, preferred):
        return None
    if question.key_version != preferred:
        return None
    return Lacking(bytes.fromhex(proof.card_id), question, proof.key_version)


def _feedback(proof: Proof, decision: Decision) -> Feedback:
    if decision.granted:
        return Feedback.GRANTED
    if proof.outcome is ProofOutcome.UNREADABLE:
        return Feedback.TRY_AGAIN
    if decision.reason is Reason.SECURE_ELEMENT_UNAVAILABLE:
        return Feedback.ERROR
    return Feedback.DENIED
