"""A disk that takes nothing keeps nobody in the site who was shut out: that is in force at once."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager

import pytest

from edge_agent.clock import SystemClock
from edge_agent.core.trusted_state import lacks
from edge_agent.readers.port import Feedback
from edge_agent.trust_store import TrustStore
from edge_agent.unsaved import OnlyInMemory
from schemas.command import Action
from schemas.errors import Equivocation
from schemas.lockdown import Lockdown
from schemas.topics import LOCKDOWN, REVOCATION
from tests.door_rig import AGENT as RIG_AGENT
from tests.door_rig import SERIAL, door_rig
from tests.door_stand import DOOR, door_stand
from tests.link_rig import link_rig

CARD = SERIAL.hex()
GRANTED, DENIED = Feedback.GRANTED, Feedback.DENIED


async def _set(store, pragma):
    return await store._writer.run(lambda db: db.execute(f"PRAGMA {pragma}").fetchone())


@asynccontextmanager
async def failing(store):
    """While this lasts, the disk takes nothing: as one that was remounted read-only."""
    await _set(store, "query_only=ON")
    try:
        yield
    finally:
        await _set(store, "query_only=OFF")


@pytest.fixture
async def rig(tmp_path):
    async with door_rig(tmp_path) as rig:
        await rig.put_policy()
        await rig.start()
        yield rig


async def revoke(rig, *entry):
    with pytest.raises(OnlyInMemory):
        await rig.store.take_revocation(rig.voice.revoke(*entry), rig.clock.now())


async def on_disk(rig):
    """What the next start would find."""
    store = await TrustStore.open(
        rig.folder / "trust.db", rig.voice.keys.root, RIG_AGENT, SystemClock()
    )
    try:
        return store.state.revocation.sequence, store.find(CARD).denial, store.lockdowns
    finally:
        await store.close()


def site_lockdown(name="fire", **changes):
    return Lockdown(id=name, scope="site", name="demo", since=SystemClock().now(), **changes)


@pytest.mark.parametrize(
    "entry", [(CARD, "card"), ("ada", "person"), ("front/1", "key-version")], ids=lambda e: e[1]
)
async def test_a_revocation_counts_at_once_and_is_written_when_the_disk_takes_it(rig, entry):
    card = await rig.card()
    assert await rig.tap(card) is GRANTED
    async with failing(rig.store):
        await revoke(rig, *entry)
        assert await rig.tap(card) is DENIED
        assert rig.store.state.revocation.sequence == 0, "no receipt for what is not kept"
        assert (await on_disk(rig))[0] == 0
        with pytest.raises(sqlite3.Error):
            await rig.store.save()
        assert await rig.tap(card) is DENIED
    await rig.store.save()
    assert not rig.store.is_behind
    assert await rig.tap(card) is DENIED
    assert (await on_disk(rig))[0] == rig.store.state.revocation.sequence == 1


async def test_entries_that_follow_one_that_was_not_written_count_too_and_are_written_with_it(rig):
    card = await rig.card()
    async with failing(rig.store):
        await revoke(rig, "f" * 14 + "00", "card")
        await revoke(rig, CARD, "card")
        assert await rig.tap(card) is DENIED
    await rig.store.take_heartbeat(rig.voice.heartbeat(), rig.clock.now())
    sequence, denial, _ = await on_disk(rig)
    assert (sequence, denial.sequence) == (2, 2)
    assert rig.store.state.revocation == rig.voice.heads[2]


async def test_the_same_entry_again_is_written_and_not_taken_for_known(rig):
    async with failing(rig.store):
        await revoke(rig, CARD, "card")
    await rig.store.take_revocation(rig.voice.revocations_after(0), rig.clock.now())
    assert not rig.store.is_behind
    assert (await on_disk(rig))[0] == 1


async def test_another_log_than_the_one_that_is_in_force_is_refused_though_none_is_written(rig):
    async with failing(rig.store):
        await revoke(rig, CARD, "card")
        before = rig.store.believed
        rig.voice.entries.clear()
        del rig.voice.heads[1:]
        with pytest.raises(Equivocation):
            await rig.store.take_revocation(rig.voice.revoke("f" * 16, "card"), rig.clock.now())
        assert rig.store.believed is before


async def test_a_snapshot_that_a_full_disk_has_no_room_for_counts(rig):
    card = await rig.card()
    for number in range(500):
        rig.voice.revoke(f"{number:016x}")
    rig.voice.revoke(CARD)
    await rig.store._writer.run(lambda db: db.execute("PRAGMA wal_checkpoint").fetchone())
    (pages,) = await _set(rig.store, "page_count")
    await _set(rig.store, f"max_page_count={pages}")
    with pytest.raises(OnlyInMemory, match="full"):
        await rig.store.take_snapshot(rig.voice.snapshot(), rig.voice.chunks, rig.clock.now())
    assert await rig.tap(card) is DENIED
    assert (await on_disk(rig))[0] == 0
    await _set(rig.store, "max_page_count=100000")
    await rig.store.save()
    sequence, denial, _ = await on_disk(rig)
    assert (sequence, denial.sequence) == (501, 501)


async def test_after_a_restart_what_was_not_written_is_lacked_and_taken_again(rig):
    async with failing(rig.store):
        await revoke(rig, CARD, "card")
    fresh = await TrustStore.open(
        rig.folder / "trust.db", rig.voice.keys.root, RIG_AGENT, SystemClock()
    )
    try:
        assert fresh.find(CARD).denial is None
        now = rig.clock.now()
        await fresh.take_heartbeat(rig.voice.heartbeat(), now)
        assert lacks(fresh.state).revocation_after == 0
        await fresh.take_revocation(rig.voice.revocations_after(0), now)
        assert fresh.find(CARD).denial is not None
    finally:
        await fresh.close()


async def test_what_is_not_written_makes_no_door_fresh(rig):
    now = rig.clock.now()
    rig.voice.revoke(CARD)
    await rig.store.take_heartbeat(rig.voice.heartbeat(), now)  # names what lacks
    heard = rig.store.state.heard
    async with failing(rig.store):
        with pytest.raises(OnlyInMemory):
            await rig.store.take_revocation(rig.voice.revocations_after(0), now)
        assert rig.store.believed.heard == heard
    await rig.store.save()
    assert rig.store.state.heard == rig.store.state.heartbeat.issued != heard


async def test_a_lockdown_begins_without_a_disk_and_ends_only_with_one(tmp_path):
    async with door_stand(tmp_path) as stand:
        await stand.policy(door={"mode": "unlocked"})
        await stand.start()
        await stand.until(lambda: stand.ios[DOOR].released)

        async def say(*active):
            await stand.store.take_lockdowns(stand.voice.lock_down(*active), stand.clock.now())

        async with failing(stand.store):
            with pytest.raises(OnlyInMemory):
                await say(site_lockdown())
            await stand.look()
            await stand.until(lambda: not stand.ios[DOOR].released)
            assert stand.store.state.lockdowns is None
            with pytest.raises(OnlyInMemory):
                await say(site_lockdown("other", exempt=("staff",)))
            assert {each.id for each in stand.store.lockdowns} == {"fire", "other"}
            with pytest.raises(OnlyInMemory):
                await say()
            await stand.look()
            assert not stand.ios[DOOR].released
            assert len(stand.store.lockdowns) == 2
        await stand.store.save()
        assert stand.store.lockdowns == ()
        await stand.look()
        await stand.until(lambda: stand.ios[DOOR].released)


async def test_what_loosens_waits_for_the_disk(tmp_path):
    async with door_stand(tmp_path) as stand:
        await stand.policy()
        await stand.lock_down(("site", "demo"))
        await stand.taken(Action.LOCK)
        before = (stand.store.believed, stand.store.overrides, stand.store.applied)
        age_s = stand.store.heartbeat_age_s
        then = stand.clock.now()
        old_s = age_s(then)
        async with failing(stand.store):
            with pytest.raises(sqlite3.Error):
                await stand.policy(door={"mode": "unlocked"})
            with pytest.raises(sqlite3.Error):
                await stand.beat()
            with pytest.raises(sqlite3.Error):
                await stand.taken(Action.NORMAL)
            assert before == (stand.store.believed, stand.store.overrides, stand.store.applied)
            assert stand.store.believed is before[0]
            assert age_s(then) >= old_s
            assert not stand.store.is_behind


@pytest.mark.parametrize("what", ["revocation", "lockdown"])
async def test_the_link_acts_at_once_says_so_and_receipts_when_it_is_written(
    tmp_path, monkeypatch, what
):
    monkeypatch.setattr("edge_agent.inbox.SAVE_AGAIN_S", 0.01)
    async with link_rig(tmp_path) as rig:
        await rig.until_heard(lambda: rig.reports)
        channel, envelope = {
            "revocation": (REVOCATION, rig.voice.revoke(CARD)),
            "lockdown": (LOCKDOWN, rig.voice.lock_down(site_lockdown())),
        }[what]
        async with failing(rig.store):
            await rig.say_to_all(channel, envelope)
            told = await rig.event("statement.rejected", purpose=channel, reason="OnlyInMemory")
            assert "in force" in told["detail"]
            assert rig.doors.changes == 1
            assert f"{what}.applied" not in rig.names()
        await rig.event(f"{what}.applied")
        assert not rig.store.is_behind
