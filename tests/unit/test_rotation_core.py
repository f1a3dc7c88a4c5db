"""The rules of a rotation campaign, one sentence each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.keys import MAX_VERSIONS
from server.core import rotation
from server.core.rotation import (
    Destroy,
    NotNow,
    Order,
    Picture,
    Prefer,
    RaiseFloor,
    advance,
    order_for,
)
from server.core.rotation_plan import plan
from server.core.rotation_waves import LAST_WAVE
from tests.rotation_cast import (
    ACTIVE,
    AFTER,
    BOTH,
    CHECKS,
    DEADLINE,
    DOMAIN,
    ERASED,
    LAST,
    NEW_ALONE,
    NOW,
    OLD,
    OVERLAP,
    PLANNED,
    PREFERS,
    RETIRED,
    RETIRING,
    STAGED,
    STAGING,
    checks,
    lock,
    picture,
)


def settled(campaign, locks, domain=DOMAIN):
    """What it is after all steps that are due by themselves, and their effects."""
    effects = []
    for _ in range(20):
        step = advance(campaign, locks, domain)
        if step is None or (step.campaign == campaign and step.effects == ()):
            return campaign, effects
        campaign = step.campaign
        for effect in step.effects:
            effects.append(effect)
            if isinstance(effect, Prefer):
                domain = replace(domain, preferred=effect.preferred, accepted=effect.accepted)
            if isinstance(effect, RaiseFloor):
                domain = replace(domain, floor=effect.floor)
    raise AssertionError("it goes on for ever")


# --- planning


def test_a_campaign_starts_from_the_version_that_doors_prefer():
    assert plan("r1", DOMAIN, 2, DEADLINE) == PLANNED


@pytest.mark.parametrize("state", ["planned", "staging", "staged", "overlap", "retiring", "paused"])
def test_a_second_campaign_waits_for_the_first(state):
    with pytest.raises(NotNow, match="r0"):
        plan("r1", DOMAIN, 3, DEADLINE, [replace(PLANNED, id="r0", state=state)])


@pytest.mark.parametrize("state", ["completed", "rolled_back"])
def test_a_campaign_may_follow_one_that_is_over(state):
    past = [replace(PLANNED, id="r0", state=state)]
    assert plan("r1", DOMAIN, 3, DEADLINE, past).to_version == 3


@pytest.mark.parametrize("version", [0, 1, 2, 256])
def test_a_version_that_was_there_or_can_not_be_is_not_planned(version):
    with pytest.raises(NotNow, match="can't be next"):
        plan("r1", DOMAIN, version, DEADLINE, [replace(PLANNED, state="rolled_back")])


def test_nothing_is_planned_while_doors_accept_an_old_version():
    with pytest.raises(NotNow, match="accept"):
        plan("r1", OVERLAP, 3, DEADLINE)


def test_a_lock_is_not_to_hold_more_versions_than_it_can():
    full = replace(DOMAIN, checks={v: checks(v) for v in range(1, MAX_VERSIONS + 1)})
    with pytest.raises(NotNow, match="new domain"):
        plan("r1", full, MAX_VERSIONS + 1, DEADLINE)
    plan("r1", replace(full, floor=2, preferred=2), MAX_VERSIONS + 1, DEADLINE)


# --- staging


def test_only_the_locks_of_a_wave_that_is_on_are_given_the_new_version():
    canary, other = lock("a", wave=0), lock("b", wave=1)
    assert order_for(canary, DOMAIN, STAGING) == Order("a", 2, CHECKS[2], 1)
    assert order_for(other, DOMAIN, STAGING) is None
    assert order_for(other, DOMAIN, replace(STAGING, wave=1)) is not None


def test_no_lock_is_given_anything_by_a_campaign_that_did_not_start_or_is_paused():
    for campaign in (PLANNED, rotation.pause(STAGING, "why").campaign, None):
        assert order_for(lock(wave=0), DOMAIN, campaign) is None


def test_the_next_wave_waits_for_each_lock_that_can_be_reached():
    rest = lock("z")
    assert advance(STAGING, [lock("a", wave=0), rest], DOMAIN) is None
    step = advance(STAGING, [lock("a", BOTH, wave=0), rest], DOMAIN)
    assert step is not None
    assert step.campaign.wave == 1


def test_a_lock_that_can_not_be_reached_holds_no_wave_up():
    locks = [lock("a", BOTH, wave=0), lock("b", wave=1, reachable=False), lock("c")]
    assert settled(STAGING, locks)[0].wave == LAST_WAVE


def test_a_canary_that_went_away_proves_nothing():
    locks = [lock("a", wave=0, reachable=False), lock("b")]
    assert advance(STAGING, locks, DOMAIN) is None


def test_without_its_canary_a_campaign_goes_on_if_the_operator_says_so():
    locks = [lock("a", wave=0, reachable=False, quarantined=True), lock("b")]
    assert settled(STAGING, locks)[0].wave == LAST_WAVE


def test_other_keys_of_the_same_number_are_not_the_new_version():
    wrong = Picture({1: checks(1), 2: checks(9)}, 1, 1, ())
    assert order_for(lock(has=wrong), DOMAIN, LAST) == Order("a", 2, CHECKS[2], 1)
    assert advance(LAST, [lock(has=wrong)], DOMAIN) is None


def test_a_lock_with_a_secret_of_its_own_holds_whatever_it_drew():
    own = replace(DOMAIN, checks={1: None, 2: None})
    drawn = Picture({1: checks(7), 2: checks(8)}, 1, 1, ())
    assert order_for(lock(), own, LAST) == Order("a", 2, None, 1)
    assert settled(LAST, [lock(has=drawn)], own)[0].state == "overlap"


def test_too_many_failures_halt_it_and_name_a_lock():
    step = advance(LAST, [lock(refusal="worn_out"), lock("b", BOTH)], DOMAIN)
    assert step is not None
    assert (step.campaign.state, step.event) == ("paused", "paused")
    assert "a: worn_out" in step.campaign.reason


def test_a_lock_in_quarantine_fails_no_campaign():
    locks = [lock(refusal="worn_out", quarantined=True), lock("b", BOTH)]
    assert settled(LAST, locks)[0].state == "overlap"


def test_a_lock_that_lost_what_it_was_given_is_given_it_again():
    assert order_for(lock(has=picture()), DOMAIN, LAST) == Order("a", 1, CHECKS[1], 1)
    assert order_for(lock(has=OLD), DOMAIN, STAGED) == Order("a", 2, CHECKS[2], 1)


# --- the gate


def test_it_is_not_staged_before_every_lock_in_service_has_the_new_version():
    for missing in (lock("b"), lock("b", None), lock("b", reachable=False)):
        assert advance(LAST, [lock(has=BOTH), missing], DOMAIN) is None


def test_a_lock_out_of_reach_that_has_the_new_version_passes_the_gate():
    assert settled(LAST, [lock(has=BOTH, reachable=False)])[0].state == "overlap"


def test_with_the_gate_open_it_activates_by_itself():
    campaign, effects = settled(LAST, [lock(has=BOTH), lock("b", quarantined=True)])
    assert campaign.state == "overlap"
    assert effects == [Prefer(2, (1,))]


def test_held_it_waits_for_the_operator():
    campaign, effects = settled(replace(LAST, hold=True), [lock(has=BOTH)])
    assert (campaign.state, effects) == ("staged", [])
    assert rotation.activate(campaign, [lock(has=BOTH)], CHECKS[2]).campaign.state == "overlap"


def test_a_lock_that_lost_the_new_version_shuts_the_gate_again():
    with pytest.raises(NotNow, match="quarantine"):
        rotation.activate(STAGED, [lock()], CHECKS[2])
    assert advance(STAGED, [lock()], DOMAIN) is None


def test_a_lock_that_came_while_staging_is_waited_for_and_given_both():
    newcomer = lock("new", None)
    assert advance(LAST, [lock(has=BOTH), newcomer], DOMAIN) is None
    assert order_for(newcomer, DOMAIN, LAST) == Order("new", 1, CHECKS[1], 1)
    assert order_for(replace(newcomer, picture=OLD), DOMAIN, LAST).version == 2


def test_a_lock_that_was_removed_is_not_waited_for():
    assert settled(LAST, [lock(has=BOTH)])[0].state == "overlap"
    assert settled(STAGING, [])[0].state == "overlap"


# --- the overlap


def test_in_the_overlap_a_lock_must_hold_both_versions():
    assert order_for(lock(has=picture(2)), OVERLAP, ACTIVE).version == 1
    assert order_for(lock(has=OLD), OVERLAP, ACTIVE).version == 2
    assert order_for(lock(has=PREFERS), OVERLAP, ACTIVE) is None


def test_the_overlap_ends_only_by_the_operators_word():
    assert advance(ACTIVE, [lock(has=PREFERS)], OVERLAP) is None


def test_cards_that_are_behind_keep_the_old_version_from_being_retired():
    locks = [lock(has=PREFERS)]
    with pytest.raises(NotNow, match="3 live cards"):
        rotation.retire(ACTIVE, locks, 3, NOW)
    assert rotation.retire(ACTIVE, locks, 0, NOW).campaign.state == "retiring"
    assert rotation.retire(ACTIVE, locks, 3, DEADLINE).campaign.state == "retiring"
    assert rotation.retire(ACTIVE, locks, 3, NOW, leave_behind=True).campaign.leave_behind


def test_nothing_is_retired_while_a_lock_may_still_bind_cards_by_it():
    for slow in (BOTH, picture(1, preferred=2, accepted=(1,)), None):
        with pytest.raises(NotNow, match="prefer"):
            rotation.retire(ACTIVE, [lock(has=slow)], 0, NOW)
    rotation.retire(ACTIVE, [lock(has=BOTH, quarantined=True)], 0, NOW)


@pytest.mark.parametrize("campaign", [PLANNED, STAGING, STAGED, RETIRING])
def test_only_an_overlap_is_retired(campaign):
    with pytest.raises(NotNow, match=campaign.state):
        rotation.retire(campaign, [], 0, DEADLINE)


# --- retiring


def test_doors_take_the_old_version_until_each_lock_has_the_new_one():
    assert advance(RETIRING, [lock(has=PREFERS), lock("b")], OVERLAP) is None
    step = advance(RETIRING, [lock(has=PREFERS)], OVERLAP)
    assert step is not None
    assert step.effects == (Prefer(2, ()),)


def test_the_floor_waits_for_every_door_that_asks_for_the_old_version():
    for slow in (PREFERS, picture(1, 2, preferred=1)):
        assert advance(RETIRING, [lock(has=NEW_ALONE), lock("b", slow)], AFTER) is None
    step = advance(RETIRING, [lock(has=NEW_ALONE)], AFTER)
    assert step is not None
    assert step.effects == (RaiseFloor(2),)


def test_a_lock_is_told_to_erase_only_what_its_doors_do_not_ask_for():
    assert order_for(lock(has=NEW_ALONE), RETIRED, RETIRING) == Order("a", 2, CHECKS[2], 2)
    for asks in (PREFERS, BOTH):
        assert order_for(lock(has=asks), RETIRED, RETIRING) is None


def test_a_lock_without_the_new_version_is_given_it_before_it_erases_the_old_one():
    late = lock(has=picture(1, preferred=2))
    assert order_for(late, RETIRED, RETIRING) == Order("a", 2, CHECKS[2], 1)
    assert order_for(lock(has=None), RETIRED, RETIRING) == Order("a", 2, CHECKS[2], 1)


def test_a_paused_campaign_erases_nothing():
    paused = rotation.pause(RETIRING, "why").campaign
    assert advance(paused, [lock(has=NEW_ALONE)], AFTER) is None
    assert order_for(lock(has=NEW_ALONE), RETIRED, paused) is None


def test_it_is_completed_when_every_lock_has_erased_the_old_version():
    assert advance(RETIRING, [lock(has=NEW_ALONE)], RETIRED) is None
    step = advance(RETIRING, [lock(has=ERASED), lock("b", quarantined=True)], RETIRED)
    assert step is not None
    assert (step.campaign.state, step.event, step.effects) == ("completed", "completed", ())


def test_the_old_version_is_destroyed_at_the_end_if_that_was_asked_for():
    step = advance(replace(RETIRING, destroy=True), [lock(has=ERASED)], RETIRED)
    assert step is not None
    assert step.effects == (Destroy(1),)


def test_a_lock_that_comes_back_after_the_end_is_brought_up_to_date():
    late = lock(has=OLD)
    assert order_for(late, RETIRED, None) == Order("a", 2, CHECKS[2], 1)
    assert order_for(replace(late, picture=BOTH), RETIRED, None) is None
    assert order_for(replace(late, picture=NEW_ALONE), RETIRED, None).floor == 2


# --- rolling back


@pytest.mark.parametrize("campaign", [PLANNED, STAGING, STAGED])
def test_before_activation_rolling_back_forgets_the_new_version(campaign):
    for each in (campaign, replace(campaign, state="paused", resumes=campaign.state)):
        step, back = rotation.roll_back(each, "r2")
        assert (step.campaign.state, step.effects, back) == ("rolled_back", (), None)


def test_in_the_overlap_another_campaign_prefers_the_old_version_at_once():
    step, back = rotation.roll_back(ACTIVE, "r2")
    assert step.campaign.state == "rolled_back"
    assert step.effects == (Prefer(1, (2,)),)
    assert back is not None
    assert (back.state, back.from_version, back.to_version) == ("overlap", 2, 1)
    assert back.goes_back


def test_a_campaign_back_raises_no_floor_and_destroys_nothing():
    _, back = rotation.roll_back(ACTIVE, "r2")
    returned = picture(1, 2, preferred=1, accepted=(2,))
    standing = replace(DOMAIN, accepted=(2,))
    retiring = rotation.retire(back, [lock(has=returned)], 0, NOW, destroy=True).campaign
    ended, effects = settled(retiring, [lock(has=BOTH)], standing)
    assert ended.state == "completed"
    assert effects == [Prefer(1, ())]


def test_a_campaign_back_can_be_turned_again():
    _, back = rotation.roll_back(ACTIVE, "r2")
    step, again = rotation.roll_back(back, "r3")
    assert step.effects == (Prefer(2, (1,)),)
    assert again is not None
    assert (again.from_version, again.to_version) == (1, 2)


@pytest.mark.parametrize("state", ["retiring", "completed", "rolled_back"])
def test_what_is_being_retired_or_is_over_does_not_come_back(state):
    with pytest.raises(NotNow):
        rotation.roll_back(replace(RETIRING, state=state), "r2")
    with pytest.raises(NotNow):
        rotation.roll_back(replace(RETIRING, state="paused", resumes="retiring"), "r2")


# --- pausing


@pytest.mark.parametrize("campaign", [STAGING, STAGED, ACTIVE, RETIRING])
def test_resumed_it_goes_on_where_it_was_paused(campaign):
    step = rotation.pause(campaign, "a look at it")
    assert step.campaign.reason == "a look at it"
    assert rotation.resume(step.campaign).campaign == campaign


@pytest.mark.parametrize("campaign", [STAGING, STAGED, ACTIVE, RETIRING])
def test_paused_it_takes_no_step_by_itself(campaign):
    paused = rotation.pause(campaign, "why").campaign
    for has in (OLD, BOTH, PREFERS, NEW_ALONE, ERASED):
        for domain in (DOMAIN, OVERLAP, AFTER, RETIRED):
            assert advance(paused, [lock(has=has)], domain) is None


def test_what_does_not_run_is_not_paused_and_what_runs_is_not_resumed():
    for campaign in (PLANNED, replace(RETIRING, state="completed")):
        with pytest.raises(NotNow):
            rotation.pause(campaign, "why")
    with pytest.raises(NotNow, match="paused can"):
        rotation.resume(STAGING)
    with pytest.raises(NotNow, match="planned can"):
        rotation.start(STAGING)


@pytest.mark.parametrize("campaign", [STAGING, STAGED, ACTIVE, RETIRING])
def test_a_good_card_that_is_refused_halts_it_at_once(campaign):
    step = rotation.locked_out(campaign, "00112233445566aa", "front")
    assert (step.campaign.state, step.campaign.lockouts) == ("paused", 1)
    assert "front" in step.campaign.reason
    assert rotation.locked_out(step.campaign, "aa", "b").campaign.lockouts == 2
