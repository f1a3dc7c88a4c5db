"""Rotations from their plan to their end, with all that an operator may do on the way."""

from __future__ import annotations

import pytest

from server.core.rotation import NotNow
from server.core.rotation_view import waits_for
from server.distribution.key_standing import UnknownDomain, UnknownRotation
from server.store.rotations import Versions
from tests.campaign_lock import ZONE
from tests.campaign_rig import Campaigns, campaigns

CARD = "00112233445566aa"


@pytest.fixture
async def rig(tmp_path):
    async with campaigns(tmp_path / "site") as made:
        yield made


async def started(rig: Campaigns, domain: str = ZONE, *, hold: bool = False) -> str:
    campaign = await rig.rotations.plan(domain, "test")
    await rig.rotations.start(campaign.id, "test", hold=hold)
    return campaign.id


async def overlapping(rig: Campaigns) -> str:
    rotation = await started(rig)
    await rig.until(rotation, "overlap")
    await rig.prefer(2)
    return rotation


async def test_new_locks_are_given_the_first_version_without_any_campaign(rig):
    new = [await rig.add_lock(agent, new=True) for agent in ("new-0", "new-1")]
    await rig.hold(1, "new-0", "new-1")
    await rig.looked()
    assert all(set(lock.held) == {1} for lock in new)
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
    await rig.until(rotation, "completed")
    assert await rig.versions() == Versions(2, (), 1)
    assert all((set(k.held), k.floor) == ({2}, 2) for k in rig.locks.values())
    assert rig.rotations.floors("agent-0") == {ZONE: 2}
    (domain,) = await rig.authority.domains()
    assert [v.destroyed is not None for v in domain.versions] == [True, False]
    assert await rig.events() == [
        f"rotation.{name}"
        for name in ("planned", "started", "staged", "activated", "retired", "completed")
    ]


async def test_nothing_is_preferred_before_every_lock_in_service_has_it(rig):
    rig.locks["agent-2"].online = False
    rotation = await started(rig)
    await rig.hold(2, "agent-0", "agent-1")
    await rig.looked()
    assert (await rig.campaign(rotation)).state == "staging"
    assert await rig.versions() == Versions()
    standing, found, locks = await rig.rotations.standing(rotation)
    why = {lock.agent: waits_for(found, lock, standing.domain) for lock in locks}
    assert "can't be reached" in why["agent-2"]
    assert not why["agent-0"]
    await rig.comes_back(rig.locks["agent-2"])
    await rig.until(rotation, "overlap")


async def test_a_quarantined_lock_holds_up_nobody_and_comes_back_by_itself(rig):
    away = rig.locks["agent-2"]
    away.online = False
    rotation = await started(rig)
    await rig.hold(2, "agent-0", "agent-1")
    await rig.rotations.quarantine(rotation, "test", ["agent-2"])
    await rig.until(rotation, "overlap")
    await rig.comes_back(away)
    await rig.prefer(2)
    await rig.looked()
    _, _, locks = await rig.rotations.standing(rotation)
    assert not any(lock.quarantined for lock in locks)
    assert set(away.held) == {1, 2}
    assert (await rig.events()).count("rotation.quarantined") == 2


@pytest.mark.parametrize("words", range(1, 7))
async def test_a_restart_after_any_word_of_a_lock_goes_on(rig, words):
    """On each half of the way each of three locks says twice what it has and prefers."""
    rotation = await started(rig)
    await rig.restart_after(words)
    await rig.until(rotation, "overlap")
    await rig.prefer(2)
    await rig.rotations.retire(rotation, "test")
    await rig.restart_after(words)
    await rig.until(rotation, "completed")


async def test_a_lock_that_fails_pauses_it_and_going_on_tries_again(rig):
    rig.locks["agent-1"].refuses = "by the test"
    rotation = await started(rig)
    await rig.until(rotation, "paused")
    rig.locks["agent-1"].refuses = ""
    await rig.rotations.resume(rotation, "test")
    await rig.until(rotation, "overlap")


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
    await rig.denies("agent-0", CARD, reason)
    await rig.looked()
    campaign = await rig.campaign(rotation)
    assert campaign.state == ("paused" if pauses else "overlap")
    assert campaign.lockouts == int(pauses)
    if pauses:
        assert CARD in campaign.reason
        assert "door-agent-0" in campaign.reason


async def lost(rig: Campaigns, rotation: str, agent: str) -> None:
    """It can't be reached, its last word was that it has no keys, and it is in quarantine."""
    lock = rig.locks[agent]
    lock.online, lock.held = False, {}
    await rig.says_held(lock)
    await rig.rotations.quarantine(rotation, "test", [agent])


async def test_a_refusal_at_a_lock_in_quarantine_pauses_nothing(rig):
    await rig.add_card(CARD)
    rotation = await overlapping(rig)
    await lost(rig, rotation, "agent-0")
    await rig.denies("agent-0", CARD)
    await rig.looked()
    assert (await rig.campaign(rotation)).state == "overlap"


async def test_what_is_in_quarantine_stays_there_on_the_way_back(rig):
    rotation = await overlapping(rig)
    await lost(rig, rotation, "agent-0")
    back = await rig.rotations.roll_back(rotation, "test")
    _, _, locks = await rig.rotations.standing(back.id)
    assert [lock.agent for lock in locks if lock.quarantined] == ["agent-0"]


async def test_before_activation_a_roll_back_forgets_it(rig):
    rotation = await started(rig, hold=True)
    await rig.until(rotation, "staged")
    await rig.looked()
    assert (await rig.campaign(rotation)).state == "staged"
    await rig.rotations.roll_back(rotation, "test")
    assert await rig.versions() == Versions()
    assert rig.policies == 0
    again = await rig.rotations.plan(ZONE, "test")
    assert again.to_version == 3


async def test_in_the_overlap_a_roll_back_prefers_the_old_version_again(rig):
    await rig.add_card(CARD)
    rotation = await overlapping(rig)
    await rig.rekeyed(CARD, 1, 2)
    back = await rig.rotations.roll_back(rotation, "test")
    assert (back.from_version, back.to_version, back.state) == (2, 1, "overlap")
    assert await rig.versions() == Versions(1, (2,))
    await rig.prefer(1)
    await rig.rotations.retire(back.id, "test")  # the card has both versions
    await rig.until(back.id, "completed")
    assert await rig.versions() == Versions(1, ())
    assert rig.locks["agent-0"].floor == 1


async def test_what_was_retired_does_not_come_back(rig):
    rotation = await overlapping(rig)
    rig.locks["agent-0"].deaf = True  # so it goes on asking for the old version too
    await rig.rotations.retire(rotation, "test")
    with pytest.raises(NotNow, match="can't be rolled back"):
        await rig.rotations.roll_back(rotation, "test")


async def test_a_lock_with_a_secret_of_its_own_rotates_too(rig):
    lock = await rig.add_lock("alone", "own", new=True)
    rotation = await started(rig, "own")
    await rig.until(rotation, "overlap")
    await rig.prefer(2, domain="own")
    await rig.rotations.retire(rotation, "test", leave_behind=True)
    await rig.until(rotation, "completed")
    assert (set(lock.held), lock.floor) == ({2}, 2)
    assert rig.rotations.floors("alone") == {"own": 2}


async def test_locks_with_secrets_of_their_own_are_no_common_domain(rig):
    for agent in ("one", "another"):
        await rig.add_lock(agent, "own", new=True)
    with pytest.raises(NotNow, match="each with a secret of its own"):
        await rig.rotations.plan("own", "test")


async def test_what_is_not_there_is_said_to_be_not_there(rig):
    with pytest.raises(UnknownDomain, match="no door"):
        await rig.rotations.plan("nowhere", "test")
    with pytest.raises(UnknownRotation, match="rotation list"):
        await rig.rotations.start("00000000", "test")
    campaign = await rig.rotations.plan(ZONE, "test")
    with pytest.raises(NotNow, match="no agent z"):
        await rig.rotations.quarantine(campaign.id, "test", ["z"])
    with pytest.raises(NotNow, match="roll it back"):
        await rig.rotations.plan(ZONE, "test")


async def test_an_agent_speaks_of_its_own_locks_only(rig):
    held = {"domain": ZONE, "suite": "intl", "esam": None, "held": {}}
    asks = {"floor": 1, "preferred": 9, "accepted": ()}
    await rig.event("stranger", "keys.held", held | asks)
    campaign = await rig.rotations.plan(ZONE, "test")
    _, _, locks = await rig.rotations.standing(campaign.id)
    assert {lock.agent for lock in locks} == {f"agent-{number}" for number in range(3)}
