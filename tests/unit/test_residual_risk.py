"""Which doors still let in what is revoked, and until when."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from schemas.revocation import Denied, RevocationReason
from server.core.residual_risk import Admission, AgentPosture, DoorPosture, Exposure, exposures

NOW = datetime(2026, 11, 24, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
CARD = "01" * 8
MEI = Admission(CARD, "mei")
DOOR = DoorPosture("front", 3600.0, "front", frozenset({1}), (MEI,))
AWAY = AgentPosture("front-agent", 4, ((4, NOW - HOUR / 2),), (DOOR,))


def denied(sequence: int, kind: str = "card", subject: str = CARD) -> Denied:
    return Denied(kind=kind, subject=subject, sequence=sequence, reason=RevocationReason.LOST)


def risk(*log: Denied, agent: AgentPosture = AWAY) -> list[Exposure]:
    return list(exposures(log, [agent], NOW))


def admitting(card: Admission) -> AgentPosture:
    return replace(AWAY, doors=(replace(DOOR, admits=(card,)),))


def test_a_door_that_is_cut_off_is_a_risk_until_its_grace_is_over():
    assert risk(denied(5)) == [Exposure("front-agent", "front", CARD, 5, NOW + HOUR / 2)]
    assert risk(denied(5), agent=replace(AWAY, heartbeats=((4, NOW - HOUR),))) == []


def test_a_confirmed_entry_is_no_risk():
    assert risk(denied(4)) == []
    assert risk(denied(5), agent=replace(AWAY, applied=5)) == []


def test_a_card_that_the_policy_does_not_let_in_is_no_risk():
    assert risk(denied(5, subject="02" * 8)) == []


def test_an_agent_that_is_heard_and_does_not_confirm_is_bounded_by_what_it_can_have_answered():
    beats = ((4, NOW - HOUR / 2), (5, NOW - HOUR / 4), (7, NOW))
    heard = replace(AWAY, heartbeats=beats)
    assert [e.until for e in risk(denied(5), agent=heard)] == [NOW + HOUR / 2]
    assert [e.until for e in risk(denied(6), agent=heard)] == [NOW + HOUR * 3 / 4]
    assert [e.until for e in risk(denied(8), agent=heard)] == [NOW + HOUR]
    # it lacks the first of these for as long as it lets the card in, so that bounds it
    assert [(e.sequence, e.until) for e in risk(denied(5), denied(7), agent=heard)] == [
        (7, NOW + HOUR / 2)
    ]
    long_ago = replace(AWAY, heartbeats=((4, NOW - HOUR), (5, NOW)))
    assert risk(denied(5), agent=long_ago) == []


def test_a_door_that_never_had_a_heartbeat_lets_in_nobody_but_its_offline_list():
    never = replace(AWAY, heartbeats=())
    assert risk(denied(5), agent=never) == []
    offline = replace(never, doors=(replace(DOOR, admits=(replace(MEI, offline=True),)),))
    assert [e.until for e in risk(denied(5), agent=offline)] == [None]


def test_a_card_of_the_offline_list_has_no_bound_but_its_own_validity():
    offline = replace(MEI, offline=True)
    assert [e.until for e in risk(denied(5), agent=admitting(offline))] == [None]
    soon = replace(offline, valid_until=NOW + HOUR)
    assert [e.until for e in risk(denied(5), agent=admitting(soon))] == [NOW + HOUR]


def test_a_card_is_a_risk_no_longer_than_it_is_valid():
    soon = replace(MEI, valid_until=NOW + HOUR / 4)
    assert [e.until for e in risk(denied(5), agent=admitting(soon))] == [NOW + HOUR / 4]
    over = replace(MEI, valid_until=NOW)
    assert risk(denied(5), agent=admitting(over)) == []


@pytest.mark.parametrize(
    ("kind", "subject", "found"),
    [
        ("person", "mei", [5]),
        ("person", "li", []),
        ("key-version", "front/1", [5]),
        ("key-version", "front/2", []),
        ("key-version", "back/1", []),
    ],
)
def test_persons_and_key_versions_stand_for_their_cards(kind, subject, found):
    assert [e.sequence for e in risk(denied(5, kind, subject))] == found


def test_an_entry_that_the_policy_answers_is_no_risk():
    cleared = replace(MEI, card_cleared=5, person_cleared=6)
    agent = admitting(cleared)
    assert risk(denied(5), denied(6, "person", "mei"), agent=agent) == []
    assert [e.sequence for e in risk(denied(7), agent=agent)] == [7]


def test_whom_an_entry_that_the_agent_has_denies_already_is_no_risk():
    assert risk(denied(3), denied(5)) == []
    assert risk(denied(3, "person", "mei"), denied(5)) == []


def test_the_newest_entry_that_is_lacking_is_named():
    assert [e.sequence for e in risk(denied(5), denied(8, "person", "mei"))] == [8]


def test_each_door_and_card_is_listed_by_itself():
    li = Admission("02" * 8, "li")
    agent = replace(
        AWAY,
        doors=(
            replace(DOOR, admits=(MEI, li)),
            replace(DOOR, door="back", grace_s=7200.0, admits=(li,)),
        ),
    )
    found = risk(denied(5), denied(6, subject="02" * 8), agent=agent)
    assert [(e.door, e.card, e.until) for e in found] == [
        ("front", CARD, NOW + HOUR / 2),
        ("front", "02" * 8, NOW + HOUR / 2),
        ("back", "02" * 8, NOW + HOUR * 3 / 2),
    ]
