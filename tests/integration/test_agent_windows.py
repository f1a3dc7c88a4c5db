"""Cards in windows that an operator opened: over a real link, with an in-process broker."""

from __future__ import annotations

import asyncio
import random

import pytest

from edge_agent.readers.port import Feedback
from schemas.command import Action
from schemas.transport import TransportRefusal
from tests.door_rig import DOOR
from tests.esam_desk import ESAM_SERIAL
from tests.window_rig import BOUND, DENIED, ERROR, TRY_AGAIN, Torn, window_rig

GRANTED = Feedback.GRANTED
UNBINDING = Action.UNBINDING_WINDOW


@pytest.fixture
async def stand(tmp_path):
    async with window_rig(tmp_path) as rig:
        yield rig


@pytest.mark.parametrize("suite", ["gm", "intl"])
async def test_a_new_card_is_bound_to_the_windows_person_and_opens_once_the_policy_knows(
    tmp_path, suite
):
    async with window_rig(tmp_path, door={"suite": suite}) as stand:
        card = stand.card(1, suite)
        assert await stand.rig.tap(card) is DENIED, "no window is open"
        command = await stand.open()
        assert await stand.rig.tap(card) is BOUND
        _, data = await stand.event("card.bound")
        assert data["card"] == card.serial.hex()
        assert (data["command"], data["person"], data["domain"]) == (command, "bob", DOOR)
        assert (data["key_version"], data["transport"]) == (1, "list")
        assert [each.loan for each in stand.requests] == [None]
        assert await stand.rig.tap(card) is DENIED, "the window is used up, the policy is as before"
        await stand.know(card, door={"suite": suite})
        assert await stand.rig.tap(card) is GRANTED


async def test_where_the_keys_are_on_an_esam_the_key_is_lent_to_it(stand):
    stand.fit_esam(1)
    card = stand.card(1)
    command = await stand.open()
    assert await stand.rig.tap(card) is BOUND
    first, second = stand.requests
    assert first.loan is None
    assert second.loan is not None
    assert (second.loan.esam, second.loan.domain) == (ESAM_SERIAL.hex(), DOOR)
    assert first.recipient != second.recipient
    assert {first.command, second.command} == {command}
    await stand.know(card)
    assert await stand.rig.tap(card) is GRANTED


async def test_a_card_without_memory_is_full(stand):
    card = stand.card(1, capacity=16)
    await stand.open()
    assert await stand.rig.tap(card) is DENIED
    assert await stand.cards() == [("card_full", card.serial.hex())]


@pytest.mark.parametrize("answer", [b"", b"\x6d\x00", b"\x90\x00", b"\x6f\x02\x84\x7f\x90\x00"])
async def test_a_foreign_card_is_none_of_ours(stand, answer):
    await stand.open()

    async def foreign(apdu: bytes) -> bytes:
        return answer

    assert await stand.rig.present(foreign) is DENIED
    assert await stand.cards() == [("not_our_card", None)]
    assert stand.requests == []
    assert await stand.rig.tap(stand.card(1)) is BOUND


async def test_no_answer_of_a_hostile_card_ends_a_window_or_a_reader(stand):
    dice, card = random.Random(7), stand.card(1)
    await stand.open()
    for _ in range(80):
        lie_at = dice.randrange(1, 20)  # before the keys are proved
        card.reset()
        answered = 0

        async def hostile(apdu: bytes, lie_at: int = lie_at) -> bytes:
            nonlocal answered
            answered += 1
            if answered < lie_at:
                return card.transmit(apdu)
            noise = dice.randbytes(dice.choice((0, 1, 8, 16, 40, 260)))
            return noise + dice.choice((b"", b"\x90", b"\x90\x00", b"\x63\xc4"))

        assert await stand.rig.present(hostile) in (DENIED, TRY_AGAIN, ERROR)
    assert await stand.rig.tap(stand.card(2)) is BOUND
    assert await stand.events("card.bound", "door.fault") == [
        ("card.bound", (await stand.event("card.bound"))[1])
    ]


async def test_a_card_that_changes_its_serial_is_none_of_ours(stand):
    first, second = stand.card(1), stand.card(2)
    answered = 0
    await stand.open()

    async def two_faced(apdu: bytes) -> bytes:
        nonlocal answered
        answered += 1
        return (first if answered == 1 else second).transmit(apdu)

    assert await stand.rig.present(two_faced) is DENIED
    assert [outcome for outcome, _ in await stand.cards()] == ["not_our_card"]
    assert stand.requests == []


@pytest.mark.parametrize("answered", [False, True])
async def test_a_card_that_is_taken_away_anywhere_is_bound_when_it_is_held_up_again(
    stand, answered
):
    at = 0
    while True:
        at += 1
        card = stand.card(at)
        await stand.open()
        shown = await stand.rig.present(Torn(card, at, answered=answered))
        if shown is BOUND:
            break  # it was held up for longer than it takes
        assert shown is TRY_AGAIN
        assert await stand.rig.tap(card) is BOUND
        assert (await stand.cards())[-1] == ("card.bound", card.serial.hex())
    assert at > 20, "every command was cut off once"
    outcomes = {outcome for outcome, _ in await stand.cards()}
    assert outcomes == {"card_removed", "card.bound"}


async def test_who_is_known_goes_in_and_out_though_windows_are_open(stand):
    known, new = stand.card(1), stand.card(2)
    await stand.open()
    assert await stand.rig.tap(known) is BOUND
    await stand.know(known)
    await stand.open(direction="in")
    await stand.open(direction="out")
    asked = len(stand.requests)
    for direction in ("in", "out", "in"):
        assert await stand.rig.tap(known, direction) is GRANTED
    assert len(stand.requests) == asked
    assert await stand.rig.tap(new) is BOUND, "its window did not notice them"
    assert await stand.rig.tap(stand.card(3), "out") is BOUND


async def test_a_card_that_waits_for_the_server_holds_up_no_exit(stand):
    known, new = stand.card(1), stand.card(2)
    await stand.open()
    assert await stand.rig.tap(known) is BOUND
    await stand.know(known)
    asked = asyncio.Event()

    def silent(request):
        asked.set()
        return []

    stand.answer = silent
    await stand.open()
    new.reset()
    stand.rig.readers["in"].present(new.respond)
    await asked.wait()
    await stand.rig.io.press_rex()
    await stand.rig.until_strike(released=True)
    await stand.rig.until_strike(released=False)
    assert await stand.rig.tap(known, "out") is GRANTED
    await stand.rig.until_strike(released=True)


async def test_a_new_window_takes_the_place_of_the_old_one(stand):
    old, new = await stand.open(), await stand.open(person="eve")
    (_, ended) = await stand.event("card.not_bound")
    assert (ended["command"], ended["outcome"], ended["card"]) == (old, "replaced", None)
    assert await stand.rig.tap(stand.card(1)) is BOUND
    _, bound = await stand.event("card.bound")
    assert (bound["command"], bound["person"]) == (new, "eve")


class Slow:
    """Answers the next question when it is let go on."""

    def __init__(self, stand) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()
        self._honest, self._stand = stand.answer, stand
        self._answering: asyncio.Future[None] | None = None
        stand.answer = self._ask

    def _ask(self, request):
        self._stand.answer = self._honest
        self.asked.set()
        self._answering = asyncio.ensure_future(self._answer(request))
        return []

    async def _answer(self, request) -> None:
        await self.go_on.wait()
        for body in self._honest(request):
            await self._stand.tell("transport", body)


async def held_while_slow(stand, card) -> Slow:
    """The card lies on the reader, and the server takes its time."""
    slow = Slow(stand)
    card.reset()
    stand.rig.readers["in"].present(card.respond)
    await slow.asked.wait()
    return slow


async def test_a_card_that_is_being_bound_ends_its_own_window_and_not_the_new_one(stand):
    old = await stand.open()
    slow = await held_while_slow(stand, stand.card(1))
    new = await stand.open(person="eve")
    slow.go_on.set()
    assert await stand.rig.shown.get() is BOUND
    assert (await stand.event("card.bound"))[1]["command"] == old
    assert await stand.rig.tap(stand.card(2)) is BOUND
    assert (await stand.event("card.bound", card=f"{2:016x}"))[1]["command"] == new
    assert await stand.events("card.not_bound") == []


async def test_a_card_that_is_refused_in_a_window_that_was_replaced_is_its_last(stand):
    stand.refuse(TransportRefusal.OTHER_PERSON)
    old = await stand.open()
    slow = await held_while_slow(stand, stand.card(1))
    await stand.open()
    slow.go_on.set()
    assert await stand.rig.shown.get() is DENIED
    told = [(d["command"], d["outcome"]) for _, d in await stand.events("card.not_bound")]
    assert told == [(old, "other_person"), (old, "replaced")]


async def test_a_card_that_was_not_known_yet_when_its_window_was_replaced_is_in_none(stand):
    asked, go_on = asyncio.Event(), asyncio.Event()
    old, card = await stand.open(), stand.card(1)
    card.reset()

    async def slow(apdu: bytes) -> bytes:
        asked.set()
        await go_on.wait()
        return card.transmit(apdu)

    stand.rig.readers["in"].present(slow)
    await asked.wait()
    await stand.open(person="eve")
    go_on.set()
    assert await stand.rig.shown.get() is DENIED
    ((_, ended),) = await stand.events("card.not_bound")
    assert (ended["command"], ended["outcome"]) == (old, "replaced")
    assert stand.requests == []
    assert await stand.rig.tap(card) is BOUND


@pytest.mark.parametrize("refused", [False, True])
async def test_a_card_at_the_end_of_the_window_is_served_to_its_end(stand, refused):
    if refused:
        stand.refuse(TransportRefusal.OTHER_PERSON)
    command = await stand.open(seconds=0.3)
    slow = await held_while_slow(stand, stand.card(1))
    await stand.open(direction="out", seconds=0.4)
    await stand.event("card.not_bound", outcome="nobody_came")  # so the first is over as well
    slow.go_on.set()
    assert await stand.rig.shown.get() is (DENIED if refused else BOUND)
    assert await stand.rig.tap(stand.card(2)) is DENIED
    told = [(data["command"], name) for name, data in await stand.events("card.bound")]
    assert told == ([] if refused else [(command, "card.bound")])
    outcomes = [data["outcome"] for _, data in await stand.events("card.not_bound")]
    assert outcomes == ["nobody_came", *["other_person"] * refused]


async def test_a_window_that_nobody_used_ends_and_says_so(stand):
    command = await stand.open(seconds=0.3)
    _, data = await stand.event("card.not_bound")
    assert (data["command"], data["outcome"], data["card"]) == (command, "nobody_came", None)
    assert await stand.rig.tap(stand.card(1)) is DENIED
    assert stand.requests == []


async def test_a_window_in_which_a_card_was_refused_just_ends(stand):
    stand.refuse(TransportRefusal.OTHER_PERSON)
    await stand.open(seconds=0.4)
    assert await stand.rig.tap(stand.card(1)) is DENIED
    other = await stand.open(direction="out", seconds=0.6)
    _, last = await stand.event("card.not_bound", outcome="nobody_came")
    assert last["command"] == other
    assert [outcome for outcome, _ in await stand.cards()] == ["other_person", "nobody_came"]


async def test_nothing_is_shown_that_is_not_kept(stand, monkeypatch):
    card, _ = stand.card(1), await stand.open()
    record, recorder = stand.rig.recorder.record, stand.rig.recorder

    async def full(drafts):
        return [] if drafts[0].name == "card.bound" else await record(drafts)

    monkeypatch.setattr(recorder, "record", full)
    assert await stand.rig.tap(card) is ERROR
    assert [outcome for outcome, _ in await stand.cards()] == ["not_kept"]
    monkeypatch.undo()
    assert await stand.rig.tap(card) is BOUND, "it proves that it is bound, and is told again"


async def test_an_esam_that_was_taken_out_binds_nothing(stand):
    stand.fit_esam(1)
    await stand.open()
    (stand.rig.folder / "esam.bin").rename(stand.rig.folder / "taken")
    assert await stand.rig.tap(stand.card(1)) is ERROR
    assert [outcome for outcome, _ in await stand.cards()] == ["element_unavailable"]


async def test_a_window_for_one_card_takes_no_other(stand):
    own, other = stand.card(1), stand.card(2)
    await stand.open(card=own.serial.hex())
    assert await stand.rig.tap(other) is DENIED
    assert await stand.cards() == [("other_card", other.serial.hex())]
    assert stand.requests == []
    assert await stand.rig.tap(own) is BOUND


async def test_a_card_in_its_unbinding_window_loses_its_keys_and_others_pass(stand):
    cards = [stand.card(number) for number in range(1, 4)]
    for card in cards[:2]:
        await stand.open()
        assert await stand.rig.tap(card) is BOUND
    await stand.know(*cards[:2])
    own, known, new = cards
    command = await stand.open(UNBINDING, card=own.serial.hex())
    assert await stand.rig.tap(known) is GRANTED
    assert await stand.rig.tap(new) is DENIED
    assert await stand.rig.tap(own) is BOUND
    _, data = await stand.event("card.unbound")
    assert (data["card"], data["command"], data["domain"]) == (own.serial.hex(), command, DOOR)
    assert own.image.applications == {}
    assert await stand.rig.tap(own) is DENIED, "no window, no keys"
    assert [each for each in await stand.cards() if each[0] == "other_card"] == [
        ("other_card", new.serial.hex())
    ]


async def test_a_card_that_is_torn_away_in_its_unbinding_window_is_unbound_the_next_time(stand):
    await stand.open()
    card = stand.card(1)
    assert await stand.rig.tap(card) is BOUND
    await stand.know(card)
    await stand.open(UNBINDING, card=card.serial.hex())
    for at in range(2, 7):
        assert await stand.rig.present(Torn(card, at, answered=False)) is TRY_AGAIN
    assert await stand.rig.tap(card) is BOUND
    assert card.image.applications == {}
