"""A fleet's member believes, signs and keeps what a device would."""

from __future__ import annotations

import json
import secrets
from datetime import timedelta

import pytest

from edge_agent.core.trusted_state import TrustedState
from edge_agent.fleet.member import Member
from schemas import topics
from schemas.acknowledgement import Acknowledgement
from schemas.chain import EVENTS_TYPE
from schemas.chain import Head as ChainHead
from schemas.envelope import TrustedKey, open_envelope
from schemas.report import Pull, Report
from schemas.root import AGENT_PURPOSES
from schemas.statement import parse_statement, payload_type, sign_statement
from schemas.versions import LogHead
from tests.centre import AGENT, DOOR, NOW, SESSION, SITE, Centre, card, payload
from tests.schema_cast import verify_chain

LATER = NOW + timedelta(seconds=1)
CHAIN = "ab" * 8


class Wire:
    """A member, and what it has said, by channel."""

    def __init__(self, centre: Centre, **shared) -> None:
        self.centre, self.told = centre, []
        self.signer = centre.keys.new_signer()
        self.member = Member(
            agent=AGENT,
            door=DOOR,
            signer=self.signer,
            trust=shared.pop("trust", None) or TrustedState.pinned(centre.keys.root),
            chain=CHAIN,
            shared={},
            tell=lambda _agent, what, number: self.told.append((what, number)),
            **shared,
        )
        self.said: list[tuple[str, bytes]] = []
        self.ring = {
            self.signer.keyid: TrustedKey(self.signer.key.public, AGENT, frozenset(AGENT_PURPOSES))
        }

    def connect(self) -> None:
        self.member.connected(lambda topic, data: self.said.append((topic, data)), SESSION, NOW)

    def hear(self, channel: str, data: bytes) -> None:
        self.member.take(topics.down(SITE, AGENT, channel), data, LATER)

    def of(self, channel: str) -> list[bytes]:
        return [data for topic, data in self.said if topic == topics.up(SITE, AGENT, channel)]

    def lines(self) -> list[bytes]:
        """The lines of all event messages, each signed by the member."""
        opened = (open_envelope(data, self.ring, EVENTS_TYPE) for data in self.of(topics.EVENTS))
        return [line for each in opened for line in each.payload.split(b"\n")]

    def events(self) -> list[tuple[str, dict]]:
        parsed = map(json.loads, self.lines())
        return [(p["type"].split(".", 2)[2].removesuffix(".v1"), p["data"]) for p in parsed]

    def pulls(self) -> list[Pull]:
        kind = payload_type("pull")
        return [
            parse_statement(open_envelope(data, self.ring, kind).payload, Pull)
            for data in self.of(topics.PULL)
        ]

    def acknowledge(self, sequence: int, *, resend: bool = False) -> None:
        head = verify_chain(
            self.lines()[:sequence], self.centre.keys.suite.digest, ChainHead(CHAIN)
        )
        word = Acknowledgement(
            site=SITE,
            audience=AGENT,
            issued=NOW,
            counter=sequence,
            chain=CHAIN,
            sequence=sequence,
            hash=head.hash,
            resend=resend,
        )
        self.hear(topics.ACKNOWLEDGEMENT, sign_statement(word, self.centre.keys.signer("online")))


@pytest.fixture(params=["intl", "gm"])
def wire(request):
    made = Wire(Centre(request.param))
    made.connect()
    return made


def test_it_reports_at_once_when_it_is_connected_signed_by_its_own_key(wire):
    (data,) = wire.of(topics.REPORT)
    opened = open_envelope(data, wire.ring, payload_type("report"))
    report = parse_statement(opened.payload, Report)
    assert (report.session, report.counter, report.chain) == (SESSION, 1, CHAIN)
    assert report.revocation == LogHead()


def test_a_revocation_is_applied_once_and_its_receipt_is_kept_until_it_is_acknowledged(wire):
    message = wire.centre.revoke("card", "01" * 8)
    wire.hear(topics.REVOCATION, message)
    wire.hear(topics.REVOCATION, message)
    ((name, data),) = wire.events()
    assert name == "revocation.applied"
    head = wire.centre.head
    assert (data["sequence"], data["hash"], data["entries"]) == (1, head.hash, 1)
    assert wire.told == [("revocation", 1)]
    assert wire.member.waiting == 1
    wire.acknowledge(1)
    assert wire.member.waiting == 0


def test_events_said_without_a_connection_are_handed_over_with_the_next_one(wire):
    wire.member.disconnected()
    for number in range(3):
        wire.hear(topics.REVOCATION, wire.centre.revoke("card", f"{number:016x}"))
    assert not wire.lines()
    wire.connect()
    assert [data["sequence"] for _, data in wire.events()] == [1, 2, 3]
    verify_chain(wire.lines(), wire.centre.keys.suite.digest, ChainHead(CHAIN))


def test_it_hands_over_again_what_the_server_asks_for(wire):
    for number in range(3):
        wire.hear(topics.REVOCATION, wire.centre.revoke("card", f"{number:016x}"))
    wire.acknowledge(1, resend=True)
    assert [data["sequence"] for _, data in wire.events()] == [1, 2, 3, 2, 3]
    assert wire.member.waiting == 2


def test_a_gap_in_the_log_is_pulled_and_nothing_of_it_applied(wire):
    wire.centre.revoke("card", "01" * 8)
    wire.hear(topics.REVOCATION, wire.centre.revoke("card", "02" * 8))
    assert not wire.events()
    assert [pull.revocation_after for pull in wire.pulls()] == [0]
    wire.hear(topics.REVOCATION, wire.centre.log_after(0))
    assert [data["sequence"] for _, data in wire.events()] == [2]


def test_what_another_key_signed_is_refused_and_counted(wire):
    stranger = Centre(wire.centre.keys.suite_name)
    wire.hear(topics.REVOCATION, stranger.revoke("card", "01" * 8))
    assert wire.member.refused == {"UnknownKey": 1}
    assert not wire.events()
    assert wire.member.trust.revocation == LogHead()


def test_a_policy_is_applied_once_its_chunks_are_there(wire):
    envelope, chunks = wire.centre.policy(1, [card(1), card(2)])
    wire.hear(topics.POLICY, envelope)
    assert not wire.events()
    (pull,) = wire.pulls()
    assert set(pull.chunks) == set(chunks)
    for body in chunks.values():
        wire.hear(topics.CHUNK, body)
    ((name, data),) = wire.events()
    assert name == "policy.applied"
    assert data["hash"] == wire.centre.digest(payload(envelope))


def test_a_command_is_carried_out_once_and_answered(wire):
    order = wire.centre.command(1, door=DOOR, action="pulse")
    wire.hear(topics.COMMAND, order)
    wire.hear(topics.COMMAND, order)
    ((name, data),) = wire.events()
    assert (name, data["action"]) == ("command.executed", "pulse")
    assert wire.member.pulses == 1
    assert wire.member.refused == {"Replayed": 1}


def members_that_share(centre: Centre) -> list[Wire]:
    verdicts = {}
    trust = TrustedState.pinned(centre.keys.root)
    wires = [Wire(centre, trust=trust, verdicts=verdicts) for _ in range(2)]
    for wire in wires:
        wire.connect()
    return wires


def test_a_delta_makes_the_same_of_each_log_whether_its_verdict_is_shared_or_not():
    centre = Centre()
    first, second = members_that_share(centre)
    message = centre.revoke("card", "01" * 8)
    for wire in (first, second):
        wire.hear(topics.REVOCATION, message)
        wire.hear(topics.REVOCATION, message)
    assert first.member.trust == second.member.trust
    assert first.member.trust.revocation == centre.head
    assert [d["entries"] for _, d in first.events()] == [d["entries"] for _, d in second.events()]
    assert [d["entries"] for _, d in second.events()] == [1]


def test_a_shared_verdict_is_not_taken_for_a_log_that_stands_otherwise():
    centre = Centre()
    first, second = members_that_share(centre)
    for number in range(2):
        message = centre.revoke("card", secrets.token_hex(8))
        first.hear(topics.REVOCATION, message)
        if number:
            second.hear(topics.REVOCATION, message)
    assert first.member.trust.revocation == centre.head
    assert second.member.trust.revocation == LogHead()
    assert [pull.revocation_after for pull in second.pulls()] == [0]
