"""Unbind: erase a key domain's application from a card, when it is held to a reader.

The card erases an application as a whole, once its transport key was proved: so a card that is torn
away is bound as before, or not at all. A card that is lost is unbound at the server alone.
"""

from __future__ import annotations

from edge_agent.card import layout
from edge_agent.card.apdu import Command
from edge_agent.card.application import UnlockQuestion, select_application
from edge_agent.card.binding import (
    BindOutcome,
    BindResult,
    CardEnded,
    ended_well,
    prove_transport_key,
)
from edge_agent.card.script import AskTransportKey, Script, ask_bytes, ask_card


def unbind(question: UnlockQuestion) -> Script[BindResult]:
    """Erase the question's domain from the card in the field: UNBOUND, also if it was not there."""
    return (yield from ended_well(lambda card_id: _unbind(card_id, question)))


def _unbind(card_id: bytes, question: UnlockQuestion) -> Script[BindOutcome]:
    if (yield from select_application(question.aid)) is None:
        return BindOutcome.UNBOUND
    transport_key = yield from ask_bytes(AskTransportKey(card_id))
    yield from prove_transport_key(question.suite, transport_key)
    if (yield from select_application(question.aid)) != card_id:
        return BindOutcome.NOT_OUR_CARD
    erased = yield from ask_card(Command(layout.CLA_COS, layout.ERASE, 0x00, 0x00))
    if not erased.ok:
        raise CardEnded(BindOutcome.NOT_OUR_CARD)
    return BindOutcome.UNBOUND
