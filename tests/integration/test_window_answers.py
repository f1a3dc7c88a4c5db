"""What the server says to the question for a transport key, and what it does to a card."""

from __future__ import annotations

import pytest

from edge_agent import transport_keys, window_tap
from schemas.transport import TransportRefusal
from tests.door_rig import DOOR
from tests.key_rig import bytes_of, traces
from tests.window_rig import BOUND, DENIED, ERROR, TRY_AGAIN, window_rig


@pytest.fixture
async def stand(tmp_path):
    async with window_rig(tmp_path) as rig:
        yield rig


async def test_a_refusal_is_told_where_an_esam_asks_too(stand):
    stand.fit_esam(1)
    card = stand.card(1)
    await stand.open()

    def not_to_that_esam(request):
        if request.loan is None:
            return stand.honest(request)
        refusal = TransportRefusal.ESAM_REFUSED
        return [stand.voice.transport_key(request, None, refusal=refusal)]

    stand.answer = not_to_that_esam
    assert await stand.rig.tap(card) is DENIED
    assert await stand.cards() == [("esam_refused", card.serial.hex())]
    stand.answer = stand.honest
    assert await stand.rig.tap(card) is BOUND


@pytest.mark.parametrize("refusal", list(TransportRefusal))
async def test_each_refusal_of_the_server_is_told_and_nothing_is_written(stand, refusal):
    stand.refuse(refusal)
    card, command = stand.card(1), await stand.open()
    before = card.image
    expected = ERROR if refusal is TransportRefusal.FAILED else DENIED
    assert await stand.rig.tap(card) is expected
    _, data = await stand.event("card.not_bound", command=command)
    assert (data["outcome"], data["card"], data["person"]) == (refusal, card.serial.hex(), "bob")
    assert card.image == before
    stand.answer = stand.honest
    assert await stand.rig.tap(card) is BOUND, "the window is still open"


async def test_a_wrong_transport_key_costs_a_card_one_try_a_window_until_it_has_none(stand):
    card = stand.card(1)
    stand.maker[card.serial.hex()] = bytes(16)
    for _ in range(5):
        await stand.open()
        for _ in range(3):
            assert await stand.rig.tap(card) is DENIED
    assert card.image.transport.tries_left == 0
    await stand.open()
    assert await stand.rig.tap(card) is DENIED
    outcomes = [outcome for outcome, _ in await stand.cards()]
    assert outcomes == [*["transport_key_refused"] * 3, "replaced"] * 5 + ["blocked"]


async def test_an_answer_that_is_lost_is_asked_for_when_the_card_is_held_up_again(
    stand, monkeypatch
):
    monkeypatch.setattr(transport_keys, "ANSWER_S", 0.1)
    stand.answer = lambda request: []
    card, _ = stand.card(1), await stand.open()
    assert await stand.rig.tap(card) is TRY_AGAIN
    assert await stand.cards() == [("no_answer", card.serial.hex())]
    late = stand.honest(stand.requests[0])
    await stand.tell("transport", late[0])
    await stand.event("statement.rejected", reason="Replayed")
    monkeypatch.undo()
    stand.answer = stand.honest
    assert await stand.rig.tap(card) is BOUND


@pytest.mark.parametrize("lie", ["other card", "other seal", "replay", "other session", "no key"])
async def test_a_lying_answer_binds_no_card(stand, monkeypatch, lie):
    victim, card = stand.card(1), stand.card(2)
    await stand.open()
    assert await stand.rig.tap(victim) is BOUND
    earlier = stand.requests[-1]
    old_answer, key = stand.honest(earlier), stand.maker[victim.serial.hex()]

    def lying(request):
        moved = request.model_copy(update={"card": victim.serial.hex()})
        match lie:
            case "other card":
                return [stand.voice.transport_key(moved, key)]
            case "other seal":  # says that it is for this card, and is sealed for another
                return [stand.voice.transport_key(moved, key, card=request.card)]
            case "replay":
                return old_answer
            case "other session":
                return [stand.voice.transport_key(request, key, session="0" * 16)]
            case _:
                return [stand.voice.transport_key(request, b"short")]

    monkeypatch.setattr(transport_keys, "ANSWER_S", 0.3)
    stand.answer, before = lying, card.image
    await stand.open()
    assert await stand.rig.tap(card) is TRY_AGAIN
    reasons = {
        "other seal": "BadSignature",
        "other session": "WrongSession",
        "no key": "MalformedKey",
    }
    await stand.event("statement.rejected", reason=reasons.get(lie, "Replayed"))
    assert card.image == before
    monkeypatch.undo()
    stand.answer = stand.honest
    assert await stand.rig.tap(card) is BOUND


async def test_of_two_answers_the_first_counts(stand):
    def twice(request):
        refusal = stand.voice.transport_key(request, None, refusal=TransportRefusal.FAILED)
        return [*stand.honest(request), refusal]

    stand.answer = twice
    await stand.open()
    assert await stand.rig.tap(stand.card(1)) is BOUND
    await stand.event("statement.rejected", reason="Replayed")


async def test_a_card_that_takes_too_long_is_given_up(stand, monkeypatch):
    monkeypatch.setattr(window_tap, "WINDOW_TIMEOUT_S", 2.0)  # of which it names itself
    stand.answer = lambda request: []
    card, _ = stand.card(1), await stand.open()
    assert await stand.rig.tap(card) is TRY_AGAIN
    assert await stand.cards() == [("timed_out", card.serial.hex())]


async def test_without_a_connection_no_key_is_asked_for(stand):
    await stand.open()

    async def cut(channel: str, payload: bytes) -> None:
        raise ConnectionError("cut")

    stand.rig.transport_keys.connected(cut, "0" * 16)
    assert await stand.rig.tap(stand.card(1)) is TRY_AGAIN
    assert [outcome for outcome, _ in await stand.cards()] == ["no_connection"]


async def test_a_card_that_is_bound_and_that_the_policy_forgot_is_the_servers_to_judge(stand):
    card, _ = stand.card(1), await stand.open()
    assert await stand.rig.tap(card) is BOUND
    await stand.open()
    stand.refuse(TransportRefusal.CARD_NOT_ACTIVE)
    assert await stand.rig.tap(card) is DENIED
    stand.answer = stand.honest
    assert await stand.rig.tap(card) is BOUND


async def test_the_transport_key_is_in_no_file_and_no_log(stand, capfd):
    stand.fit_esam(1)
    card, _ = stand.card(1), await stand.open()
    assert await stand.rig.tap(card) is BOUND
    key = stand.maker[card.serial.hex()]
    written = bytes_of(stand.rig.folder)
    assert traces(written + "".join(capfd.readouterr()).encode(), [key]) == []
    given = transport_keys.Given(key, "list", key)
    assert key.hex() not in repr(given)
    assert repr(key) not in repr(given)


async def test_nothing_is_written_of_a_key_version_that_counts_no_more(stand):
    card, _ = stand.card(1), await stand.open()
    before = card.image
    floors = {DOOR: 2}  # which is the domain's name too
    heartbeat = stand.voice.heartbeat(key_floors=floors)
    await stand.rig.store.take_heartbeat(heartbeat, stand.rig.clock.now())
    assert await stand.rig.tap(card) is DENIED
    assert await stand.cards() == [("key_version_retired", card.serial.hex())]
    assert (card.image, stand.requests) == (before, [])
