"""What a lock says that it prefers, and the cards that are given keys when that changes.

The server ends a version when no lock prefers it and no card is known to have no other. So what
came of a card that was given keys by the old policy is said before the lock says that it goes by
the new one.
"""

from __future__ import annotations

import asyncio
import secrets

import pytest

from edge_agent import window_tap
from edge_agent.keying import Keying
from edge_agent.keys_held import KeysHeld
from tests.door_rig import DOOR
from tests.window_rig import BOUND, TRY_AGAIN, Torn, WindowRig, window_rig


class Change:
    """A window rig whose lock holds version 2 as well; the policy prefers 1 until `prefer`."""

    def __init__(self, stand: WindowRig) -> None:
        self.stand, self.rig = stand, stand.rig
        self.asked = asyncio.Event()
        """The server is asked for a transport key."""
        self._parts = (self.rig.elements, self.rig.store, self.rig.recorder)
        self.keying = Keying(*self._parts, self.rig.signer, secrets.token_bytes)

    def hold_answers_back(self) -> None:
        def later(_) -> list[bytes]:
            self.asked.set()
            return []

        self.stand.answer = later

    async def answer(self) -> None:
        for request in self.stand.requests:
            for body in self.stand.honest(request):
                await self.stand.tell("transport", body)

    async def prefer(self, version: int, *cards) -> None:
        """The policy is in force, and what there is to say of it now is said."""
        accepted = list(range(1, version))
        versions = {"key_version": version, "accepted_key_versions": accepted}
        await self.stand.know(*cards, door=versions)
        assert await KeysHeld(*self._parts).tell_changes()

    async def said(self, version: int = 2) -> list[str]:
        """In their order, once the lock says that it prefers this version."""
        await self.stand.event("keys.held", preferred=version)
        names = ("keys.held", "card.bound", "card.not_bound", "card.rekeyed")
        return [name for name, _ in await self.stand.events(*names)]


@pytest.fixture
async def change(tmp_path):
    async with window_rig(tmp_path) as stand:
        stand.rig.elements.get(DOOR, "intl").draw(2, secrets.token_bytes)
        change = Change(stand)
        running = asyncio.create_task(change.keying.run())
        await stand.event("keys.held", preferred=1)
        yield change
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_card_that_is_being_bound_is_told_of_before_another_version_is_preferred(change):
    change.hold_answers_back()
    await change.stand.open()
    tap = asyncio.create_task(change.rig.tap(change.stand.card(1)))
    await change.asked.wait()
    await change.prefer(2)
    await change.answer()
    assert await tap is BOUND
    assert await change.said() == ["keys.held", "card.bound", "keys.held"]
    (_, bound) = (await change.stand.events("card.bound"))[0]
    assert bound["key_version"] == 1


async def test_a_card_that_is_being_re_keyed_is_told_of_first_too(change):
    card = change.stand.card(1)
    await change.stand.open()
    assert await change.rig.tap(card) is BOUND
    await change.prefer(2, card)
    writing, go = asyncio.Event(), asyncio.Event()
    card.reset()

    async def slow(apdu: bytes) -> bytes:
        if apdu[1] == 0xD4:
            writing.set()
            await go.wait()
        return card.transmit(apdu)

    await change.rig.present(slow)
    await writing.wait()
    change.rig.elements.get(DOOR, "intl").draw(3, secrets.token_bytes)
    await change.prefer(3, card)
    go.set()
    assert (await change.said(3))[-2:] == ["card.rekeyed", "keys.held"]


async def test_a_card_that_is_never_done_holds_it_up_for_as_long_as_its_tap_may_last(
    change, monkeypatch
):
    monkeypatch.setattr(window_tap, "WINDOW_TIMEOUT_S", 0.5)
    change.hold_answers_back()
    await change.stand.open()
    tap = asyncio.create_task(change.rig.tap(change.stand.card(1)))
    await change.asked.wait()
    await change.prefer(2)
    assert await tap is TRY_AGAIN
    assert await change.said() == ["keys.held", "card.not_bound", "keys.held"]


async def test_a_card_that_is_taken_away_or_a_door_that_ends_holds_up_nothing(change):
    card = change.stand.card(1)
    card.reset()
    await change.stand.open()
    assert await change.rig.present(Torn(card, 1, answered=False)) is TRY_AGAIN
    change.hold_answers_back()
    change.rig.readers["in"].present(Torn(card, 100, answered=True))
    await change.asked.wait()
    await change.prefer(2)
    assert len(await change.stand.events("keys.held")) == 1
    await change.rig.stop()
    assert await change.said() == ["keys.held", "keys.held"]
