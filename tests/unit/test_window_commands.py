"""Which commands open a window, which are refused by name, and how long a window is open."""

from __future__ import annotations

from datetime import timedelta

import pytest

from edge_agent import windows
from edge_agent.readers.port import Feedback
from schemas.command import WINDOWS, Action
from tests.door_stand import DOOR, OTHER, door_stand

BINDING, UNBINDING = Action.BINDING_WINDOW, Action.UNBINDING_WINDOW
CARD = "00112233445566aa"


@pytest.fixture
async def stand(tmp_path):
    async with door_stand(tmp_path) as stand:
        await stand.policy()
        await stand.start()
        yield stand


def window(stand, action=BINDING, seconds=30, **changes):
    who = {"person": "ada"} if action is BINDING else {"card": CARD}
    until = stand.recorder.judge_time()[0] + timedelta(seconds=seconds)
    return {"action": action, "until": until, "direction": "in"} | who | changes


@pytest.mark.parametrize("action", sorted(WINDOWS))
async def test_a_command_opens_a_window_and_moves_no_strike(stand, action):
    result = await stand.command(**window(stand, action))
    assert (result["result"], result["action"]) == ("command.executed", action)
    opened = stand.doors[DOOR].windows.at("in")
    assert opened is not None
    assert opened.command.id == result["command"]
    assert opened.unbinds is (action is UNBINDING)
    assert stand.doors[DOOR].windows.at("out") is None
    assert stand.doors[OTHER].windows.at("in") is None
    assert stand.strikes == {DOOR: [], OTHER: []}


async def refusal(stand, **changes):
    result = await stand.command(**changes)
    assert result["result"] == "command.refused"
    assert all(door.windows.at("in") is None for door in stand.doors.values())
    return result["reason"]


@pytest.mark.parametrize("action", sorted(WINDOWS))
async def test_a_window_is_refused_by_name(stand, action):
    assert await refusal(stand, **window(stand, action, door="cellar")) == "UnknownDoor"
    assert await refusal(stand, **window(stand, action, direction="out")) == "NoReader"
    assert await refusal(stand, **window(stand, action, seconds=-1)) == "TooLate"


async def test_a_door_that_is_shut_opens_no_window(stand):
    await stand.lock_down(("site", stand.voice.keys.site))
    assert await refusal(stand, **window(stand)) == "DoorShut"
    await stand.lock_down()
    await stand.command(Action.BLOCK)
    assert await refusal(stand, **window(stand)) == "DoorShut"
    await stand.command(Action.NORMAL)
    assert (await stand.command(**window(stand)))["result"] == "command.executed"


async def test_a_lock_that_has_not_heard_the_server_for_too_long_opens_no_window(stand):
    stand.clock.ahead_s += 3600 * 24 * 3
    assert await refusal(stand, **window(stand)) == "NotFresh"
    await stand.beat()
    assert (await stand.command(**window(stand)))["result"] == "command.executed"


async def test_a_door_whose_hardware_does_not_work_opens_no_window(tmp_path):
    async with door_stand(tmp_path) as stand:
        await stand.policy()
        assert await refusal(stand, **window(stand)) == "Failed"


async def test_a_window_that_ended_while_the_disk_counted_its_command_is_not_opened(stand):
    command = await stand.taken(**window(stand))
    stand.clock.ahead_s += 31
    await stand.commanding.execute(command)
    ((name, result),) = await stand.events("command.executed", "command.refused")
    assert (name, result["reason"]) == ("command.refused", "TooLate")


async def test_a_wall_clock_that_is_set_back_opens_a_window_no_longer(stand):
    await stand.command(**window(stand, seconds=60))
    stand.clock.stepped_s = -3600
    stand.clock.ahead_s = 59
    assert stand.doors[DOOR].windows.at("in") is not None
    stand.clock.ahead_s = 61
    assert stand.doors[DOOR].windows.at("in") is None


async def test_a_reader_blinks_as_long_as_its_window_is_open(stand, monkeypatch):
    monkeypatch.setattr(windows, "BLINK_S", 0.02)
    began_s = stand.clock.monotonic()
    await stand.command(**window(stand, seconds=60))
    while len(stand.shown) < 3:
        assert await stand.events("card.not_bound") == []  # to the disk and back: no busy loop
    open_s = stand.clock.monotonic() - began_s
    assert len(stand.shown) <= open_s / windows.BLINK_S + 1
    stand.clock.ahead_s = 60
    while not await stand.events("card.not_bound"):
        pass
    assert set(stand.shown) == {(DOOR, Feedback.BINDING)}
