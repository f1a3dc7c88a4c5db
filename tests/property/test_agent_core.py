"""What must hold at a door whatever happens, in whatever order."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.core.decision import Circumstances, Denial, DoorView, decide
from edge_agent.core.door import (
    SHUT,
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
from edge_agent.core.proof import Proof, ProofOutcome
from edge_agent.core.schedule import is_open
from schemas.policy import (
    WEEKDAYS,
    CardState,
    DoorMode,
    DoorSettings,
    PolicyCard,
    Schedule,
    Window,
)
from schemas.revocation import RevocationReason

start_of_2026 = datetime(2026, 1, 1, tzinfo=UTC)
instants = st.timedeltas(timedelta(0), timedelta(days=730)).map(start_of_2026.__add__)
times = st.integers(0, 24 * 60).map(lambda m: f"{m // 60:02d}:{m % 60:02d}")


@st.composite
def schedules(draw):
    windows = []
    for _ in range(draw(st.integers(0, 3))):
        start, end = sorted(draw(st.lists(times, min_size=2, max_size=2, unique=True)))
        days = draw(st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=7, unique=True))
        windows.append(Window(start=start, end=end, days=tuple(days)))
    return Schedule(windows=tuple(windows))


groups = st.sampled_from(["staff", "guests", "cleaners"])
cards = st.builds(
    PolicyCard,
    card=st.just("00" * 8),
    person=st.just("ada"),
    groups=st.lists(groups, max_size=3).map(tuple),
    domains=st.sampled_from([(), ("front",), ("front", "back")]),
    state=st.sampled_from(CardState),
    valid_from=st.none() | instants,
    valid_until=st.none() | instants,
    offline=st.booleans(),
)
doors = st.builds(
    DoorView,
    st.builds(
        DoorSettings,
        domain=st.just("front"),
        suite=st.just("intl"),
        key_version=st.integers(1, 4),
        accepted_key_versions=st.lists(st.integers(1, 4), max_size=2).map(tuple),
        mode=st.sampled_from([DoorMode.LOCKED, DoorMode.UNLOCKED, DoorMode.BLOCKED]),
    ),
    st.sampled_from([ZoneInfo("UTC"), ZoneInfo("Europe/Berlin"), ZoneInfo("America/St_Johns")]),
    st.lists(st.tuples(groups, schedules()), max_size=3).map(tuple),
)
proofs = st.builds(
    Proof,
    st.just("00" * 8),
    st.sampled_from(ProofOutcome),
    st.none() | st.integers(1, 5),
    st.none() | st.floats(0, 2000),
)
circumstances = st.builds(
    Circumstances,
    direction=st.sampled_from(["in", "out"]),
    now=instants,
    heartbeat_age_s=st.none() | st.floats(0, 200_000),
    policy_over=st.booleans(),
    clock_trusted=st.booleans(),
    mode=st.sampled_from([DoorMode.LOCKED, DoorMode.UNLOCKED, DoorMode.BLOCKED]),
    exempt=st.none() | st.frozensets(groups),
    locked_out_s=st.sampled_from([0.0, 30.0]),
    denied_versions=st.frozensets(st.integers(1, 5), max_size=2),
    key_floor=st.integers(1, 3),
)


def granted(door, card, at, proof, denial=None):
    decision = decide(door, card, denial=denial, proof=proof, circumstances=at)
    assert decision == decide(door, card, denial=denial, proof=proof, circumstances=at)
    assert decision.granted is (decision.reason is None)
    return decision.granted


@settings(max_examples=300)
@given(doors, cards | st.none(), circumstances, proofs)
def test_no_rule_no_revoked_no_unknown_and_no_unproved_card_ever_passes(door, card, at, proof):
    for reason in RevocationReason:
        assert not granted(door, card, at, proof, Denial(1, reason))
    assert not granted(door, None, at, proof)
    assert not granted(replace(door, rules=()), card, at, proof)
    unproved = replace(proof, outcome=ProofOutcome.FAILED)
    assert not granted(door, card, at, unproved)
    if card is not None:
        assert not granted(door, card.model_copy(update={"state": CardState.REVOKED}), at, proof)
        assert not granted(door, card.model_copy(update={"domains": ()}), at, proof)
        ended = dict.fromkeys(card.groups, at.now)
        if at.clock_trusted:
            assert not granted(door, card.model_copy(update={"group_ends": ended}), at, proof)
    if proof.key_version is not None:
        denied = replace(at, denied_versions=frozenset({proof.key_version}))
        assert not granted(door, card, denied, proof)


@settings(max_examples=300)
@given(doors, cards, circumstances, proofs)
def test_nobody_enters_a_door_that_is_locked_down_blocked_or_out_of_touch(door, card, at, proof):
    at = replace(at, direction="in")
    assert not granted(door, card, replace(at, exempt=frozenset()), proof)
    assert not granted(door, card, replace(at, mode=DoorMode.BLOCKED), proof)
    assert not granted(door, card, replace(at, heartbeat_age_s=None), proof)
    at = replace(at, heartbeat_age_s=door.settings.grace_s + 1)
    assert card.offline or not granted(door, card, at, proof)


@settings(max_examples=300)
@given(doors, cards, circumstances, proofs)
def test_the_end_of_validity_is_exclusive_and_its_start_inclusive(door, card, at, proof):
    at = replace(at, clock_trusted=True)
    tick = timedelta(microseconds=1)
    ends_now = card.model_copy(update={"valid_from": None, "valid_until": at.now})
    assert not granted(door, ends_now, at, proof)
    starts_next = card.model_copy(update={"valid_from": at.now + tick, "valid_until": None})
    assert not granted(door, starts_next, at, proof)
    bounds = {"valid_from": at.now, "valid_until": at.now + tick}
    free = card.model_copy(update={"valid_from": None, "valid_until": None})
    assert granted(door, card.model_copy(update=bounds), at, proof) is granted(
        door, free, at, proof
    )


@settings(max_examples=300)
@given(doors, cards, circumstances, proofs)
def test_whoever_may_enter_may_leave_whatever_state_the_system_is_in(door, card, at, proof):
    if granted(door, card, replace(at, direction="in"), proof):
        trouble = replace(
            at,
            direction="out",
            exempt=frozenset(),
            heartbeat_age_s=None,
            policy_over=True,
            clock_trusted=False,
            locked_out_s=900.0,
        )
        assert granted(door, card, trouble, proof)


@given(schedules(), instants)
def test_a_schedule_depends_on_the_minute_alone(schedule, now):
    zone = ZoneInfo("Europe/Berlin")
    on_the_minute = now.replace(second=0, microsecond=0)
    assert is_open(schedule, zone, now) is is_open(schedule, zone, on_the_minute)
    local = now.astimezone(zone)
    expected = any(
        WEEKDAYS[local.weekday()] in window.days and window.start <= f"{local:%H:%M}" < window.end
        for window in schedule.windows
    )
    assert is_open(schedule, zone, now) is expected


SETTINGS = DoorSettings(
    domain="front", suite="intl", strike_release_s=5, held_prealarm_s=20, held_after_s=30
)
GRANT = Granted(Grant("g", None, None), asked_s=1e9)
OLD_GRANT = Granted(Grant("g", None, None), asked_s=-1.0)
"""Of a card held up before whatever has shut the door since."""
WAYS_OUT = (RexPressed(), Granted(Grant("g", None, None), asked_s=-1.0, leaving=True))
MODES = (DoorMode.LOCKED, DoorMode.UNLOCKED, DoorMode.BLOCKED, DoorMode.LOCKED_DOWN)
RELEASE_S = SETTINGS.strike_release_s
inputs = st.sampled_from(
    [
        GRANT,
        OLD_GRANT,
        *WAYS_OUT,
        Pulsed(),
        ContactOpened(),
        ContactClosed(),
        Tick(),
        *(ModeSet(SETTINGS, mode, "policy") for mode in MODES),
    ]
)
steps = st.lists(st.tuples(inputs, st.sampled_from([0.0, 0.1, 1.0, 4.9, 5.0, 25.0, 40.0])))
ALARMS = ("door.forced", "door.held", "door.held_prealarm")


def play(story, contact="closed"):
    """Each input with the outputs up to it, with a Tick at every deadline in between."""
    now_s = 0.0
    state, outputs = initial(SETTINGS, DoorMode.LOCKED, contact, now_s)
    yield state, None, now_s, outputs
    for given_input, pause_s in story:
        until_s = now_s + pause_s
        while (deadline := next_deadline(state)) is not None and deadline <= until_s:
            now_s = max(now_s, deadline)
            state, outputs = step(state, Tick(), now_s)
            yield state, Tick(), now_s, outputs
            assert (later := next_deadline(state)) is None or later > now_s
        now_s = until_s
        state, outputs = step(state, given_input, now_s)
        yield state, given_input, now_s, outputs


@settings(max_examples=400)
@given(steps, st.sampled_from(["open", "closed", "fault", "unknown"]))
def test_the_strike_is_released_only_for_someone_who_may_pass_or_by_an_unlocked_mode(
    story, contact
):
    strike, mode = False, DoorMode.LOCKED
    may_s = dict.fromkeys(("in", "out"), -1e9)
    for state, given_input, now_s, outputs in play(story, contact):
        if given_input in WAYS_OUT:
            may_s["out"] = now_s
        elif given_input == GRANT or (
            given_input in (OLD_GRANT, Pulsed()) and state.set_mode not in SHUT
        ):
            may_s["in"] = now_s
        elif state.set_mode is DoorMode.LOCKED_DOWN is not mode:
            may_s["in"] = -1e9
        mode = state.set_mode
        for output in outputs:
            if isinstance(output, SetStrike):
                strike = output.released
        assert strike is state.released
        if strike:
            assert state.unlocked or now_s < max(may_s.values()) + RELEASE_S
        if state.unlocked:
            assert strike


@settings(max_examples=400)
@given(steps)
def test_an_exit_is_never_shut_before_its_time_but_by_its_passage(story):
    leaving_s = -1e9
    for state, given_input, now_s, outputs in play(story):
        if given_input in WAYS_OUT:
            leaving_s = now_s
            assert state.released
        elif given_input == ContactClosed() and SetStrike(False) in outputs:
            leaving_s = -1e9
        if now_s < leaving_s + RELEASE_S:
            assert state.released


@settings(max_examples=400)
@given(steps)
def test_alarms_alternate_with_their_clearing_and_a_closed_door_has_none(story):
    standing = dict.fromkeys(ALARMS, False)
    grants = outcomes = 0
    for state, given_input, _, outputs in play(story):
        grants += isinstance(given_input, Granted)
        for output in outputs:
            if not isinstance(output, Emit):
                continue
            name = output.name.removesuffix(".cleared")
            outcomes += name in ("access.taken", "access.not_taken")
            if name in standing:
                rises = output.name == name
                assert standing[name] is not rises
                standing[name] = rises
        if state.contact == "closed":
            assert not any(standing.values())
    assert outcomes <= grants


@given(steps)
def test_an_opening_while_the_strike_is_released_is_never_forced(story):
    was_released = False
    for state, _, _, outputs in play(story):
        if any(isinstance(output, Emit) and output.name == "door.forced" for output in outputs):
            assert not was_released
        was_released = state.released
