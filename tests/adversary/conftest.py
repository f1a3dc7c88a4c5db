"""What those who copy, relay or bend a card play against."""

from __future__ import annotations

import pytest

from edge_agent.card.binding import BindOutcome
from tests.card_desk import Desk
from tests.copy_desk import Lock


@pytest.fixture(params=["gm", "intl"])
def desk(request):
    return Desk(request.param)


@pytest.fixture
def lock(desk):
    return Lock(desk)


@pytest.fixture
async def card(desk):
    """Ada's, bound."""
    card = desk.card()
    assert (await desk.bind(card)).outcome is BindOutcome.BOUND
    card.reset()
    return card
