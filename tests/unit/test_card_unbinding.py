"""Unbind at the tap: the domain's keys are gone as a whole, or they are all there."""

from __future__ import annotations

import pytest

from edge_agent.card.binding import BindOutcome
from edge_agent.card.unbinding import unbind
from edge_agent.core.proof import ProofOutcome
from schemas.transport import TransportRefusal
from tests.card_desk import Desk


@pytest.fixture(params=["gm", "intl"])
def desk(request):
    return Desk(request.param)


async def test_a_card_is_unbound_and_can_be_bound_again(desk):
    card = desk.card()
    await desk.bind(card)
    result = await desk.unbind(card)
    assert (result.outcome, result.card_id) == (BindOutcome.UNBOUND, card.serial.hex())
    assert not card.image.applications
    assert (await desk.tap(card)).outcome is ProofOutcome.NO_APPLICATION
    assert (await desk.bind(card)).outcome is BindOutcome.BOUND


async def test_only_the_domain_that_is_meant_is_erased(desk):
    card, back = desk.card(), Desk(desk.suite_name, seed=2, domain="back")
    await desk.bind(card)
    await back.bind(card)
    await desk.unbind(card)
    assert (await back.tap(card)).outcome is ProofOutcome.PROVED
    assert (await desk.tap(card)).outcome is ProofOutcome.NO_APPLICATION


async def test_a_card_that_was_not_bound_is_as_good_as_unbound(desk):
    assert (await desk.unbind(desk.card())).outcome is BindOutcome.UNBOUND


async def test_a_card_whose_transport_key_is_unknown_stays_bound(desk):
    card = desk.card()
    await desk.bind(card)
    desk.transport_keys.clear()
    assert (await desk.unbind(card)).outcome == TransportRefusal.UNKNOWN_KEY
    assert (await desk.tap(card)).outcome is ProofOutcome.PROVED


async def test_a_wrong_transport_key_erases_nothing(desk):
    card = desk.card()
    await desk.bind(card)
    desk.transport_keys[card.serial.hex()] = bytes(16)
    for _ in range(5):
        assert (await desk.unbind(card)).outcome is BindOutcome.TRANSPORT_KEY_REFUSED
    assert (await desk.unbind(card)).outcome is BindOutcome.BLOCKED
    assert (await desk.tap(card)).outcome is ProofOutcome.PROVED


async def test_a_card_that_erases_nothing_is_not_said_to_be_unbound(desk):
    card = desk.card()
    await desk.bind(card)
    honest = card.transmit
    card.transmit = lambda apdu: b"\x69\x82" if apdu[1] == 0x0E else honest(apdu)
    assert (await desk.unbind(card)).outcome is BindOutcome.NOT_OUR_CARD


@pytest.mark.parametrize("answer", ["", "9000", "6d00", "6a82", "00" * 300])
async def test_a_foreign_card_is_not_ours(desk, answer):
    result = await desk.run(unbind(desk.question), lambda _: bytes.fromhex(answer))
    assert (result.card_id, result.outcome) == (None, BindOutcome.NOT_OUR_CARD)
