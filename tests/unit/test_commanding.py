"""What comes of each command at a door, and what a door that is shut makes of it."""

import asyncio
import configparser
import sqlite3
import threading
from datetime import timedelta
from pathlib import Path

import pytest

import edge_agent
from edge_agent.commanding import EXIT_TO_RESTART
from edge_agent.core.door import Grant
from edge_agent.readers.port import Feedback
from edge_agent.readers.virtual import VirtualReader
from edge_agent.tap import TapOutcome
from schemas.command import Action
from schemas.policy import DoorMode
from tests.door_stand import DOOR, OTHER, door_stand


@pytest.fixture
async def stand(tmp_path):
    async with door_stand(tmp_path) as stand:
        await stand.policy()
        await stand.start()
        yield stand


async def test_a_pulse_releases_one_door_and_is_signed_for(stand):
    result = await stand.command(Action.PULSE)
    assert result["result"] == "command.executed"
    assert (result["action"], result["door"]) == ("pulse", DOOR)
    assert 0 <= result["latency_ms"] < 60_000
    assert stand.restarts == 0
    assert stand.strikes == {DOOR: [True], OTHER: []}
    assert await stand.modes() == [("accessed", "command")]
    door = stand.doors[DOOR]
    await stand.ios[DOOR].put_contact("open")
    await stand.ios[DOOR].put_contact("closed")
    await stand.until(lambda: stand.strikes[DOOR] == [True, False])
    ((_, opened),) = await stand.events("door.opened", "door.forced")
    assert opened["after"] == "command"
    assert door.mode is DoorMode.LOCKED


@pytest.mark.parametrize("action", [Action.PULSE, Action.UNLOCK, Action.IDENTIFY])
async def test_a_command_that_ended_while_the_disk_counted_it_is_not_carried_out(stand, action):
    command = await stand.taken(action)
    stand.clock.ahead_s += 31
    await stand.commanding.execute(command)
    ((name, result),) = await stand.events("command.executed", "command.refused")
    assert (name, result["reason"]) == ("command.refused", "TooLate")
    assert stand.strikes == {DOOR: [], OTHER: []}
    assert stand.shown == []


async def test_a_block_stands_though_the_disk_was_slow_to_take_it(stand):
    command = await stand.taken(Action.BLOCK)
    stand.clock.ahead_s += 31
    await stand.commanding.execute(command)
    assert stand.doors[DOOR].mode is DoorMode.BLOCKED


async def test_an_unlock_leaves_the_door_free_until_its_end(stand):
    until = stand.clock.now() + timedelta(minutes=5)
    assert (await stand.command(Action.UNLOCK, until=until))["result"] == "command.executed"
    assert stand.strikes[DOOR] == [True]
    stand.clock.ahead_s += 5 * 60 - 10
    await stand.beat()
    assert stand.strikes[DOOR] == [True]
    stand.clock.ahead_s += 20
    await stand.look()
    assert stand.strikes[DOOR] == [True, False]
    assert await stand.modes() == [("unlocked", "command"), ("locked", "command")]


async def test_a_lock_stands_against_a_policy_that_unlocks_until_normal_ends_it(stand):
    await stand.policy(door={"mode": "unlocked"})
    assert stand.strikes[DOOR] == [True]
    assert (await stand.command(Action.LOCK))["result"] == "command.executed"
    await stand.policy(door={"mode": "unlocked"})
    assert stand.strikes == {DOOR: [True, False], OTHER: [True]}
    assert (await stand.command(Action.NORMAL))["result"] == "command.executed"
    assert stand.strikes[DOOR] == [True, False, True]


async def test_a_block_lets_out_by_the_button_and_heeds_no_pulse(stand):
    assert (await stand.command(Action.BLOCK))["result"] == "command.executed"
    assert stand.doors[DOOR].mode is DoorMode.BLOCKED
    pulse = await stand.command(Action.PULSE)
    assert (pulse["result"], pulse["reason"]) == ("command.refused", "DoorShut")
    assert stand.strikes[DOOR] == []
    await stand.ios[DOOR].press_rex()
    await stand.until(lambda: stand.strikes[DOOR] == [True])


async def test_a_block_with_an_end_ends(stand):
    await stand.command(Action.BLOCK, until=stand.clock.now() + timedelta(hours=1))
    stand.clock.ahead_s += 3601
    await stand.look()
    assert await stand.modes() == [("blocked", "command"), ("locked", "command")]


async def test_normal_ends_an_unlock(stand):
    await stand.command(Action.UNLOCK)
    await stand.command(Action.NORMAL)
    assert stand.strikes[DOOR] == [True, False]


async def test_identify_blinks_the_readers_of_that_door(stand):
    assert (await stand.command(Action.IDENTIFY))["result"] == "command.executed"
    assert stand.shown == [(DOOR, Feedback.IDENTIFY)]


async def test_a_door_whose_reader_can_not_blink_says_so(stand, monkeypatch):
    async def dark(self, feedback):
        return False

    monkeypatch.setattr("edge_agent.readers.virtual.VirtualReader.feedback", dark)
    result = await stand.command(Action.IDENTIFY)
    assert (result["result"], result["reason"]) == ("command.refused", "Unsupported")


async def test_a_reboot_is_recorded_and_then_asked_for(stand):
    result = await stand.command(Action.REBOOT, door=None)
    assert (result["result"], result["door"]) == ("command.executed", None)
    assert stand.restarts == 1


def test_systemd_starts_the_agent_again_whatever_it_ends_with():
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str
    unit.read(Path(edge_agent.__file__).parent / "ostiary-agent.service")
    assert unit["Service"]["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert unit["Service"]["SuccessExitStatus"] == str(EXIT_TO_RESTART)


async def test_a_door_of_another_agent_is_unknown(stand):
    result = await stand.command(Action.PULSE, door="cellar")
    assert (result["result"], result["reason"]) == ("command.refused", "UnknownDoor")


@pytest.mark.parametrize("action", [Action.PULSE, Action.UNLOCK])
async def test_nothing_is_let_in_at_a_door_that_is_locked_down_nor_after_it(stand, action):
    await stand.lock_down(("door", DOOR))
    result = await stand.command(action)
    assert (result["result"], result["reason"]) == ("command.refused", "DoorShut")
    await stand.lock_down()
    assert stand.strikes[DOOR] == [], "what was refused is not done later"


async def test_a_refused_unlock_leaves_the_lock_that_was_commanded_before(stand):
    await stand.policy(door={"mode": "unlocked"})
    await stand.command(Action.LOCK)
    await stand.lock_down(("site", "demo"))
    await stand.command(Action.UNLOCK)
    await stand.lock_down()
    assert stand.doors[DOOR].mode is DoorMode.LOCKED


async def test_a_block_during_a_lockdown_holds_after_it(stand):
    await stand.lock_down(("door", DOOR))
    assert (await stand.command(Action.BLOCK))["result"] == "command.executed"
    assert stand.doors[DOOR].mode is DoorMode.LOCKED_DOWN
    await stand.lock_down()
    assert await stand.modes() == [("locked_down", "lockdown"), ("blocked", "lockdown")]


async def test_a_door_that_has_not_heard_from_the_server_is_not_unlocked(stand):
    stand.clock.ahead_s += 2 * 86_400
    result = await stand.command(Action.UNLOCK)
    assert (result["result"], result["reason"]) == ("command.refused", "NotFresh")
    await stand.beat()
    assert stand.strikes[DOOR] == [], "what was refused is not done later"


async def test_an_unlock_that_would_be_over_is_too_late(stand):
    command = await stand.taken(Action.UNLOCK)
    stand.clock.ahead_s += 3600
    await stand.commanding.execute(command)
    (_, data), *_ = await stand.events("command.refused")
    assert data["reason"] == "TooLate"


async def test_an_unlock_that_the_strike_does_not_follow_does_not_come_later(stand):
    async def broken(released):
        raise OSError(5, "the relay does not answer")

    stand.ios[DOOR].set_strike = broken
    result = await stand.command(Action.UNLOCK)
    assert (result["result"], result["reason"]) == ("command.refused", "Failed")
    assert DOOR not in stand.store.overrides


@pytest.mark.parametrize("action", [Action.PULSE, Action.UNLOCK, Action.IDENTIFY])
async def test_a_door_whose_hardware_fails_does_not_act(stand, action):
    await stand.stop()
    result = await stand.command(action)
    assert (result["result"], result["reason"]) == ("command.refused", "Failed")


async def test_an_unlock_of_a_door_that_is_out_of_order_leaves_the_lock_before_it(stand):
    await stand.command(Action.LOCK)
    await stand.stop()
    await stand.command(Action.UNLOCK)
    assert stand.store.overrides[DOOR].mode is DoorMode.LOCKED


async def test_a_command_that_fails_for_a_reason_nobody_foresaw_has_a_result(stand):
    async def fail(*_):
        raise sqlite3.OperationalError("disk I/O error")

    stand.store.set_override = fail
    result = await stand.command(Action.UNLOCK)
    assert (result["result"], result["reason"]) == ("command.refused", "Failed")
    assert "disk I/O error" in result["detail"]


async def test_a_time_nobody_trusts_gives_no_latency(stand):
    stand.clock.stepped_s -= 3600
    stand.recorder.time.learn(stand.voice.now() + timedelta(hours=1), stand.clock.monotonic())
    now, clock = stand.recorder.judge_time()
    assert clock.status == "untrusted"
    command = await stand.taken(Action.LOCK, issued=now, expires=now + timedelta(seconds=9))
    await stand.commanding.execute(command)
    ((_, data),) = await stand.events("command.executed")
    assert data["latency_ms"] is None


async def test_a_hanging_disk_holds_no_pulse_and_no_lockdown(stand):
    free = threading.Event()
    command = await stand.taken(Action.PULSE)
    hanging = stand.outbox._thread.submit(lambda _: free.wait(60))
    try:
        await stand.commanding.execute(command)
        assert stand.strikes[DOOR] == [True]
        await stand.lock_down(("site", "demo"))
        assert stand.strikes[DOOR] == [True, False]
        await stand.ios[DOOR].press_rex()
        await stand.until(lambda: stand.strikes[DOOR] == [True, False, True])
    finally:
        free.set()
    await asyncio.wrap_future(hanging)


async def test_a_lockdown_shuts_the_doors_in_its_scope_and_no_others(stand):
    await stand.policy(door={"mode": "unlocked"})
    await stand.lock_down(("door", DOOR))
    assert stand.strikes == {DOOR: [True, False], OTHER: [True]}
    assert stand.store.locked_down() == (DOOR,)
    await stand.ios[DOOR].press_rex()
    await stand.until(lambda: stand.strikes[DOOR] == [True, False, True])
    await stand.lock_down()
    assert stand.doors[DOOR].mode is DoorMode.UNLOCKED


async def test_who_was_granted_before_a_lockdown_gets_out_by_it_and_not_in(stand):
    door, shown = stand.doors[DOOR], []
    outcome = TapOutcome(
        entered_s=stand.clock.monotonic(),
        decision_ms=1.0,
        feedback=Feedback.GRANTED,
        grant=Grant("g", None, None),
        reason=None,
        event_id="g",
    )
    reader = VirtualReader(stand.clock, shown.append)
    await stand.lock_down(("door", DOOR))  # while the grant is on its way to the disk
    await door._let_pass(outcome, outcome.grant, "in", reader)
    assert (stand.strikes[DOOR], shown) == ([], [Feedback.DENIED])
    assert await stand.events("access.not_taken")
    await door._let_pass(outcome, outcome.grant, "out", reader)
    assert (stand.strikes[DOOR], shown[1:]) == ([True], [Feedback.GRANTED])


@pytest.mark.parametrize("error", [OSError(5, "no relay"), ValueError("nobody foresaw this")])
async def test_a_door_that_fails_at_a_lockdown_keeps_no_other_from_it(stand, error):
    await stand.policy(door={"mode": "unlocked"})
    await stand.ios[DOOR].put_contact("open")

    async def fail(released):
        raise error

    stand.ios[DOOR].set_strike = fail
    await stand.lock_down(("site", "demo"))
    assert stand.strikes[OTHER] == [True, False]
    front = stand.doors[DOOR]
    assert (front.served, front.contact, front.mode) == (False, "fault", DoorMode.LOCKED_DOWN)
