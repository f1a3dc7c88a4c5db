"""What is not as it should be in a rotation: wrong clocks, strangers' words, lost answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import insert

from server.core.rotation import NotNow
from server.ingest.verify import AlarmKind
from server.keys.home import HomeUnavailable
from server.store import rotations as rows
from server.store.distribution_tables import revocations
from server.store.model_tables import doors
from tests.campaign_lock import ZONE, FakeLock
from tests.campaign_rig import SHED, campaigns

CARD = "0102030405060708"


@pytest.fixture
async def rig(tmp_path):
    async with campaigns(tmp_path / "site") as made:
        yield made


async def overlapping(rig):
    planned = await rig.rotations.plan(ZONE, "op")
    await rig.rotations.start(planned.id, "op")
    return await rig.until(planned.id, "overlap")


async def versions(rig):
    return [each.version for each in (await rig.authority.domains())[0].versions]


async def test_a_plan_that_is_refused_makes_no_keys(rig):
    await overlapping(rig)
    with pytest.raises(NotNow, match="let it end"):
        await rig.rotations.plan(ZONE, "op")
    assert await versions(rig) == [1, 2]


async def test_a_version_that_the_authority_has_not_made_is_no_goal(rig):
    with pytest.raises(NotNow, match="7"):
        await rig.rotations.plan(ZONE, "op", to=7)
    made, _ = await rig.authority.new_version(ZONE, "op")
    assert (await rig.rotations.plan(ZONE, "op", to=made)).to_version == made == 2


async def test_a_lock_whose_clock_was_ahead_is_still_heard(rig):
    lock = rig.locks["agent-0"]
    await rig.says_held(lock, rig.clock.now() + timedelta(days=900))
    await overlapping(rig)
    assert set(lock.held) == {1, 2}
    await rig.restart()
    (standing,) = rig.standings.all()
    assert all(set(k.picture.held) == {1, 2} for k in standing.locks.values())


async def test_who_serves_no_door_of_the_domain_says_nothing_of_its_cards_or_keys(rig):
    await rig.add_lock("stranger", SHED, held={1: rig.locks["agent-0"].held[1]})
    await rig.add_card(CARD)
    campaign = await overlapping(rig)
    await rig.denies("stranger", CARD)
    await rig.denies("stranger", CARD, domain=SHED)
    await rig.denies("agent-1", CARD, "outside_schedule")
    assert (await rig.campaign(campaign.id)).state == "overlap"
    await rig.denies("agent-1", CARD)
    paused = await rig.until(campaign.id, "paused")
    assert (paused.lockouts, CARD in paused.reason) == (1, True)


async def test_a_refusal_at_a_lock_is_counted_though_the_database_fails_meanwhile(rig):
    await rig.add_card(CARD)
    campaign = await overlapping(rig)
    rig.mortal.fails = 1
    await rig.denies("agent-1", CARD)
    await rig.until(campaign.id, "paused")
    await rig.looked()
    assert (await rig.campaign(campaign.id)).lockouts == 1


async def test_a_refusal_is_counted_though_the_process_ends_before_the_campaign_stops(rig):
    await rig.add_card(CARD)
    campaign = await overlapping(rig)
    await rig.stop()
    await rig.denies("agent-1", CARD)
    await rig.restart()
    await rig.until(campaign.id, "paused")
    await rig.restart()
    await rig.looked()
    assert (await rig.campaign(campaign.id)).lockouts == 1


async def test_a_refusal_that_comes_while_another_is_counted_is_counted_too(rig, monkeypatch):
    await rig.add_card(CARD)
    campaign = await overlapping(rig)
    read = rows.read_lockouts

    async def read_and_another_comes(connection):
        found = await read(connection)
        if found:
            monkeypatch.setattr(rows, "read_lockouts", read)
            await rig.denies("agent-2", CARD)
        return found

    monkeypatch.setattr(rows, "read_lockouts", read_and_another_comes)
    await rig.denies("agent-1", CARD)
    await rig.until(campaign.id, "paused")
    await rig.looked()
    assert (await rig.campaign(campaign.id)).lockouts == 2


async def test_a_refusal_in_a_domain_without_a_campaign_any_more_is_forgotten(rig):
    await rig.add_card(CARD)
    campaign = await overlapping(rig)
    await rig.stop()
    await rig.denies("agent-1", CARD)
    async with rig.engine.begin() as connection:
        assert len(await rows.read_lockouts(connection)) == 1
        await rows.put_rotation(connection, replace(campaign, state="completed"), rig.clock.now())
    await rig.restart()
    await rig.looked()
    async with rig.engine.connect() as connection:
        assert await rows.read_lockouts(connection) == []


@pytest.mark.parametrize("written", [True, False])
async def test_a_pause_whose_answer_is_lost_is_a_pause_or_none(rig, written):
    first = rig.locks["agent-0"]
    first.silent = True
    planned = await rig.rotations.plan(ZONE, "op")
    await rig.rotations.start(planned.id, "op")
    await rig.when(lambda: first.orders)
    rig.mortal.fails, rig.mortal.written = 1, written
    with pytest.raises(OSError, match="lost"):
        await rig.rotations.pause(planned.id, "op")
    if not written:
        await rig.rotations.pause(planned.id, "op")
    first.silent = False
    first.held[2] = first.orders[-1].check_values  # the canary lives: the next wave would be due
    await rig.says_held(first)
    await rig.looked()
    campaign = await rig.campaign(planned.id)
    assert (campaign.state, campaign.resumes) == ("paused", "staging")
    await rig.rotations.resume(planned.id, "op")
    await rig.until(planned.id, "overlap")


def while_all_is_read_again(rig, do):
    read = rig.standings._read

    async def reads(*args):
        standing = await read(*args)
        rig.standings._read = read
        await do()
        return standing

    rig.standings._read = reads


async def test_a_word_that_comes_while_all_is_read_again_is_not_lost(rig):
    lock = rig.locks["agent-0"]
    lock.accepted = (7,)
    while_all_is_read_again(rig, lambda: rig.says_held(lock))
    await rig.model_changed()
    (standing,) = rig.standings.all()
    assert standing.locks["agent-0"].picture.accepted == (7,)


async def test_a_door_that_is_new_while_all_is_read_again_is_noticed(rig):
    async def adds():
        rig.locks["late"] = FakeLock("late")
        async with rig.engine.begin() as connection:
            row = {"name": "late", "readers": "in", "behaviour": "{}", "revision": 1}
            late = insert(doors).values(id="door-late", agent="late", domain=ZONE, **row)
            await connection.execute(late)
        rig.rotations.model_changed()

    while_all_is_read_again(rig, adds)
    await rig.model_changed()
    await rig.looked()
    (standing,) = rig.standings.all()
    assert "late" in standing.locks


async def test_what_a_lock_said_in_a_commit_that_failed_is_not_taken_for_said(rig):
    lock = rig.locks["agent-0"]
    lock.accepted = (7,)

    async def disk_full(*_):
        raise OSError("no space left")

    rig.ledger._projections.append(disk_full)
    with pytest.raises(OSError, match="no space"):
        await rig.says_held(lock)
    rig.ledger._projections.remove(disk_full)
    await rig.says_held(rig.locks["agent-1"])  # anybody's next word
    (standing,) = rig.standings.all()
    assert standing.locks["agent-0"].picture.accepted == ()


async def test_a_good_card_that_is_refused_while_the_old_version_goes_stops_it_before_it_is_erased(
    rig,
):
    await rig.add_card(CARD, 2, other=1)
    campaign = await overlapping(rig)
    await rig.prefer(2)
    slow = rig.locks["agent-2"]
    slow.deaf = True  # its policy comes late, so nothing is erased yet
    await rig.rotations.retire(campaign.id, "op")
    await rig.until(campaign.id, "retiring")
    await rig.denies("agent-0", CARD, "key_version_unsupported")
    paused = await rig.until(campaign.id, "paused")
    assert (paused.resumes, paused.lockouts) == ("retiring", 1)
    slow.deaf = False
    await rig.policy(slow)
    await rig.looked()
    assert all(set(lock.held) == {1, 2} for lock in rig.locks.values())
    await rig.rotations.resume(campaign.id, "op")
    await rig.until(campaign.id, "completed")


async def test_a_domain_whose_keys_can_not_be_used_now_holds_up_no_other(rig, monkeypatch):
    await rig.authority.create_domain("zone-b", "intl", "op")
    await rig.add_lock("b-0", "zone-b")
    campaign = await overlapping(rig)
    await rig.prefer(2)

    asked = asyncio.Event()

    async def away(*_):
        asked.set()
        raise HomeUnavailable("the token is not there")

    with monkeypatch.context() as patch:
        patch.setattr(rig.authority, "destroy", away)
        await rig.rotations.retire(campaign.id, "op", destroy=True)
        await asked.wait()
        other = await rig.rotations.plan("zone-b", "op")
        await rig.rotations.start(other.id, "op")
        await rig.until(other.id, "overlap")
        assert (await rig.campaign(campaign.id)).state == "retiring"
    await rig.until(campaign.id, "completed")


async def test_a_lock_that_is_beyond_a_restored_server_is_an_alarm(rig):
    lock = rig.locks["agent-0"]
    await rig.says_held(lock)
    assert rig.alarms == []
    lock.floor = 3
    await rig.says_held(lock)
    (alarm,) = rig.alarms
    assert (alarm.kind, alarm.agent) == (AlarmKind.STATE_BEHIND, "agent-0")
    assert "below version 3, this server's floor is 1" in alarm.detail


async def deny(rig, version):
    """The key version is revoked."""
    async with rig.engine.begin() as connection:
        entry = {"kind": "key-version", "subject": f"{ZONE}/{version}", "reason": "compromised"}
        row = {"sequence": version, "hash": "00" * 32, "time_us": 1}
        await connection.execute(insert(revocations).values(**entry, **row))


async def test_cards_of_a_key_version_that_is_revoked_are_refused_and_halt_nothing(rig):
    await rig.add_card(CARD, 1)
    campaign = await overlapping(rig)
    await deny(rig, 1)
    await rig.denies("agent-1", CARD)
    await rig.looked()
    assert (await rig.campaign(campaign.id)).state == "overlap"
    await rig.rekeyed(CARD, 1, 2)
    await rig.denies("agent-1", CARD)  # it has one that counts
    assert (await rig.until(campaign.id, "paused")).lockouts == 1


async def test_no_plan_leads_to_a_key_version_that_is_revoked(rig):
    made, _ = await rig.authority.new_version(ZONE, "op")
    await deny(rig, made)
    await deny(rig, made + 1)
    with pytest.raises(NotNow, match="2 of zone-a is revoked"):
        await rig.rotations.plan(ZONE, "op", to=made)
    assert (await rig.rotations.plan(ZONE, "op")).to_version == made + 2


async def test_the_first_lock_is_one_that_is_there_when_it_begins(rig):
    planned = await rig.rotations.plan(ZONE, "op")
    (standing,) = rig.standings.all()
    first = next(lock.agent for lock in standing.locks.values() if lock.wave == 0)
    rig.locks[first].online = False
    await rig.rotations.start(planned.id, "op")
    others = [agent for agent in rig.locks if agent != first]
    await rig.hold(2, *others)
    await rig.rotations.quarantine(planned.id, "op", [first])
    await rig.until(planned.id, "overlap")
