"""Packages and challenges at the adapter of an ESAM: each is for the other, and once."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.secure_element.esam_chip import (
    ChallengeOver,
    EsamUnavailable,
    Loan,
    PackageRefused,
)
from schemas.keys import Item
from tests.card_desk import SERIAL as CARD
from tests.card_desk import TRANSPORT_KEY
from tests.esam_rig import CHALLENGE, EsamRig


@pytest.fixture(params=["gm", "intl"])
def rig(request):
    return EsamRig(request.param)


async def test_a_package_is_given_once_and_what_is_refused_is_not_tried_again(rig):
    challenge = await rig.esam.challenge()
    package = rig.desk.package(Item.KEYS, 3, challenge=challenge)
    await rig.esam.write(package[:4], package[5:], challenge)
    assert (await rig.esam.table("front")).versions[3] == rig.desk.checks(3)
    given = rig.desk.chip.counted[0]
    with pytest.raises(ChallengeOver):
        await rig.esam.write(package[:4], package[5:], challenge)
    assert rig.desk.chip.counted[0] == given
    challenge = await rig.esam.challenge()
    with pytest.raises(PackageRefused, match="MAC_WRONG"):
        await rig.esam.write(package[:4], package[5:], challenge)
    assert rig.desk.chip.counted[0] == given + 2


async def test_a_package_for_a_challenge_that_is_over_costs_no_try(rig):
    first = await rig.esam.challenge()
    package = rig.desk.package(Item.KEYS, 3, challenge=first)
    rig.esam.lend = rig.lend
    await rig.esam.lend_key(Loan(1, 1, CARD, TRANSPORT_KEY))
    with pytest.raises(ChallengeOver):
        await rig.esam.write(package[:4], package[5:], first)
    again = await rig.esam.challenge()
    package = rig.desk.package(Item.KEYS, 3, challenge=again)
    rig.slot.chip.reset()
    rig.esam._channel = None
    with pytest.raises(ChallengeOver):
        await rig.esam.write(package[:4], package[5:], again)
    assert (await rig.esam.state()).errors_left == 15


async def test_who_binds_a_card_is_lent_its_key_before_another_challenge_is_drawn(rig):
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(*loan):
        asked.set()
        await answer.wait()
        return await rig.lend(*loan)

    rig.esam.lend = slow
    lending = asyncio.create_task(rig.esam.lend_key(Loan(1, 1, CARD, TRANSPORT_KEY)))
    await asked.wait()
    drawing = asyncio.create_task(rig.esam.challenge())
    assert await rig.element.admit(CARD, 1, CHALLENGE), "taps don't wait"
    assert not drawing.done()
    answer.set()
    await lending
    assert await drawing


async def test_what_the_chip_holds_is_known_once_it_was_looked_at(rig):
    changes = []
    rig.esam.keys_changed = lambda: changes.append(rig.element.held)
    assert rig.element.held is None
    await rig.esam.look()
    assert rig.element.held == {1, 2}
    rig.desk.load(3)
    assert rig.desk.send(rig.desk.package(Item.FLOOR, 2)).ok
    await rig.esam.look()
    assert rig.element.held == {2, 3}
    await rig.esam.look()
    assert changes == [{1, 2}, {1, 2}, {2, 3}], "one for each table that changed"


async def test_a_package_is_not_given_again_after_the_power_failed(rig):
    challenge = await rig.esam.challenge()
    package = rig.desk.package(Item.KEYS, 3, challenge=challenge)
    rig.slot.chip._os = None
    with pytest.raises(EsamUnavailable) as refused:
        await rig.esam.write(package[:4], package[5:], challenge)
    assert refused.value.reason == "removed"
    assert 3 not in (await rig.esam.table("front")).versions
