"""A card that opened the door is given the version its policy prefers; the passage comes first."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from edge_agent import rekeying
from edge_agent.readers.port import Feedback
from edge_agent.secure_element.port import ElementUnavailable
from edge_agent.tap import Lacking, Tap
from edge_agent.virtual.card_os import VirtualCard
from schemas.command import Action
from schemas.policy import DoorMode
from tests.door_rig import DOOR
from tests.window_rig import BOUND, Torn, window_rig

GRANTED, DENIED = Feedback.GRANTED, Feedback.DENIED


class Overlap:
    """A window rig in which a card was bound with version 1, and the door asks for others."""

    def __init__(self, stand, suite: str) -> None:
        self.stand, self.rig, self.suite = stand, stand.rig, suite

    async def bound(self, number: int = 1) -> VirtualCard:
        card = self.stand.card(number, self.suite)
        await self.stand.open()
        assert await self.rig.tap(card) is BOUND
        return card

    async def prefer(self, version: int, *accepted: int, cards=(), **door) -> None:
        versions = {"key_version": version, "accepted_key_versions": accepted}
        await self.stand.know(*cards, door={"suite": self.suite, **versions, **door})

    def hold_version(self, version: int) -> None:
        self.rig.elements.get(DOOR, self.suite).draw(version, secrets.token_bytes)

    async def told(self) -> list[dict]:
        return [data for _, data in await self.stand.events("card.rekeyed", "card.not_rekeyed")]

    async def asked(self) -> list[int]:
        return [data["key_version"] for _, data in await self.stand.events("access.granted")]


@pytest.fixture(params=["intl", "gm"])
async def overlap(tmp_path, request):
    async with window_rig(tmp_path, door={"suite": request.param}) as stand:
        yield Overlap(stand, request.param)


@pytest.fixture
async def in_overlap(tmp_path):
    """Version 2 is preferred and held, and one card has version 1."""
    async with window_rig(tmp_path) as stand:
        overlap = Overlap(stand, "intl")
        overlap.card = await overlap.bound()
        overlap.hold_version(2)
        await overlap.prefer(2, 1, cards=[overlap.card])
        yield overlap


@pytest.fixture
def given(monkeypatch):
    """What cards were to be given, in place of giving it."""
    kept: list[Lacking] = []

    async def give(rekeying, card, lacking):
        kept.append(lacking)

    monkeypatch.setattr(rekeying.Rekeying, "give", give)
    return kept


async def test_a_card_is_given_the_preferred_version_when_it_opens(overlap):
    card = await overlap.bound()
    overlap.hold_version(2)
    await overlap.prefer(2, 1, cards=[card])
    assert await overlap.rig.tap(card) is GRANTED
    await overlap.stand.event("card.rekeyed", card=card.serial.hex())
    (told,) = await overlap.told()
    assert (told["from_version"], told["key_version"], told["domain"]) == (1, 2, DOOR)
    assert told["command"] is None
    assert await overlap.rig.tap(card) is GRANTED
    assert await overlap.asked() == [1, 2]
    await overlap.prefer(2, cards=[card])
    assert await overlap.rig.tap(card) is GRANTED, "the old version is retired"
    assert len(await overlap.told()) == 1


async def test_the_strike_moves_before_the_card_is_written_to(in_overlap):
    moved: list[bool] = []
    card, rig = in_overlap.card, in_overlap.rig
    card.reset()

    async def watched(apdu: bytes) -> bytes:
        if apdu[1] in (0xD4, 0xD6):
            moved.append(rig.io.released)
        return card.transmit(apdu)

    assert await rig.present(watched) is GRANTED
    await in_overlap.stand.event("card.rekeyed")
    assert len(moved) == 4
    assert all(moved)


async def test_a_card_is_re_keyed_at_the_exit_reader_too(in_overlap):
    assert await in_overlap.rig.tap(in_overlap.card, "out") is GRANTED
    await in_overlap.stand.event("card.rekeyed")


async def test_after_a_roll_back_a_card_that_has_only_the_new_version_is_given_the_old_one(overlap):
    overlap.hold_version(2)
    await overlap.prefer(2, 1)
    card = await overlap.bound()
    await overlap.prefer(1, 2, cards=[card])
    assert await overlap.rig.tap(card) is GRANTED
    await overlap.stand.event("card.rekeyed", from_version=2, key_version=1)
    assert await overlap.rig.tap(card) is GRANTED
    assert await overlap.asked() == [2, 1]


async def test_a_lock_that_was_not_given_the_new_version_opens_and_writes_nothing(overlap, given):
    card = await overlap.bound()
    await overlap.prefer(2, 1, cards=[card])
    assert await overlap.rig.tap(card) is GRANTED
    assert await overlap.rig.tap(card) is GRANTED, "the reader is done with the first tap"
    assert given == []
    overlap.hold_version(2)
    assert await overlap.rig.tap(card) is GRANTED
    assert await overlap.rig.tap(overlap.stand.card(9, overlap.suite)) is DENIED
    assert [(each.from_version, each.question.key_version) for each in given] == [(1, 2)]


async def test_a_card_that_may_not_pass_is_not_re_keyed(in_overlap, given):
    await in_overlap.prefer(2, 1)  # this policy does not know it
    for _ in range(2):
        assert await in_overlap.rig.tap(in_overlap.card) is DENIED
    await in_overlap.prefer(2, 1, cards=[in_overlap.card], mode=DoorMode.BLOCKED)
    for _ in range(2):
        assert await in_overlap.rig.tap(in_overlap.card) is DENIED
    assert given == []


async def test_a_door_that_was_shut_after_the_decision_re_keys_nobody(
    in_overlap, given, monkeypatch
):
    decide = Tap.decide

    async def decide_and_shut(tap, card):
        outcome = await decide(tap, card)
        await in_overlap.stand.command(Action.BLOCK)
        return outcome

    monkeypatch.setattr(Tap, "decide", decide_and_shut)
    assert await in_overlap.rig.tap(in_overlap.card) is DENIED
    monkeypatch.setattr(Tap, "decide", decide)
    assert await in_overlap.rig.tap(in_overlap.card) is DENIED
    assert given == []
    assert await in_overlap.asked() == [1], "it was granted, and the door was shut then"


async def test_a_card_is_given_nothing_that_the_door_does_not_prefer_any_more(
    in_overlap, given, monkeypatch
):
    assert await in_overlap.rig.tap(in_overlap.card) is GRANTED
    assert await in_overlap.rig.tap(in_overlap.stand.card(9)) is DENIED, "the first tap is over"
    monkeypatch.undo()
    in_overlap.hold_version(3)
    await in_overlap.prefer(3, 1, cards=[in_overlap.card])
    untouched = object()
    (lacking,) = given
    await rekeying.Rekeying(DOOR, in_overlap.rig.house).give(untouched, lacking)
    assert await in_overlap.told() == []
    assert await in_overlap.rig.tap(in_overlap.card) is GRANTED
    await in_overlap.stand.event("card.rekeyed", from_version=1, key_version=3)


@pytest.mark.parametrize("answered", [False, True])
async def test_a_card_that_is_taken_away_anywhere_opens_again_and_is_whole_in_the_end(
    in_overlap, answered
):
    stand, rig = in_overlap.stand, in_overlap.rig
    whole = Torn(in_overlap.card, 100, answered=True)
    in_overlap.card.reset()
    assert await rig.present(whole) is GRANTED
    await stand.event("card.rekeyed")
    assert whole.commands > 15
    for at in range(6, whole.commands + 1):  # before that it has not proved itself
        await in_overlap.prefer(1, 2)
        card = await in_overlap.bound(at)
        await in_overlap.prefer(2, 1, cards=[card])
        tearing = Torn(card, at, answered=answered)
        card.reset()
        assert await rig.present(tearing) is GRANTED
        await tearing.gone.wait()
        assert await rig.tap(card) is GRANTED
        if (await in_overlap.asked())[-1] == 1:
            await stand.event("card.rekeyed", card=card.serial.hex())
            assert await rig.tap(card) is GRANTED
        assert (await in_overlap.asked())[-1] == 2
    assert await stand.events("card.not_rekeyed", "door.fault") == []


async def test_a_re_key_that_breaks_is_told_and_the_next_card_passes(in_overlap, monkeypatch):
    rig, card = in_overlap.rig, in_overlap.card
    element = rig.elements.get(DOOR, "intl")

    async def broken(*_, **__):
        raise ElementUnavailable("it broke")

    async def mad(*_, **__):
        raise ZeroDivisionError

    for replacement, detail in ((broken, "it broke"), (mad, "ZeroDivisionError: ")):
        monkeypatch.setattr(element, "protect_next_key", replacement)
        assert await rig.tap(card) is GRANTED
        _, told = await in_overlap.stand.event("card.not_rekeyed", detail=detail)
        assert (told["from_version"], told["key_version"]) == (1, 2)
        monkeypatch.undo()
    assert await rig.tap(card) is GRANTED
    await in_overlap.stand.event("card.rekeyed")
    assert await in_overlap.stand.events("door.fault") == []


async def test_a_card_that_refuses_or_hangs_is_told_of(in_overlap, monkeypatch):
    rig, card = in_overlap.rig, in_overlap.card

    async def refusing(apdu: bytes) -> bytes:
        return b"\x6a\x80" if apdu[1] == 0xD4 else card.transmit(apdu)

    async def hanging(apdu: bytes) -> bytes:
        if apdu[1] == 0xD4:
            await asyncio.Event().wait()
        return card.transmit(apdu)

    async def presented(answer, detail: str) -> None:
        card.reset()
        assert await rig.present(answer) is GRANTED
        await in_overlap.stand.event("card.not_rekeyed", detail=detail)

    await presented(refusing, "refused")
    with monkeypatch.context() as patch:
        patch.setattr(rekeying, "REKEY_TIMEOUT_S", 0.1)
        await presented(hanging, "it took more than 0.1 s")
    assert await rig.tap(card) is GRANTED
    await in_overlap.stand.event("card.rekeyed")


async def test_with_a_window_open_a_known_card_is_re_keyed_as_ever(in_overlap):
    await in_overlap.stand.open()
    assert await in_overlap.rig.tap(in_overlap.card) is GRANTED
    await in_overlap.stand.event("card.rekeyed")
    assert await in_overlap.rig.tap(in_overlap.stand.card(9)) is BOUND


async def test_keys_on_an_esam_re_key_cards_too(tmp_path):
    async with window_rig(tmp_path) as stand:
        esam = stand.fit_esam(1)
        overlap = Overlap(stand, "intl")
        card = await overlap.bound()
        stand.authority.load(2)
        await esam.close()  # the desk and the lock work on one file: read it anew
        await overlap.prefer(2, 1, cards=[card])
        await esam.look()
        assert await overlap.rig.tap(card) is GRANTED
        await stand.event("card.rekeyed")
        assert await overlap.rig.tap(card) is GRANTED
        assert await overlap.asked() == [1, 2]
