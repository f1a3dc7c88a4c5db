"""What a door does while the parts around it fail: it locks, lets out, and says so."""

import asyncio
import sqlite3
import threading
from datetime import UTC, datetime, timedelta

import pytest

from edge_agent.card.layout import INTERNAL_AUTHENTICATE
from edge_agent.core.door import Grant, Granted
from edge_agent.readers.port import Feedback
from tests.door_rig import DOOR, door_rig


async def test_a_door_that_a_new_policy_locked_is_not_released_by_the_old_one(tmp_path):
    async with door_rig(tmp_path) as rig:
        await rig.put_policy(door={"mode": "unlocked"})
        await rig.put_policy(door={"mode": "locked"})  # while the agent was down
        await rig.start()
        assert await rig.tap(await rig.card()) is Feedback.GRANTED
        await rig.until_strike(released=False)
        assert rig.strike == [True, False], "released only for the tap"


async def test_a_hanging_disk_neither_holds_the_strike_open_nor_the_exit_shut(tmp_path):
    async with door_rig(tmp_path) as rig:
        await rig.put_policy()
        await rig.start()
        free = threading.Event()
        hanging = rig.outbox._thread.submit(lambda _: free.wait(60))
        try:
            await rig.io.press_rex()
            await rig.until_strike(released=True)
            await rig.until_strike(released=False)
            await rig.io.press_rex()
            await rig.until_strike(released=True)
            assert await rig.tap(await rig.card()) is Feedback.GRANTED
            await rig.until_strike(released=False)
        finally:
            free.set()
        await asyncio.wrap_future(hanging)


async def test_a_strike_that_can_not_be_driven_keeps_no_other_door_from_its_policy(tmp_path):
    async with door_rig(tmp_path) as rig:
        rig.doors.append(rig.make_door("back"))
        ios = []

        def open_io():
            ios.append(type(rig).open_io(rig))
            return ios[-1]

        rig.open_io = open_io
        settings = rig.policy()["doors"][DOOR]
        unlocked = {name: {**settings, "mode": "unlocked"} for name in (DOOR, "back")}
        await rig.put_policy(doors=unlocked)
        await rig.start()
        first, second = ios
        await rig.until(lambda: first.released and second.released)

        async def fail(released):
            raise OSError(5, "the relay does not answer")

        first.set_strike = fail
        await rig.put_policy(doors=dict.fromkeys((DOOR, "back"), settings))
        await rig.until(lambda: not second.released)


async def test_a_tap_that_fails_does_not_take_the_exit_button_with_it(tmp_path):
    async with door_rig(tmp_path) as rig:
        await rig.put_policy()
        await rig.start()

        def fail(card_id):
            raise sqlite3.OperationalError("disk I/O error")

        rig.store.find = fail
        assert await rig.tap(await rig.card()) is Feedback.ERROR
        await rig.io.press_rex()
        await rig.until_strike(released=True)
        await rig.until_strike(released=False)


async def test_a_reader_that_does_not_close_leaves_no_strike_released(tmp_path):
    async with door_rig(tmp_path) as rig:
        await rig.put_policy(door={"strike_release_s": 100})
        free = asyncio.Event()

        def open_reader(direction):
            reader = type(rig).open_reader(rig, direction)
            reader.close = free.wait
            return reader

        rig.open_reader = open_reader
        await rig.start()
        await rig.io.press_rex()
        await rig.until_strike(released=True)
        for task in rig.running:
            task.cancel()
        try:
            await rig.until_strike(released=False)
        finally:
            free.set()


async def test_a_grant_without_a_door_is_no_release(tmp_path):
    async with door_rig(tmp_path) as rig:
        await rig.start()
        await rig.stop()
        await rig.doors[0]._take(Granted(Grant("x", None, None), 0.0))
        assert not rig.io.released


async def test_a_policy_lets_nobody_in_after_its_own_end_and_keeps_nobody_in(tmp_path):
    async with door_rig(tmp_path) as rig:
        await rig.put_policy(expires=datetime.now(UTC) + timedelta(hours=1))
        await rig.start()
        card = await rig.card()
        assert await rig.tap(card) is Feedback.GRANTED
        now = rig.clock.now
        rig.clock.now = lambda: now() + timedelta(hours=1)
        assert await rig.tap(card) is Feedback.DENIED
        assert await rig.tap(card, "out") is Feedback.GRANTED


async def test_what_was_proved_to_the_policy_before_counts_nothing_for_the_new_one(tmp_path):
    async with door_rig(tmp_path) as rig:
        await rig.put_policy()
        await rig.start()
        card = await rig.card()  # bound in `front`, whose keys leaked: hence the next policy
        card.reset()
        asked = 0

        async def answer(apdu):
            nonlocal asked
            asked += 1
            if asked == 5:  # INTERNAL AUTHENTICATE
                await rig.put_policy(door={"domain": "other"})
            return card.transmit(apdu)

        assert await rig.present(answer) is Feedback.DENIED
        assert asked > 5, "it was asked again, for the new domain's keys"


async def test_who_shows_a_copied_serial_outside_locks_nobody_in(tmp_path):
    async with door_rig(tmp_path) as rig:
        await rig.put_policy()
        await rig.start()
        card = await rig.card()

        async def copy(apdu):
            wrong = bytes(16) + b"\x90\x00"
            return wrong if apdu[1] == INTERNAL_AUTHENTICATE else card.transmit(apdu)

        for _ in range(5):
            assert await rig.present(copy) is Feedback.DENIED
        assert await rig.tap(card) is Feedback.DENIED, "locked out"
        assert await rig.tap(card, "out") is Feedback.GRANTED


@pytest.mark.parametrize("end", [{"expires": True}, {"door": {"grace_s": 3600}}])
async def test_a_door_is_not_left_unlocked_by_a_policy_whose_time_is_over(tmp_path, end):
    async with door_rig(tmp_path) as rig:
        if "expires" in end:
            end = {"expires": datetime.now(UTC) + timedelta(hours=1)}
        await rig.put_policy(**{**end, "door": {"mode": "unlocked", **end.get("door", {})}})
        await rig.start()
        await rig.until_strike(released=True)
        now = rig.clock.now
        rig.clock.now = lambda: now() + timedelta(hours=1, seconds=1)
        await rig.look()
        await rig.until_strike(released=False)
        await rig.io.press_rex()
        await rig.until_strike(released=True)
