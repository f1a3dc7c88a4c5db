"""Signed statements: for whom, for what, and in time."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from pydantic import TypeAdapter, ValidationError

from schemas.acknowledgement import Acknowledgement
from schemas.chain import GENESIS
from schemas.envelope import seal_envelope
from schemas.errors import (
    BadSignature,
    Expired,
    MalformedEnvelope,
    UnknownKey,
    WrongAudience,
    WrongPurpose,
)
from schemas.names import AgentId
from schemas.policy import Policy
from schemas.statement import CLOCK_TOLERANCE, open_statement, payload_type, sign_statement
from tests.schema_cast import CHAIN, MOMENT, SUITES, signer_of, trust

ACK_TYPE = payload_type("acknowledgement")
EACH_SUITE = pytest.mark.parametrize("s", SUITES, ids=lambda s: s.name)
S = SUITES[1]
SECOND = timedelta(seconds=1)


def acknowledgement(**changes):
    members = {
        "site": "demo",
        "audience": "front-agent",
        "issued": MOMENT,
        "counter": 7,
        "chain": CHAIN,
        "sequence": 7,
        "hash": "a" * 64,
    } | changes
    return Acknowledgement(**members)


def opened(data, *, s=S, model=Acknowledgement, now=MOMENT, site="demo", audience="front-agent"):
    ring = trust(s, "server", ACK_TYPE, payload_type("policy"))
    return open_statement(data, model, ring, site=site, audience=audience, now=now)


def signed(statement, s=S):
    return sign_statement(statement, signer_of(s, "server"))


def sealed(**members):
    """An envelope over an acknowledgement whose JSON was changed before it was signed."""
    payload = json.loads(acknowledgement().model_dump_json()) | members
    payload = {k: v for k, v in payload.items() if v is not ...}
    return seal_envelope(ACK_TYPE, json.dumps(payload).encode(), [signer_of(S, "server")])


@EACH_SUITE
def test_a_statement_comes_back_as_it_was_signed(s):
    assert opened(signed(acknowledgement(), s), s=s) == acknowledgement()


def test_a_statement_to_all_is_for_each_agent():
    assert opened(signed(acknowledgement(audience="all"))).audience == "all"


@pytest.mark.parametrize(
    "changes", [{"site": "other"}, {"audience": "back-agent"}, {"audience": "server"}], ids=str
)
def test_a_statement_for_someone_else_is_refused(changes):
    with pytest.raises(WrongAudience):
        opened(signed(acknowledgement(**changes)))


def test_a_statement_of_another_purpose_is_refused():
    with pytest.raises(WrongPurpose):
        opened(signed(acknowledgement()), model=Policy)


def test_a_purpose_that_contradicts_the_envelope_is_refused():
    with pytest.raises(MalformedEnvelope, match="purpose"):
        opened(sealed(purpose="policy"))


def test_a_statement_lives_until_it_expires_and_not_a_moment_longer():
    data = signed(acknowledgement(expires=MOMENT + SECOND))
    assert opened(data, now=MOMENT + SECOND - timedelta(microseconds=1)).counter == 7
    for late in (SECOND, timedelta(days=365)):
        with pytest.raises(Expired, match="expired"):
            opened(data, now=MOMENT + late)


def test_a_statement_from_the_future_is_refused_beyond_the_clocks_tolerance():
    data = signed(acknowledgement())
    assert opened(data, now=MOMENT - CLOCK_TOLERANCE).counter == 7
    with pytest.raises(Expired, match="future"):
        opened(data, now=MOMENT - CLOCK_TOLERANCE - timedelta(microseconds=1))


def test_a_statement_by_a_stranger_or_changed_on_the_way_is_refused():
    with pytest.raises(UnknownKey):
        opened(sign_statement(acknowledgement(), signer_of(S, "stranger")))
    envelope = json.loads(signed(acknowledgement()))
    envelope["payload"] = json.loads(signed(acknowledgement(hash="b" * 64)))["payload"]
    with pytest.raises(BadSignature):
        opened(json.dumps(envelope).encode())


def test_a_statement_longer_than_its_limit_is_refused():
    with pytest.raises(MalformedEnvelope, match="limit"):
        opened(signed(acknowledgement()) + b" " * 65_536)


@pytest.mark.parametrize(
    "members",
    [
        {"counter": -1},
        {"counter": 2**63, "sequence": 2**63},
        {"counter": 10**400},
        {"counter": "7"},
        {"counter": True},
        {"counter": 7.5},
        {"counter": 8},
        {"sequence": 0, "counter": 0},
        {"hash": GENESIS},
        {"hash": "A" * 64},
        {"chain": CHAIN + "\n"},
        {"issued": 1767225600},
        {"issued": "2026-01-31T07:00:00"},
        {"issued": None},
        {"issued": ...},
        {"site": "Demo"},
        {"audience": "../server"},
        {"audience": ""},
        {"resend": 1},
        {"more": 1},
        {"\x1b[2J" * 1000: 1},
    ],
    ids=lambda m: str(m)[:60],
)
def test_a_statement_that_is_signed_but_not_well_formed_is_refused(members):
    with pytest.raises(MalformedEnvelope) as refusal:
        opened(sealed(**members))
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) <= 340


@pytest.mark.parametrize("payload", [b"", b"null", b"[]", b"{", b"[" * 10_000, b"\xff", b"NaN"])
def test_a_signed_payload_that_is_no_statement_is_refused(payload):
    with pytest.raises(MalformedEnvelope):
        opened(seal_envelope(ACK_TYPE, payload, [signer_of(S, "server")]))


def test_an_acknowledgement_of_nothing_asks_for_everything():
    nothing = acknowledgement(counter=0, sequence=0, hash=GENESIS, resend=True)
    assert opened(signed(nothing)).resend


@pytest.mark.parametrize(
    "changes",
    [{"counter": 6}, {"hash": GENESIS}, {"counter": 0, "sequence": 0}],
    ids=str,
)
def test_an_acknowledgement_agrees_with_itself(changes):
    with pytest.raises(ValidationError):
        acknowledgement(**changes)


@pytest.mark.parametrize("name", ["server", "all"])
def test_no_agent_is_called_as_statements_call_others(name):
    agents = TypeAdapter(AgentId)
    assert agents.validate_python("front-agent") == "front-agent"
    with pytest.raises(ValidationError):
        agents.validate_python(name)
