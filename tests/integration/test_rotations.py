"""Campaigns over a real database and key authority, with locks that answer by their events."""

from __future__ import annotations

import json

import pytest

from schemas.event_data import KeysHeld
from server.core.rotation import NotNow
from server.core.rotation_view import waits_for
from server.distribution.key_standing import UnknownDomain, UnknownRotation
from server.store.rotations import Versions
from tests.rotation_rig import CARD, DOMAIN, Rig, rig_of


@pytest.fixture
async def rig(tmp_path):
    async with rig_of(tmp_path, "a", "b", "c") as made:
        yield made


async def overlapping(rig: Rig) -> str:
    campaign = await rig.rotations.plan(DOMAIN, "test")
    await rig.rotations.start(campaign.id, "test")
    await rig.look(12)
    assert await rig.state(campaign.id) == "overlap"
    return campaign.id


async def test_new_locks_are_given_the_first_version_without_any_campaign(rig):
    assert all(set(lock.held) == {1} for lock in rig.locks.values())
    await rig.add_locks("d")
    await rig.look(3)
    assert set(rig.locks["d"].held) == {1}
    assert await rig.events() == []


async def test_a_campaign_goes_from_its_plan_to_the_end_of_the_old_version(rig):
    await rig.add_card(CARD)
    rotation = await overlapping(rig)
    assert (await rig.versions()).accepted == (1,)
    assert all(set(lock.held) == {1, 2} for lock in rig.locks.values())
    with pytest.raises(NotNow, match="1 live cards"):
        await rig.rotations.retire(rotation, "test")
    await rig.rekeyed(CARD, 1, 2)
    await rig.rotations.retire(rotation, "test", destroy=True)
    await rig.look(8)
    assert await rig.state(rotation) == "completed"
    assert await rig.versions() == Versions(2, (), 1)
    assert all((set(k.held), k.floor) == ({2}, 2) for k in rig.locks.values())
    assert rig.rotations.floors("a") == {DOMAIN: 2}
    (domain,) = await rig.desk.authority.domains()
    assert [v.destroyed is not None for v in domain.versions] == [True, False]
    assert await rig.events() == [
        f"rotation.{name}"
        for name in ("planned", "started", "staged", "activated", "retired", "completed")
    ]


async def test_nothing_is_preferred_before_every_lock_in_service_has_it(rig):
    rig.locks["c"].there = False
    campaign = await rig.rotations.plan(DOMAIN, "test")
    await rig.rotations.start(campaign.id, "test")
    await rig.look(12)
    assert await rig.state(campaign.id) == "staging"
    assert await rig.versions() == Versions()
    standing, found, locks = await rig.rotations.standing(campaign.id)
    why = {lock.agent: waits_for(found, lock, standing.domain) for lock in locks}
    assert "can't be reached" in why["c"]
    assert not why["a"]
    rig.locks["c"].there = True
    await rig.look(12)
    assert await rig.state(campaign.id) == "overlap"


async def test_a_quarantined_lock_holds_up_nobody_and_comes_back_by_itself(rig):
    rig.locks["c"].there = False
    campaign = await rig.rotations.plan(DOMAIN, "test")
    await rig.rotations.start(campaign.id, "test")
    await rig.look(8)
    await rig.rotations.quarantine(campaign.id, "test", ["c"])
    await rig.look(8)
    assert await rig.state(campaign.id) == "overlap"
    rig.locks["c"].there = True
    await rig.look(8)
    _, _, locks = await rig.rotations.standing(campaign.id)
    assert not any(lock.quarantined for lock in locks)
    assert set(rig.locks["c"].held) == {1, 2}
    assert (await rig.events()).count("rotation.quarantined") == 2


@pytest.mark.parametrize("looks", range(1, 11))
async def test_a_restart_anywhere_goes_on(rig, looks):
    campaign = await rig.rotations.plan(DOMAIN, "test")
    await rig.rotations.start(campaign.id, "test")
    await rig.look(looks)
    rig.restart()
    await rig.rotations.load()
    await rig.look(12)
    assert await rig.state(campaign.id) == "overlap"
    await rig.rotations.retire(campaign.id, "test")
    await rig.look(min(looks, 4))
    rig.restart()
    await rig.rotations.load()
    await rig.look(10)
    assert await rig.state(campaign.id) == "completed"


async def test_a_lock_that_fails_pauses_it_and_going_on_tries_again(rig):
    rig.locks["b"].refuses = "unavailable"
    campaign = await rig.rotations.plan(DOMAIN, "test")
    await rig.rotations.start(campaign.id, "test")
    await rig.look(12)
    assert await rig.state(campaign.id) == "paused"
    rig.locks["b"].refuses = ""
    await rig.rotations.resume(campaign.id, "test")
    await rig.look(12)
    assert await rig.state(campaign.id) == "overlap"


@pytest.mark.parametrize(
    ("reason", "version", "pauses"),
    [
        ("key_version_unsupported", 1, True),
        ("key_version_retired", 1, True),
        ("outside_schedule", 1, False),
        ("key_version_retired", 7, False),
    ],
)
async def test_a_good_card_that_is_refused_by_its_version_pauses_it(rig, reason, version, pauses):
    await rig.add_card(CARD, version)
    rotation = await overlapping(rig)
    data = {"domain": DOMAIN, "card": CARD, "door": "door-a", "reason": reason}
    await rig.event("a", "access.denied", data)
    await rig.look()
    assert await rig.state(rotation) == ("paused" if pauses else "overlap")
    _, campaign, _ = await rig.rotations.standing(rotation)
    assert campaign.lockouts == int(pauses)
    if pauses:
        assert CARD in campaign.reason
        assert "door-a" in campaign.reason


async def test_a_refusal_at_a_lock_in_quarantine_pauses_nothing(rig):
    await rig.add_card(CARD)
    rotation = await overlapping(rig)
    rig.locks["a"].there = False
    await rig.rotations.quarantine(rotation, "test", ["a"])
    rig.locks["a"].held.clear()
    await rig.says("a")
    data = {"domain": DOMAIN, "card": CARD, "door": "door-a", "reason": "key_version_retired"}
    await rig.event("a", "access.denied", data)
    await rig.look()
    assert await rig.state(rotation) == "overlap"


async def test_what_is_in_quarantine_stays_there_on_the_way_back(rig):
    rotation = await overlapping(rig)
    rig.locks["a"].there = False
    await rig.rotations.quarantine(rotation, "test", ["a"])
    back = await rig.rotations.roll_back(rotation, "test")
    _, _, locks = await rig.rotations.standing(back.id)
    assert [lock.agent for lock in locks if lock.quarantined] == ["a"]


async def test_before_activation_a_roll_back_forgets_it(rig):
    campaign = await rig.rotations.plan(DOMAIN, "test")
    await rig.rotations.start(campaign.id, "test", hold=True)
    await rig.look(12)
    assert await rig.state(campaign.id) == "staged"
    await rig.rotations.roll_back(campaign.id, "test")
    assert await rig.versions() == Versions()
    assert rig.compiled == 0
    again = await rig.rotations.plan(DOMAIN, "test")
    assert again.to_version == 3


async def test_in_the_overlap_a_roll_back_prefers_the_old_version_again(rig):
    await rig.add_card(CARD)
    rotation = await overlapping(rig)
    await rig.rekeyed(CARD, 1, 2)
    back = await rig.rotations.roll_back(rotation, "test")
    assert (back.from_version, back.to_version, back.state) == (2, 1, "overlap")
    assert await rig.versions() == Versions(1, (2,))
    await rig.look(4)
    await rig.rotations.retire(back.id, "test")  # the card has both versions
    await rig.look(6)
    assert await rig.state(back.id) == "completed"
    assert await rig.versions() == Versions(1, ())
    assert rig.locks["a"].floor == 1


async def test_what_was_retired_does_not_come_back(rig):
    rotation = await overlapping(rig)
    await rig.rotations.retire(rotation, "test")
    with pytest.raises(NotNow, match="can't be rolled back"):
        await rig.rotations.roll_back(rotation, "test")


async def test_a_lock_with_a_secret_of_its_own_rotates_too(tmp_path):
    async with rig_of(tmp_path, "a", domain="own", own=True) as rig:
        campaign = await rig.rotations.plan("own", "test")
        await rig.rotations.start(campaign.id, "test")
        await rig.look(10)
        assert await rig.state(campaign.id) == "overlap"
        await rig.rotations.retire(campaign.id, "test", leave_behind=True)
        await rig.look(8)
        assert await rig.state(campaign.id) == "completed"
        assert (set(rig.locks["a"].held), rig.locks["a"].floor) == ({2}, 2)
        assert rig.rotations.floors("a") == {"own": 2}


async def test_locks_with_secrets_of_their_own_are_no_common_domain(tmp_path):
    async with rig_of(tmp_path, "a", "b", domain="own", own=True) as rig:
        with pytest.raises(NotNow, match="each with a secret of its own"):
            await rig.rotations.plan("own", "test")


async def test_what_is_not_there_is_said_to_be_not_there(rig):
    with pytest.raises(UnknownDomain, match="no door"):
        await rig.rotations.plan("nowhere", "test")
    with pytest.raises(UnknownRotation, match="rotation list"):
        await rig.rotations.start("00000000", "test")
    campaign = await rig.rotations.plan(DOMAIN, "test")
    with pytest.raises(NotNow, match="no agent z"):
        await rig.rotations.quarantine(campaign.id, "test", ["z"])
    with pytest.raises(NotNow, match="roll it back"):
        await rig.rotations.plan(DOMAIN, "test")


async def test_an_agent_speaks_of_its_own_locks_only(rig):
    liar = KeysHeld.model_validate(
        {
            "clock": {"status": "synced"},
            "domain": DOMAIN,
            "suite": "intl",
            "esam": None,
            "held": {},
            "floor": 1,
            "preferred": 9,
            "accepted": (),
        }
    )
    await rig.event("stranger", "keys.held", json.loads(liar.model_dump_json()))
    campaign = await rig.rotations.plan(DOMAIN, "test")
    _, _, locks = await rig.rotations.standing(campaign.id)
    assert {lock.agent for lock in locks} == {"a", "b", "c"}
