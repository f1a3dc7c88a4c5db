"""Who wants an older key version or another suite than the lock asks for: no card chooses those."""

from __future__ import annotations

from dataclasses import replace

from edge_agent.card import layout
from edge_agent.card.binding import BindOutcome
from edge_agent.card.layout import Info, Slot
from schemas.reasons import Reason
from tests.card_desk import Desk
from tests.copy_desk import Lock, overlap, rekeyed, saying


async def test_a_card_that_claims_the_other_suite_is_denied(lock, card, desk):
    other = "intl" if desk.suite_name == "gm" else "gm"
    claim = Info(other, {Slot.A: 1}, Slot.A, True)
    assert await lock.reason(saying(card, claim)) is Reason.KEY_VERSION_UNSUPPORTED
    asked = {command.ins for command in lock.channel.commands}
    assert layout.INTERNAL_AUTHENTICATE not in asked


async def test_a_card_of_the_other_suite_is_denied_whatever_it_claims(lock, desk):
    """Bound in the same domain, of the same secrets even, by a lock of the other suite."""
    weaker = Desk("intl" if desk.suite_name == "gm" else "gm")
    card = weaker.card()
    assert (await weaker.bind(card)).outcome is BindOutcome.BOUND
    card.reset()
    assert await lock.reason(card.transmit) is Reason.KEY_VERSION_UNSUPPORTED
    card.reset()
    claim = Info(desk.suite_name, {Slot.A: 1}, Slot.A, True)
    assert await lock.reason(saying(card, claim)) is Reason.CARD_AUTH_FAILED


async def test_a_card_that_has_only_a_retired_version_is_denied(desk, card):
    assert await Lock(desk, key_version=2).reason(card.transmit) is Reason.KEY_VERSION_RETIRED


async def test_a_card_that_has_only_a_version_to_come_is_denied(desk):
    card = desk.card()
    await desk.bind(card, replace(desk.question, key_version=2))
    card.reset()
    assert await Lock(desk).reason(card.transmit) is Reason.KEY_VERSION_UNSUPPORTED


async def test_a_card_with_both_versions_is_asked_for_the_new_one_whatever_it_prefers(desk, card):
    both, lock = await rekeyed(desk, card), overlap(desk)
    claim = Info(desk.suite_name, {Slot.A: 1, Slot.B: 2}, Slot.A, True)
    assert await lock.reason(saying(both, claim)) is None
    assert lock.proof is not None
    assert lock.proof.key_version == 2


async def test_a_copy_with_the_old_keys_that_claims_both_versions_is_denied(desk, card):
    """It fails with the new version, and is not asked for the old one instead."""
    lock = overlap(desk)
    claim = Info(desk.suite_name, {Slot.A: 1, Slot.B: 2}, Slot.A, True)
    assert await lock.reason(saying(card, claim)) is Reason.CARD_AUTH_FAILED
    assert lock.proof is not None
    assert lock.proof.key_version == 2
    slots = {c.p2 >> 4 for c in lock.channel.commands if c.ins == layout.EXTERNAL_AUTHENTICATE}
    assert slots == {Slot.B}


async def test_hiding_the_new_version_gains_nothing_once_the_old_is_not_accepted(desk, card):
    """Who sits between shows the old version alone. During the overlap that is as good as the
    card, which opens with either; afterwards it is denied."""
    both = await rekeyed(desk, card)
    hidden = saying(both, Info(desk.suite_name, {Slot.A: 1}, Slot.A, True))
    assert await overlap(desk).reason(hidden) is None
    both.reset()
    assert await Lock(desk, key_version=2).reason(hidden) is Reason.KEY_VERSION_RETIRED
    both.reset()
    floor = overlap(desk)
    floor.floor = 2
    assert await floor.reason(hidden) is Reason.KEY_VERSION_RETIRED


async def test_a_denied_version_is_not_asked_for_though_the_policy_takes_it(desk, card):
    """The old secret is out: a copy that has the card's old keys is denied, the card is not."""
    both, lock = await rekeyed(desk, card), overlap(desk)
    lock.denied = frozenset({1})
    hidden = saying(both, Info(desk.suite_name, {Slot.A: 1}, Slot.A, True))
    assert await lock.reason(hidden) is Reason.KEY_VERSION_RETIRED
    assert layout.INTERNAL_AUTHENTICATE not in {c.ins for c in lock.channel.commands}
    both.reset()
    assert await lock.reason(both.transmit) is None


async def test_a_denied_new_version_lets_no_one_in_by_it(desk, card):
    both, lock = await rekeyed(desk, card), overlap(desk)
    lock.denied = frozenset({2})
    claim = Info(desk.suite_name, {Slot.B: 2}, Slot.B, True)
    assert await lock.reason(saying(both, claim)) is Reason.KEY_VERSION_UNSUPPORTED
    both.reset()
    assert await lock.reason(both.transmit) is None  # by version 1, which still counts
    assert lock.proof is not None
    assert lock.proof.key_version == 1


async def test_where_every_version_is_denied_the_proof_of_one_does_not_help(desk, card):
    lock = Lock(desk)
    lock.denied = frozenset({1})
    decision = await lock.present(card.transmit)
    assert decision.reason is Reason.KEY_VERSION_RETIRED
    assert decision.detail == "the key version was revoked"
