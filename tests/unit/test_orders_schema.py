"""What the server tells agents to do: heartbeats that stay small, lockdowns, bounded commands."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from schemas.command import (
    LONGEST_UNLOCK,
    LONGEST_WINDOW,
    PATIENT,
    PROMPT,
    WINDOWS,
    Action,
    Command,
)
from schemas.heartbeat import Heartbeat
from schemas.lockdown import Lockdowns
from schemas.versions import LogHead, Version
from tests.centre import NOW, SESSION, lockdown

TICK = timedelta(microseconds=1)


def test_a_heartbeat_for_four_doors_of_a_large_site_has_512_bytes_of_payload_at_most():
    heartbeat = Heartbeat(
        site="headquarters",
        audience="building-a-floor-3",
        issued=NOW.replace(microsecond=123_456),
        counter=1_772_452_800_123_456,
        root=17,
        policy=Version(version=123_456, hash="ab" * 32),
        revocation=LogHead(sequence=234_567, hash="cd" * 32),
        lockdown=1_234,
        key_floors={f"floor-3-lab-{n}": 12 for n in range(4)},
    )
    assert len(heartbeat.model_dump_json()) <= 512


@pytest.mark.parametrize(
    "changes",
    [
        {"root": 0},
        {"lockdown": -1},
        {"key_floors": {"front": 0}},
        {"key_floors": {"front": 256}},
        {"key_floors": {"Front": 1}},
        {"key_floors": {f"d{n}": 1 for n in range(17)}},
        {"policy": {"version": 0, "hash": "ab" * 32}},
        {"policy": {"version": 1, "hash": "ab"}},
        {"revocation": {"sequence": -1, "hash": "ab" * 32}},
        {"counter": 2**63},
        {"more": 1},
    ],
    ids=str,
)
def test_a_heartbeat_of_another_form_is_refused(changes):
    good = {
        "site": "demo",
        "audience": "front-agent",
        "issued": NOW,
        "counter": 1,
        "root": 1,
        "policy": None,
        "revocation": {"sequence": 0},
        "lockdown": 0,
    }
    assert Heartbeat.model_validate(good)
    with pytest.raises(ValidationError):
        Heartbeat.model_validate(good | changes)


def lockdowns(*active):
    return Lockdowns(site="demo", audience="all", issued=NOW, counter=1, active=active)


def test_a_lockdown_has_its_id_alone():
    assert lockdowns(lockdown(id="fire"), lockdown(id="gas")).active
    with pytest.raises(ValidationError, match="same id"):
        lockdowns(lockdown(id="fire"), lockdown("lab", "area", id="fire"))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "Fire"},
        {"scope": "planet"},
        {"name": ""},
        {"exempt": ["Guards"]},
        {"exempt": [f"g{n}" for n in range(17)]},
        {"since": "2026-01-01T00:00:00"},
        {"until": NOW},
    ],
    ids=str,
)
def test_a_lockdown_of_another_form_is_refused(changes):
    with pytest.raises(ValidationError):
        lockdown(**changes)


def command(action=Action.LOCK, **changes):
    limit = PROMPT if action in (Action.PULSE, Action.UNLOCK) else PATIENT
    values = {
        "site": "demo",
        "audience": "front-agent",
        "issued": NOW,
        "expires": NOW + limit,
        "counter": 1,
        "id": "0" * 16,
        "session": SESSION,
        "action": action,
        "door": None if action is Action.REBOOT else "front",
    }
    if action is Action.UNLOCK:
        values["until"] = NOW + timedelta(hours=24)
    if action in WINDOWS:
        values |= {"until": NOW + LONGEST_WINDOW, "direction": "in"}
        values |= {"person": "ada", "card": "00112233445566aa"}
    return Command.model_validate(values | changes)


@pytest.mark.parametrize("action", Action)
def test_a_command_expires_within_seconds(action):
    limit = PROMPT if action in (Action.PULSE, Action.UNLOCK) else PATIENT
    assert command(action).expires == NOW + limit
    for expires in (None, NOW + limit + TICK):
        with pytest.raises(ValidationError, match="must expire"):
            command(action, expires=expires)


def test_what_moves_the_strike_expires_sooner_than_anything_else():
    assert timedelta(seconds=5) == PROMPT < PATIENT


@pytest.mark.parametrize("action", Action)
def test_every_command_but_reboot_is_for_one_door(action):
    other = "front" if action is Action.REBOOT else None
    with pytest.raises(ValidationError, match="reboot alone"):
        command(action, door=other)


def test_an_unlock_ends_within_a_day():
    assert command(Action.UNLOCK, until=NOW + LONGEST_UNLOCK)
    for until in (None, NOW + LONGEST_UNLOCK + TICK):
        with pytest.raises(ValidationError, match="within 24 h"):
            command(Action.UNLOCK, until=until)


@pytest.mark.parametrize("action", sorted(WINDOWS))
@pytest.mark.parametrize("lacking", ["until", "direction"])
def test_a_window_has_an_end_and_a_reader(action, lacking):
    with pytest.raises(ValidationError, match="an end and a reader"):
        command(action, **{lacking: None})


def test_a_card_is_bound_to_a_person_and_one_card_is_unbound():
    with pytest.raises(ValidationError, match="to a person"):
        command(Action.BINDING_WINDOW, person=None)
    assert command(Action.BINDING_WINDOW, card=None).card is None
    with pytest.raises(ValidationError, match="for one card"):
        command(Action.UNBINDING_WINDOW, card=None)
    assert command(Action.UNBINDING_WINDOW, person=None).person is None


@pytest.mark.parametrize("action", sorted(WINDOWS))
def test_a_window_is_open_for_a_minute_at_most(action):
    with pytest.raises(ValidationError, match="within 60 s"):
        command(action, until=NOW + LONGEST_WINDOW + TICK)


@pytest.mark.parametrize(
    "changes",
    [
        {"session": "0" * 15},
        {"session": "G" * 16},
        {"id": "0" * 17},
        {"action": "open-sesame"},
        {"door": "Front"},
        {"counter": -1},
        {"direction": "up"},
    ],
    ids=str,
)
def test_a_command_of_another_form_is_refused(changes):
    with pytest.raises(ValidationError):
        command(**changes)
