import pytest

from edge_agent.core.door import (
    ContactClosed,
    ContactOpened,
    Emit,
    Grant,
    Granted,
    IoFault,
    IoRecovered,
    RexPressed,
    SetStrike,
    SettingsChanged,
    Tick,
    initial,
    next_deadline,
    step,
)
from schemas.policy import DoorMode, DoorSettings

SETTINGS = DoorSettings(
    domain="front", suite="intl", strike_release_s=5, held_prealarm_s=20, held_after_s=30
)
UNLOCKED = SETTINGS.model_copy(update={"mode": DoorMode.UNLOCKED})
GRANT = Granted(Grant("g1", "00" * 8, "ada"))


class Bench:
    """A door on the bench: what it does is noted in words."""

    def __init__(self, settings=SETTINGS, contact="closed"):
        self.state, outputs = initial(settings, contact, 0.0)
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


def test_starting_gives_no_pulse_and_no_event():
    assert Bench().started == []
    assert Bench(contact="open").started == []
    assert Bench(contact="fault").started == []
    assert Bench(UNLOCKED).started == ["release"]


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
    assert door.after(Granted(Grant("g2", None, None)), 4) == []
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


@pytest.mark.parametrize("mode", [DoorMode.LOCKED, DoorMode.BLOCKED])
def test_the_exit_button_works_in_every_mode(mode):
    door = Bench(SETTINGS.model_copy(update={"mode": mode}))
    assert "release" in door.after(RexPressed(), 1)


def test_a_button_with_its_own_wire_excuses_without_moving_our_strike():
    door = Bench(SETTINGS.model_copy(update={"rex_releases": False}))
    assert door.after(RexPressed(), 1) == ["rex.pressed"]
    assert door.after(ContactOpened(), 2) == ["door.opened rex"]
    assert door.after(ContactClosed(), 3) == ["door.closed"]


def test_an_unlocked_door_is_free_and_never_held():
    door = Bench(UNLOCKED)
    assert door.after(ContactOpened(), 1) == ["door.opened mode"]
    assert next_deadline(door.state) is None
    assert door.after(ContactClosed(), 500) == ["door.closed"]


def test_a_policy_changes_the_mode_at_once():
    door = Bench()
    assert door.after(SettingsChanged(UNLOCKED), 1) == ["release", "door.mode_changed policy"]
    assert door.after(SettingsChanged(UNLOCKED), 2) == []
    assert door.after(SettingsChanged(SETTINGS), 3) == ["lock", "door.mode_changed policy"]


def test_a_policy_does_not_cut_a_release_short():
    door = Bench()
    door.after(GRANT, 1)
    blocked = SETTINGS.model_copy(update={"mode": DoorMode.BLOCKED})
    assert door.after(SettingsChanged(blocked), 2) == []
    assert door.after(Tick(), 6) == ["access.not_taken", "lock", "door.mode_changed relock"]


def test_a_fault_is_told_once_and_what_was_missed_is_made_up_for():
    door = Bench()
    assert door.after(IoFault("wire cut"), 1) == ["door.fault"]
    assert door.after(IoFault("wire cut"), 2) == []
    assert door.after(IoRecovered("open"), 3) == [
        "door.fault.cleared",
        "lock",
        "door.opened nothing",
        "door.forced",
    ]
    door.after(IoFault("wire cut"), 4)
    assert door.after(IoRecovered("closed"), 5) == [
        "door.fault.cleared",
        "lock",
        "door.closed",
        "door.forced.cleared",
    ]
