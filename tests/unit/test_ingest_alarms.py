"""Alarms are few, and count what they do not repeat."""

from schemas.envelope import Signer
from schemas.suites import INTL
from server.ingest.alarms import WINDOW_S, Alarms, printable
from server.ingest.journal import Journal, say_alarm
from server.ingest.ledger import _values
from server.ingest.verify import AlarmKind, Refusal
from server.store.audit import ChainAudit, StoredRow
from tests.agent_pen import MOMENT, SITE

AGENTS = frozenset({"front", "back"})


def refusal(kind=AlarmKind.BAD_SIGNATURE, agent="front", detail="d") -> Refusal:
    return Refusal(kind, agent, detail)


def test_the_first_is_raised_at_once_and_repeats_are_one_count_when_the_minute_ends():
    alarms = Alarms()
    assert [a.count for a in alarms.raise_for([refusal()], AGENTS, 0.0)] == [1]
    assert alarms.raise_for([refusal()] * 5, AGENTS, 30.0) == []
    assert alarms.due_in(30.0) == WINDOW_S - 30.0
    assert [a.count for a in alarms.raise_for([], AGENTS, WINDOW_S)] == [5]
    assert alarms.due_in(WINDOW_S) is None


def test_a_quiet_minute_makes_the_next_one_a_first_again():
    alarms = Alarms()
    alarms.raise_for([refusal()], AGENTS, 0.0)
    assert [a.count for a in alarms.raise_for([refusal()], AGENTS, WINDOW_S)] == [1]


def test_kinds_and_agents_do_not_hide_each_other():
    alarms = Alarms()
    raised = alarms.raise_for(
        [refusal(), refusal(agent="back"), refusal(AlarmKind.FORK)], AGENTS, 0.0
    )
    assert [(a.kind, a.agent) for a in raised] == [
        ("bad_signature", "front"),
        ("bad_signature", "back"),
        ("fork", "front"),
    ]


def test_invented_agents_share_one_alarm():
    alarms = Alarms()
    raised = alarms.raise_for([refusal(agent=f"x{n}") for n in range(1000)], AGENTS, 0.0)
    assert [(a.agent, a.count) for a in raised] == [(None, 1)]
    assert [a.count for a in alarms.raise_for([], AGENTS, WINDOW_S)] == [999]


def test_hostile_text_is_made_harmless():
    assert printable("a\x1b[31m\ud800\u202e\n" + "x" * 1000) == "a?[31m???" + "x" * 291


def test_the_servers_own_chain_verifies_like_any_other():
    signer = Signer.of(INTL.private_key(bytes(31) + b"\x07"))
    journal = Journal(SITE, INTL, signer, lambda: "c" * 16)
    alarms = Alarms()
    refusals = [refusal(agent=f"a{n}", detail="\ud800\x00\u2028") for n in range(300)]
    raised = alarms.raise_for(refusals, {f"a{n}" for n in range(300)}, 0.0)
    rows, head = journal.compose([say_alarm(each, SITE, MOMENT) for each in raised], None)
    assert (len(rows), head.sequence) == (300, 300)
    assert sum(row.signed is not None for row in rows) == 2
    from schemas.chain import EVENTS_TYPE
    from schemas.envelope import TrustedKey

    ring = {signer.keyid: TrustedKey(signer.key.public, "server", frozenset({EVENTS_TYPE}))}
    audit = ChainAudit("server", "c" * 16, SITE, INTL, ring)
    stored = []
    for position, row in enumerate(rows, 1):
        values = _values(row, position, 0)
        stored.append(StoredRow(**{k: values[k] for k in StoredRow._fields}))
    audit.check(stored)
    audit.finish(head)
