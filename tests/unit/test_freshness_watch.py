"""What passes with time at a door: its schedule, its freshness, the end of its policy."""

import asyncio
from datetime import timedelta

import pytest

from edge_agent.freshness_watch import LONGEST_S, Said, pause_s
from schemas.policy import DoorMode
from tests.door_stand import DOOR, OTHER, PATIENCE_S, door_stand

FRESHNESS = ("policy.fresh", "policy.stale", "policy.expired")


async def freshness_events(stand):
    return [(name, tuple(data["doors"])) for name, data in await stand.events(*FRESHNESS)]


def test_what_a_door_is_at_the_start_is_no_event():
    said = Said()
    assert said.changes({"a": "fresh", "b": "stale", "c": "none"}, starting=True) == {}
    assert said.changes({"a": "fresh", "b": "stale", "c": "none"}, starting=True) == {}


def test_a_server_that_is_not_heard_soon_after_the_start_is_told_of():
    said = Said()
    said.changes({"a": "fresh", "b": "stale", "c": "none"}, starting=True)
    assert said.changes({"a": "stale", "b": "stale", "c": "none"}, starting=False) == {
        "policy.stale": ("a", "b"),
        "policy.expired": ("c",),
    }


def test_a_door_that_was_not_fresh_at_the_start_says_when_it_is():
    said = Said()
    said.changes({"a": "fresh", "b": "expired"}, starting=True)
    assert said.changes({"a": "fresh", "b": "fresh"}, starting=True) == {"policy.fresh": ("b",)}
    assert said.changes({"a": "fresh", "b": "fresh"}, starting=False) == {}


def test_the_pause_ends_at_the_next_edge_and_is_never_longer_than_a_minute():
    assert pause_s([30.0, 7.5, -3.0]) == 7.5
    assert pause_s([-1.0]) == LONGEST_S
    assert pause_s([3600.0]) == LONGEST_S


@pytest.fixture
async def stand(tmp_path):
    async with door_stand(tmp_path) as stand:
        await stand.policy(door={"grace_s": 600})
        await stand.start()
        yield stand


async def test_each_transition_is_told_once_with_the_doors_concerned(stand):
    await stand.watch.look()
    reported = []
    stand.doors[DOOR].changed = lambda: reported.append(DOOR)
    stand.clock.ahead_s += 91
    await stand.watch.look()
    await stand.watch.look()
    assert reported == [DOOR]
    stand.clock.ahead_s += 600
    await stand.watch.look()
    await stand.beat()
    await stand.watch.look()
    both = (DOOR, OTHER)
    assert await freshness_events(stand) == [
        ("policy.stale", both),
        ("policy.expired", both),
        ("policy.fresh", both),
    ]
    ages = [data["heartbeat_age_s"] for _, data in await stand.events(*FRESHNESS)]
    assert ages[0] >= 91
    assert ages[1] >= 691
    assert ages[2] < 90


async def test_a_door_that_is_left_free_locks_when_its_grace_is_over_and_lets_out(stand):
    await stand.policy(door={"grace_s": 600, "mode": "unlocked"})
    assert stand.strikes[DOOR] == [True]
    stand.clock.ahead_s += 601
    await stand.watch.look()
    assert stand.strikes[DOOR] == [True, False]
    assert stand.doors[DOOR].mode is DoorMode.LOCKED
    await stand.ios[DOOR].press_rex()
    await stand.until(lambda: stand.strikes[DOOR] == [True, False, True])


async def test_a_clock_that_is_set_back_makes_nothing_fresh_again(stand):
    stand.clock.ahead_s += 601
    await stand.watch.look()
    stand.clock.stepped_s -= 3600
    await stand.watch.look()
    assert [name for name, _ in await freshness_events(stand)] == ["policy.expired"]


async def test_a_schedule_unlocks_a_door_and_locks_it_again(stand):
    now = stand.clock.now()
    soon = (now + timedelta(hours=2)).replace(minute=0, second=0, microsecond=0)
    schedule = {
        "special_days": {f"{soon:%Y-%m-%d}": [{"start": f"{soon:%H:%M}", "end": f"{soon:%H}:30"}]}
    }
    door = {"grace_s": 86_400, "unlock_schedule": "hours"}
    await stand.policy(door=door, schedules={"hours": schedule})
    assert stand.strikes[DOOR] == []
    stand.clock.ahead_s += (soon - stand.clock.now()).total_seconds() + 1
    await stand.watch.look()
    assert stand.strikes[DOOR] == [True]
    stand.clock.ahead_s += 1800
    await stand.watch.look()
    assert stand.strikes[DOOR] == [True, False]
    assert await stand.modes() == [("unlocked", "schedule"), ("locked", "schedule")]


async def test_the_edges_are_those_of_freshness_and_policy(stand, monkeypatch):
    now, now_s = stand.clock.now(), stand.clock.monotonic()
    monkeypatch.setattr(stand.clock, "now", lambda: now)
    monkeypatch.setattr(stand.clock, "monotonic", lambda: now_s)
    stand.voice.now = stand.clock.now
    expires = now + timedelta(seconds=40)
    await stand.policy(door={"grace_s": 30}, expires=expires)
    edges = sorted(edge for edge in stand.watch._edges_s() if edge < 59)
    assert edges == [30, 30, 40]


async def test_the_watch_looks_again_when_it_is_told_to_and_then_sleeps(stand, monkeypatch):
    monkeypatch.setattr("edge_agent.freshness_watch.LEAST_S", 0)
    looks, look = asyncio.Queue(), stand.watch.look

    async def counted():
        await look()
        looks.put_nowait(None)

    monkeypatch.setattr(stand.watch, "look", counted)
    watching = asyncio.create_task(stand.watch.run())
    try:
        await looks.get()
        stand.watch.look_now()
        async with asyncio.timeout(PATIENCE_S):
            await looks.get()
        for _ in range(100):
            await asyncio.sleep(0)
        assert looks.empty()
    finally:
        watching.cancel()


async def test_an_agent_that_never_heard_of_its_site_is_watched_too(tmp_path):
    async with door_stand(tmp_path) as stand:
        await stand.start()
        await stand.watch.look()
        assert min(edge for edge in stand.watch._edges_s() if edge > 0) <= LONGEST_S
        stand.clock.ahead_s += 91
        await stand.watch.look()
        assert await freshness_events(stand) == [("policy.expired", (DOOR, OTHER))]
        await stand.policy()
        await stand.watch.look()
        assert (await freshness_events(stand))[1:] == [("policy.fresh", (DOOR, OTHER))]


async def test_the_watch_wakes_by_itself_at_the_next_edge(stand):
    await stand.policy(door={"grace_s": 600, "mode": "unlocked"})
    assert stand.strikes[DOOR] == [True]
    stand.clock.ahead_s += 598
    watching = asyncio.create_task(stand.watch.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await stand.until(lambda: stand.strikes[DOOR] == [True, False])
    finally:
        watching.cancel()
