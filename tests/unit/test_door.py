from dataclasses import replace

import pytest

from edge_agent.core.door import (
    MOST_PENDING,
    Emit,
    Grant,
    Granted,
    ModeSet,
    Pulsed,
    SetStrike,
    Tick,
    initial,
    next_deadline,
    step,
)
from edge_agent.core.door_input import ContactClosed, ContactOpened, RexPressed
from schemas.policy import DoorMode, DoorSettings

SETTINGS = DoorSettings(
    domain="front", suite="intl", strike_release_s=5, held_prealarm_s=20, held_after_s=30
)
GRANT = Granted(Grant("g1", "00" * 8, "ada"), 0)


def told(mode, cause="policy", settings=SETTINGS):
    return ModeSet(settings, mode, cause)


LOCKED, UNLOCKED = told(DoorMode.LOCKED), told(DoorMode.UNLOCKED)
BLOCKED = told(DoorMode.BLOCKED, "command")
LOCKED_DOWN = told(DoorMode.LOCKED_DOWN, "lockdown")
ENDED = told(DoorMode.LOCKED, "lockdown")


class Bench:
    """A door on the bench: what it does is noted in words."""

    def __init__(self, mode=DoorMode.LOCKED, contact="closed", settings=SETTINGS):
        self.state, outputs = initial(settings, mode, contact, 0.0)
        self.started = self.words(outputs)

    def after(self, input, now_s):
        self.state, outputs = step(self.state, input, now_s)
        return self.words(outputs)

    @staticmethod
    def words(outputs):
        words = []
        for output in outputs:
            if isinstance(output, SetStrike):
                words.append("release" if output.released else "lock")
                continue
            assert isinstance(output, Emit)
            extra = output.data.get("cause") or output.data.get("after") or ""
            words.append(f"{output.name} {extra}".strip())
        return words


@pytest.mark.parametrize("mode", [DoorMode.LOCKED, DoorMode.BLOCKED, DoorMode.LOCKED_DOWN])
@pytest.mark.parametrize("contact", ["closed", "open", "fault", "unknown"])
def test_starting_gives_no_pulse_and_no_event(mode, contact):
    assert Bench(mode, contact).started == []
    assert Bench(DoorMode.UNLOCKED, contact).started == ["release"]


def test_a_grant_releases_and_a_passage_relocks():
    door = Bench()
    assert door.after(GRANT, 1) == ["release", "door.mode_changed access"]
    assert door.after(ContactOpened(), 2) == ["door.opened access", "access.taken"]
    assert door.after(ContactClosed(), 3) == ["door.closed", "lock", "door.mode_changed relock"]
    assert next_deadline(door.state) is None


def test_a_grant_that_nobody_uses_is_not_taken():
    door = Bench()
    door.after(GRANT, 1)
    assert next_deadline(door.state) == 6
    assert door.after(Tick(), 6) == ["access.not_taken", "lock", "door.mode_changed relock"]


def test_a_door_without_a_contact_makes_no_claim_about_passages():
    door = Bench(contact="unknown")
    door.after(GRANT, 1)
    assert door.after(Tick(), 6) == ["lock", "door.mode_changed relock"]


def test_the_strike_relocks_while_the_door_stands_open():
    door = Bench()
    door.after(GRANT, 1)
    door.after(ContactOpened(), 2)
    assert door.after(Tick(), 6) == ["lock", "door.mode_changed relock"]
    assert door.after(ContactClosed(), 7) == ["door.closed"]


def test_a_second_grant_prolongs_and_both_are_taken():
    door = Bench()
    door.after(GRANT, 1)
    assert door.after(Granted(Grant("g2", None, None), 4), 4) == []
    assert next_deadline(door.state) == 9
    assert door.after(ContactOpened(), 8) == ["door.opened access", "access.taken", "access.taken"]


def test_a_grant_at_an_open_door_is_taken_at_once_and_restarts_the_held_time():
    door = Bench()
    door.after(GRANT, 0)
    door.after(ContactOpened(), 1)
    door.after(Tick(), 5)
    assert door.after(GRANT, 15) == ["release", "door.mode_changed access", "access.taken"]
    assert door.after(Tick(), 34) == ["lock", "door.mode_changed relock"]
    assert door.after(Tick(), 35) == ["door.held_prealarm"]


def test_a_door_opened_without_reason_is_forced_until_it_closes():
    door = Bench()
    assert door.after(ContactOpened(), 1) == ["door.opened nothing", "door.forced"]
    assert door.after(ContactClosed(), 2) == ["door.closed", "door.forced.cleared"]


def test_after_a_passage_the_next_opening_needs_a_reason_of_its_own():
    door = Bench()
    door.after(GRANT, 1)
    door.after(ContactOpened(), 2)
    door.after(ContactClosed(), 3)
    assert door.after(ContactOpened(), 3.2) == ["door.opened nothing", "door.forced"]


def test_an_opening_just_as_the_strike_relocks_is_not_forced():
    door = Bench()
    door.after(GRANT, 1)
    door.after(Tick(), 6)
    assert door.after(ContactOpened(), 6.3) == ["door.opened access"]


def test_a_held_door_warns_then_alarms_then_clears():
    door = Bench()
    door.after(GRANT, 0)
    door.after(ContactOpened(), 1)
    door.after(Tick(), 5)
    assert next_deadline(door.state) == 21
    assert door.after(Tick(), 21) == ["door.held_prealarm"]
    assert next_deadline(door.state) == 31
    assert door.after(Tick(), 31) == ["door.held"]
    assert next_deadline(door.state) is None
    assert door.after(ContactClosed(), 40) == [
        "door.closed",
        "door.held.cleared",
        "door.held_prealarm.cleared",
    ]


def test_the_exit_button_releases_and_excuses_the_opening():
    door = Bench()
    assert door.after(RexPressed(), 1) == ["rex.pressed", "release", "door.mode_changed rex"]
    assert door.after(ContactOpened(), 2) == ["door.opened rex"]


@pytest.mark.parametrize("mode", [DoorMode.LOCKED, DoorMode.BLOCKED, DoorMode.LOCKED_DOWN])
def test_the_exit_button_works_in_every_mode(mode):
    door = Bench(mode)
    assert door.after(RexPressed(), 1) == ["rex.pressed", "release", "door.mode_changed rex"]
    assert door.after(ContactOpened(), 2) == ["door.opened rex"]
    assert door.after(ContactClosed(), 3) == ["door.closed", "lock", "door.mode_changed relock"]
    assert door.state.mode is mode


@pytest.mark.parametrize("shut", [BLOCKED, LOCKED_DOWN])
@pytest.mark.parametrize("way_out", [RexPressed(), replace(GRANT, leaving=True)])
def test_whoever_is_leaving_is_not_held_by_a_door_that_is_shut_meanwhile(shut, way_out):
    door = Bench()
    door.after(way_out, 1)
    assert door.after(shut, 2) == []
    assert next_deadline(door.state) == 6
    assert "lock" in door.after(Tick(), 6)
    assert "release" in door.after(way_out, 7)


def test_a_button_with_its_own_wire_excuses_without_moving_our_strike():
    door = Bench(settings=SETTINGS.model_copy(update={"rex_releases": False}))
    assert door.after(RexPressed(), 1) == ["rex.pressed"]
    assert door.after(ContactOpened(), 2) == ["door.opened rex"]
    assert door.after(ContactClosed(), 3) == ["door.closed"]


def test_an_unlocked_door_is_free_and_never_held():
    door = Bench(DoorMode.UNLOCKED)
    assert door.after(ContactOpened(), 1) == ["door.opened mode"]
    assert next_deadline(door.state) is None
    assert door.after(ContactClosed(), 500) == ["door.closed"]


@pytest.mark.parametrize("cause", ["policy", "command", "schedule", "lockdown"])
def test_a_mode_changes_at_once_and_says_why(cause):
    door = Bench()
    unlocked, locked = told(DoorMode.UNLOCKED, cause), told(DoorMode.LOCKED, cause)
    assert door.after(unlocked, 1) == ["release", f"door.mode_changed {cause}"]
    assert door.after(unlocked, 2) == []
    assert door.after(locked, 3) == ["lock", f"door.mode_changed {cause}"]


@pytest.mark.parametrize("mode", [DoorMode.BLOCKED, DoorMode.LOCKED])
def test_a_mode_does_not_cut_a_release_short(mode):
    door = Bench(DoorMode.UNLOCKED)
    door.after(GRANT, 1)
    assert door.after(told(mode), 2) == ["door.mode_changed policy"]
    assert door.state.mode is DoorMode.ACCESSED
    assert door.after(Tick(), 6) == ["access.not_taken", "lock", "door.mode_changed relock"]
    assert door.state.mode is mode


def test_shorter_settings_do_not_cut_a_release_short():
    door = Bench()
    door.after(RexPressed(), 1)
    door.after(
        told(DoorMode.LOCKED, settings=SETTINGS.model_copy(update={"strike_release_s": 1})), 2
    )
    door.after(GRANT, 3)
    assert next_deadline(door.state) == 6


def test_a_pulse_lets_one_person_pass():
    door = Bench()
    assert door.after(Pulsed(), 1) == ["release", "door.mode_changed command"]
    assert door.after(ContactOpened(), 2) == ["door.opened command"]
    assert door.after(ContactClosed(), 3) == ["door.closed", "lock", "door.mode_changed relock"]
    assert door.after(ContactOpened(), 4) == ["door.opened nothing", "door.forced"]


def test_a_pulse_that_nobody_uses_ends_by_itself():
    door = Bench()
    door.after(Pulsed(), 1)
    assert door.after(Tick(), 6) == ["lock", "door.mode_changed relock"]


@pytest.mark.parametrize("mode", [DoorMode.BLOCKED, DoorMode.LOCKED_DOWN])
def test_a_door_that_is_shut_does_not_heed_a_pulse(mode):
    door = Bench(mode)
    assert door.after(Pulsed(), 1) == []
    assert not door.state.released


def test_an_unlocked_door_that_is_locked_down_relocks_at_once():
    door = Bench(DoorMode.UNLOCKED)
    assert door.after(LOCKED_DOWN, 1) == ["lock", "door.mode_changed lockdown"]
    assert door.after(ContactOpened(), 2) == ["door.opened nothing", "door.forced"]


@pytest.mark.parametrize("way_in", [GRANT, Pulsed()])
def test_a_lockdown_ends_a_release_for_someone_who_enters(way_in):
    door = Bench()
    door.after(way_in, 1)
    not_taken = ["access.not_taken"] if way_in == GRANT else []
    assert door.after(LOCKED_DOWN, 2) == [*not_taken, "lock", "door.mode_changed lockdown"]
    assert next_deadline(door.state) is None
    assert door.after(ContactOpened(), 2.3)[0].startswith("door.opened"), "on its way already"
    assert not door.state.forced


def test_a_lockdown_while_someone_is_in_the_opening_locks_behind_them():
    door = Bench()
    door.after(GRANT, 1)
    door.after(ContactOpened(), 2)
    assert door.after(LOCKED_DOWN, 2.5) == ["lock", "door.mode_changed lockdown"]
    assert door.after(ContactClosed(), 4) == ["door.closed"]


def test_a_lockdown_leaves_an_exit_its_time_and_an_entry_none():
    door = Bench()
    door.after(RexPressed(), 1)
    door.after(GRANT, 4)
    assert door.after(LOCKED_DOWN, 5) == []
    assert next_deadline(door.state) == 6, "the exit's time, and not the grant's until 9"


def test_an_exit_that_is_over_prolongs_nothing():
    door = Bench()
    door.after(RexPressed(), 1)
    door.after(ContactOpened(), 2)
    door.after(ContactClosed(), 3)
    door.after(GRANT, 4)
    assert "lock" in door.after(LOCKED_DOWN, 5)


@pytest.mark.parametrize("shut", [BLOCKED, LOCKED_DOWN])
def test_a_grant_from_before_the_door_was_shut_counts_no_more(shut):
    door = Bench()
    door.after(shut, 2)
    late = Granted(Grant("g1", None, None), asked_s=1.9)
    assert door.after(late, 2.1) == ["access.not_taken"]
    assert "release" in door.after(replace(late, leaving=True), 2.2), "but never to hold someone in"
    door.after(Tick(), 8)
    exempt = Granted(Grant("g2", None, None), asked_s=9)
    assert door.after(exempt, 9.1) == ["release", "door.mode_changed access"]


def test_the_end_of_a_lockdown_releases_nothing():
    door = Bench(DoorMode.LOCKED_DOWN)
    assert door.after(ENDED, 1) == ["door.mode_changed lockdown"]
    assert not door.state.released


def test_a_held_door_stays_held_when_it_is_locked_down():
    door = Bench()
    door.after(GRANT, 0)
    door.after(ContactOpened(), 1)
    door.after(Tick(), 31)
    assert door.after(LOCKED_DOWN, 32) == ["door.mode_changed lockdown"]
    assert "door.held.cleared" in door.after(ContactClosed(), 33)


def test_the_held_time_counts_from_when_the_door_was_no_longer_left_free():
    door = Bench(DoorMode.UNLOCKED)
    door.after(ContactOpened(), 1)
    door.after(LOCKED, 100)
    assert next_deadline(door.state) == 120
    door.after(BLOCKED, 110)
    assert next_deadline(door.state) == 120


def test_a_contact_that_could_not_be_read_at_the_start_is_believed_from_its_first_change():
    door = Bench(contact="fault")
    assert door.after(ContactClosed(), 1) == []
    assert door.after(ContactOpened(), 2) == ["door.opened nothing", "door.forced"]


def test_an_unlocked_door_stays_free_when_a_release_ends():
    door = Bench(DoorMode.UNLOCKED)
    assert door.after(RexPressed(), 1) == ["rex.pressed"]
    assert door.after(Tick(), 6) == []
    assert door.state.released


def test_a_lockdown_that_is_told_again_shuts_out_nobody_who_was_exempt_meanwhile():
    door = Bench()
    door.after(LOCKED_DOWN, 1)
    door.after(LOCKED_DOWN, 3)
    assert "release" in door.after(Granted(Grant("g1", None, None), asked_s=2), 4)


def test_a_grant_from_just_when_the_door_was_shut_counts():
    door = Bench()
    door.after(LOCKED_DOWN, 1)
    assert "release" in door.after(Granted(Grant("g1", None, None), asked_s=1), 2)


def test_a_grant_from_before_the_door_was_unlocked_and_locked_counts():
    door = Bench()
    door.after(UNLOCKED, 2)
    door.after(LOCKED, 3)
    assert "release" in door.after(Granted(Grant("g1", None, None), asked_s=1), 4)


def test_a_button_with_its_own_wire_excuses_in_a_lockdown_too():
    door = Bench(settings=SETTINGS.model_copy(update={"rex_releases": False}))
    door.after(RexPressed(), 1)
    door.after(LOCKED_DOWN, 2)
    assert door.after(ContactOpened(), 4) == ["door.opened rex"]


def test_a_door_that_is_left_free_has_no_alarms():
    door = Bench()
    door.after(ContactOpened(), 1)
    door.after(Tick(), 21)
    assert door.after(UNLOCKED, 22) == [
        "release",
        "door.mode_changed policy",
        "door.forced.cleared",
        "door.held_prealarm.cleared",
    ]


def test_a_contact_that_says_the_same_again_says_nothing():
    door = Bench()
    assert door.after(ContactClosed(), 1) == []
    door.after(ContactOpened(), 2)
    assert door.after(ContactOpened(), 3) == []


@pytest.mark.parametrize("reason", [GRANT, RexPressed()])
def test_a_release_is_not_ended_by_a_door_that_only_shows_that_it_is_closed(reason):
    door = Bench(contact="fault")
    door.after(reason, 1)
    assert door.after(ContactClosed(), 2) == []
    assert door.state.released


def test_of_too_many_grants_at_once_the_oldest_counts_as_not_taken():
    door = Bench()
    for number in range(MOST_PENDING):
        assert "access.not_taken" not in door.after(GRANT, 1 + number / 100)
    assert door.after(GRANT, 2) == ["access.not_taken"]
    assert door.after(ContactOpened(), 3).count("access.taken") == MOST_PENDING
