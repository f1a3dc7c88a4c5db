"""In which mode a door is: lockdowns, overrides and the policy, the stronger first."""

from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from edge_agent.core.decision import DoorView
from edge_agent.core.door_mode import Override, effective_mode, exempt_groups, standing_mode
from schemas.policy import DoorMode, DoorSettings, Schedule
from tests.centre import ALWAYS, DOOR, NOW, SITE, lockdown

LOCKED, UNLOCKED, BLOCKED = DoorMode.LOCKED, DoorMode.UNLOCKED, DoorMode.BLOCKED
SETTINGS = DoorSettings(domain=DOOR, suite="intl", areas=("lab", "building"))
VIEW = DoorView(SETTINGS, ZoneInfo("UTC"))
SECOND = timedelta(seconds=1)


def view(mode=LOCKED, unlock=None):
    return replace(VIEW, settings=SETTINGS.model_copy(update={"mode": mode}), unlock=unlock)


def mode(of=VIEW, *, override=None, lockdowns=(), now=NOW, in_time=True):
    return effective_mode(
        SITE, DOOR, of, lockdowns=lockdowns, override=override, now=now, in_time=in_time
    )


@pytest.mark.parametrize("policy", [LOCKED, UNLOCKED, BLOCKED])
def test_by_itself_a_door_is_in_the_mode_of_its_policy(policy):
    assert mode(view(policy)) is policy


def test_an_open_schedule_unlocks_a_locked_door_and_no_blocked_one():
    assert mode(view(LOCKED, ALWAYS)) is UNLOCKED
    assert mode(view(LOCKED, Schedule())) is LOCKED
    assert mode(view(BLOCKED, ALWAYS)) is BLOCKED


@pytest.mark.parametrize("commanded", [LOCKED, UNLOCKED, BLOCKED])
@pytest.mark.parametrize("policy", [view(UNLOCKED), view(LOCKED, ALWAYS), view(BLOCKED)])
def test_an_override_stands_over_the_policy_until_it_ends(commanded, policy):
    assert mode(policy, override=Override(commanded)) is commanded
    override = Override(commanded, NOW + SECOND)
    assert mode(policy, override=override) is commanded
    assert mode(policy, override=override, now=NOW + SECOND) is mode(policy)


@pytest.mark.parametrize(
    "free", [{"of": view(UNLOCKED)}, {"of": view(LOCKED, ALWAYS)}, {"override": Override(UNLOCKED)}]
)
def test_nothing_leaves_a_door_free_without_a_time_to_go_by(free):
    assert mode(**free) is UNLOCKED
    assert mode(**free, in_time=False) is LOCKED


@pytest.mark.parametrize("shut", [{"of": view(BLOCKED)}, {"override": Override(BLOCKED)}])
def test_what_shuts_a_door_needs_no_time(shut):
    assert mode(**shut, in_time=False) is BLOCKED


@pytest.mark.parametrize("over", [None, Override(UNLOCKED), Override(BLOCKED)])
@pytest.mark.parametrize("in_time", [True, False])
def test_a_lockdown_stands_over_everything(over, in_time):
    shut = mode(view(UNLOCKED), override=over, lockdowns=[lockdown()], in_time=in_time)
    assert shut is DoorMode.LOCKED_DOWN


def test_under_a_lockdown_there_is_still_the_mode_that_exempt_people_meet():
    assert standing_mode(VIEW, Override(BLOCKED), now=NOW, in_time=True) is BLOCKED


@pytest.mark.parametrize(
    ("scope", "name", "covered"),
    [
        ("site", SITE, True),
        ("site", "elsewhere", False),
        ("area", "lab", True),
        ("area", "building", True),
        ("area", "garden", False),
        ("area", DOOR, False),
        ("door", DOOR, True),
        ("door", "back", False),
        ("door", "lab", False),
    ],
)
def test_a_lockdown_shuts_the_doors_in_its_scope_alone(scope, name, covered):
    shut = exempt_groups(SITE, DOOR, SETTINGS.areas, [lockdown(name, scope)])
    assert shut == (frozenset() if covered else None)


def test_of_several_lockdowns_each_must_exempt_a_group():
    both = [
        lockdown(exempt=("guards", "medics")),
        lockdown(DOOR, "door", id="gas", exempt=("medics", "divers")),
        lockdown("back", "door", id="party", exempt=()),
    ]
    assert exempt_groups(SITE, DOOR, (), both) == {"medics"}
    assert exempt_groups(SITE, DOOR, (), both[:1]) == {"guards", "medics"}
    assert exempt_groups(SITE, DOOR, (), []) is None
