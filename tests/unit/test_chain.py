"""Event lines: what may enter a chain, and what a receiver takes for one."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from schemas.chain import (
    GENESIS,
    MAX_LINE_BYTES,
    MAX_LINES,
    Head,
    check_follows,
    compose_line,
    join_lines,
    parse_line,
    split_lines,
)
from schemas.errors import BrokenChain, MalformedEvent
from schemas.events import EventLine, agent_source, event_name, event_type, server_source
from tests.schema_cast import CHAIN, MOMENT, SUITES, chain_of, verify_chain

EACH_SUITE = pytest.mark.parametrize("s", SUITES, ids=lambda s: s.name)
S = SUITES[1]
LINE = chain_of(S, 1, data={"a": 1})[0]


def compose(**changes):
    arguments = {
        "source": agent_source("demo", "front-agent"),
        "type": event_type("door.opened"),
        "subject": "doors/front",
        "time": MOMENT,
        "data": {"a": 1},
    } | changes
    return compose_line(Head(CHAIN), S.digest, **arguments)


def member(name, text):
    """The good line with one member's value replaced by other JSON text."""
    before = re.search(rf'"{name}":("[^"]*"|\{{[^}}]*\}})'.encode(), LINE)
    assert before is not None
    return LINE.replace(before.group(), f'"{name}":'.encode() + text, 1)


@EACH_SUITE
def test_a_line_says_what_it_was_given_and_names_the_line_before_it(s):
    first, second = chain_of(s, 2)
    one, two = parse_line(first, s.digest), parse_line(second, s.digest)
    assert (one.event.id, one.event.number, one.event.prevhash) == (f"{CHAIN}-1", 1, GENESIS)
    assert (two.event.id, two.event.number) == (f"{CHAIN}-2", 2)
    assert two.event.prevhash == s.digest(first).hex() == one.hash
    assert two.event.time == MOMENT
    assert json.loads(second)["time"] == "2026-01-31T07:00:00.123456Z"


def test_a_line_keeps_text_of_any_script_readable():
    line, _ = compose(data={"detail": "门未关好"})
    assert "门未关好".encode() in line


def test_a_time_of_another_zone_is_written_in_utc():
    line, _ = compose(time=MOMENT.astimezone(timezone(timedelta(hours=8))))
    assert json.loads(line)["time"] == "2026-01-31T07:00:00.123456Z"


@pytest.mark.parametrize(
    "changes",
    [
        {"time": MOMENT.replace(tzinfo=None)},
        {"data": {"a": float("nan")}},
        {"data": {"a": float("inf")}},
        {"data": {"a": 2**63}},
        {"data": {"a": "\ud800"}},
        {"data": {"a": "x" * MAX_LINE_BYTES}},
        {"subject": "doors/Front"},
        {"subject": "doors/front\n"},
        {"source": "/sites/demo/../other"},
        {"type": "io.ostiary.door.v1"},
    ],
    ids=str,
)
def test_a_line_that_every_receiver_would_refuse_never_enters_a_chain(changes):
    with pytest.raises(MalformedEvent):
        compose(**changes)


REFUSED = {
    "nothing": b"",
    "not JSON": b"{hello}",
    "a list": b"[" + LINE + b"]",
    "two objects": LINE + LINE,
    "a byte order mark": b"\xef\xbb\xbf" + LINE,
    "UTF-16": LINE.decode().encode("utf-16"),
    "not UTF-8": member("data", b'{"a":"\xff"}'),
    "an overlong NUL": member("data", b'{"a":"\xc0\x80"}'),
    "a blank before": b" " + LINE,
    "a blank after": LINE + b" ",
    "a carriage return after": LINE + b"\r",
    "a carriage return inside": LINE.replace(b',"data"', b',\r"data"'),
    "a tab inside": LINE.replace(b',"data"', b',\t"data"'),
    "a NUL after": LINE + b"\0",
    "a raw NUL in text": member("data", b'{"a":"\0"}'),
    "NaN": member("data", b'{"a":NaN}'),
    "Infinity": member("data", b'{"a":-Infinity}'),
    "a number beyond a double": member("data", b'{"a":1e999}'),
    "an integer beyond 64 bits": member("data", b'{"a":9223372036854775808}'),
    "an integer of 3,000 digits": member("data", b'{"a":' + b"9" * 3000 + b"}"),
    "a lone surrogate": member("data", b'{"a":"\\ud800"}'),
    "lists 1,500 deep": member("data", b'{"a":' + b"[" * 1500 + b"]" * 1500 + b"}"),
    "two chains": LINE[:-1] + b',"chain":"' + CHAIN.encode() + b'"}',
    "a name twice in the data": member("data", b'{"a":1,"a":2}'),
    "a name twice deeper in the data": member("data", b'{"a":[{"b":1,"b":1}]}'),
    "one name in two spellings": member("data", b'{"a":1,"\\u0061":2}'),
    "a member more": LINE[:-1] + b',"more":1}',
    "data that is text": member("data", b'"a"'),
    "data that is null": member("data", b"null"),
    "no data": LINE.replace(b',"data":{"a":1}', b""),
    "CloudEvents 0.3": member("specversion", b'"0.3"'),
    "the id of another sequence": member("id", f'"{CHAIN}-2"'.encode()),
    "the id of another chain": member("id", b'"00112233445566ab-1"'),
    "an id padded with zeros": member("id", f'"{CHAIN}-01"'.encode()),
    "a sequence of 0": member("sequence", b'"' + b"0" * 20 + b'"').replace(b"aa-1", b"aa-0"),
    "a sequence of 19 digits": member("sequence", b'"' + b"0" * 18 + b'1"'),
    "a sequence that is a number": member("sequence", b"1"),
    "a sequence in Arabic digits": member("sequence", '"{}\u0661"'.format("\\u0660" * 19).encode()),
    "a sequence beyond 63 bits": member("sequence", b'"09223372036854775808"').replace(
        b"aa-1", b"aa-9223372036854775808"
    ),
    "a chain in capitals": member("chain", b'"00112233445566AA"').replace(b"aa-1", b"AA-1"),
    "a chain with a line break": member("chain", f'"{CHAIN}\\n"'.encode()),
    "a prevhash of 63 digits": member("prevhash", b'"' + b"0" * 63 + b'"'),
    "a subject with a line break": member("subject", b'"doors/front\\n"'),
    "a subject without a noun": member("subject", b'"front"'),
    "a source outside the sites": member("source", b'"/agents/front-agent"'),
    "a source with a dot": member("source", b'"/sites/demo/agents/../server"'),
    "a type of someone else": member("type", b'"com.example.door.opened.v1"'),
    "a type without a version": member("type", b'"io.ostiary.door.opened"'),
}
TIMES = [
    b"1",
    b"1.5",
    b"true",
    b"null",
    b'"1767225600"',
    b'"2026-01-31"',
    b'"2026-01-31T07:00:00Z"',
    b'"2026-01-31T07:00:00.123Z"',
    b'"2026-01-31T07:00:00.123456789Z"',
    b'"2026-01-31T07:00:00.123456"',
    b'"2026-01-31T07:00:00.123456+00:00"',
    b'"2026-01-31T15:00:00.123456+08:00"',
    b'"2026-01-31t07:00:00.123456z"',
    b'"2026-01-31 07:00:00.123456Z"',
    b'"2026-01-31T07:00:00,123456Z"',
    b'"2026-01-31T07:00:60.000000Z"',
    b'"2026-01-31T24:00:00.000000Z"',
    b'"2026-02-30T07:00:00.000000Z"',
    b'"0000-01-01T00:00:00.000000Z"',
    b'"2026-01-31T07:00:00.123456Z\\n"',
    '"\u0662\u0660\u0662\u0666-01-31T07:00:00.123456Z"'.encode(),
]


@pytest.mark.parametrize("what", REFUSED)
def test_a_line_that_is_not_one_of_ours_is_malformed(what):
    with pytest.raises(MalformedEvent):
        parse_line(REFUSED[what], S.digest)


@pytest.mark.parametrize("time", TIMES, ids=bytes.decode)
def test_a_time_has_one_form(time):
    with pytest.raises(MalformedEvent):
        parse_line(member("time", time), S.digest)


@pytest.mark.parametrize("year", [b"0001", b"1969", b"9999"])
def test_a_time_may_be_as_wrong_as_a_clock_can_be(year):
    parse_line(member("time", b'"' + year + b'-01-01T00:00:00.000000Z"'), S.digest)


def test_data_of_a_newer_agent_is_kept_as_it_came():
    data = b'{"new":[null,true,-9223372036854775808,0.1,"\\u0000\\u000a"]}'
    event = parse_line(member("data", data), S.digest).event
    assert event.data == {"new": [None, True, -(2**63), 0.1, "\0\n"]}


def test_a_line_is_read_up_to_the_limit_and_no_further():
    room = MAX_LINE_BYTES - len(member("data", b'{"a":""}'))
    parse_line(member("data", b'{"a":"' + b"x" * room + b'"}'), S.digest)
    with pytest.raises(MalformedEvent, match="limit"):
        parse_line(member("data", b'{"a":"' + b"x" * (room + 1) + b'"}'), S.digest)


def test_a_refusal_quotes_the_sender_short_and_printable():
    hostile = LINE[:-1] + b',"' + "\\u001b[2J\\n门".encode() * 150 + b'":1}'
    with pytest.raises(MalformedEvent) as refusal:
        parse_line(hostile, S.digest)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) <= 320


def test_a_message_is_split_into_the_lines_that_were_joined():
    lines = chain_of(S, MAX_LINES)
    links = split_lines(join_lines(lines), S.digest)
    assert [link.line for link in links] == lines
    assert [link.event.number for link in links] == list(range(1, MAX_LINES + 1))


def test_a_message_may_begin_anywhere_in_a_chain():
    lines = chain_of(S, 9)
    assert split_lines(join_lines(lines[5:]), S.digest)[0].event.number == 6


@pytest.mark.parametrize(
    "payload",
    [b"", b"\n", LINE + b"\n", b"\n" + LINE, LINE + b"\r\n" + LINE, b"\n" * 500_000],
    ids=["nothing", "a newline", "one at the end", "one before", "CRLF", "half a million"],
)
def test_a_message_with_an_empty_line_is_malformed(payload):
    with pytest.raises(MalformedEvent):
        split_lines(payload, S.digest)


def test_one_line_more_than_the_limit_is_refused_before_any_is_read():
    with pytest.raises(MalformedEvent, match="limit"):
        split_lines(join_lines([b"?"] * (MAX_LINES + 1)), S.digest)


def test_the_lines_of_a_message_follow_each_other():
    a, b, c = chain_of(S, 3)
    other = chain_of(S, 3, data={"another": "past"})
    for lines in ([a, c], [b, a], [a, a], [a, other[1]], [a, chain_of(S, 2, chain="f" * 16)[1]]):
        with pytest.raises(BrokenChain):
            split_lines(join_lines(lines), S.digest)


@EACH_SUITE
def test_a_whole_chain_verifies_to_its_head(s):
    lines = chain_of(s, 20)
    head = verify_chain(lines, s.digest, Head(CHAIN))
    assert head == Head(CHAIN, 20, s.digest(lines[-1]).hex())
    assert verify_chain([], s.digest, head) == head


def test_a_chain_by_another_digest_does_not_verify():
    with pytest.raises(BrokenChain):
        verify_chain(chain_of(SUITES[0], 2), SUITES[1].digest, Head(CHAIN))


def test_a_line_follows_only_its_own_chain_place_and_past():
    first, second = (parse_line(line, S.digest) for line in chain_of(S, 2))
    check_follows(Head(CHAIN, 1, first.hash), second)
    for head, why in (
        (Head("f" * 16, 1, first.hash), "of chain"),
        (Head(CHAIN, 0, first.hash), "follows line 0"),
        (Head(CHAIN, 2, first.hash), "follows line 2"),
        (Head(CHAIN, 1, GENESIS), "names another"),
    ):
        with pytest.raises(BrokenChain, match=why):
            check_follows(head, second)


def test_the_largest_sequence_fits_a_database():
    number = 2**63 - 1
    line, head = compose_line(
        Head(CHAIN, number - 1, "a" * 64),
        S.digest,
        source=server_source("demo"),
        type=event_type("door.held.cleared"),
        subject="doors/front",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        data={},
    )
    assert parse_line(line, S.digest).event.number == head.sequence == number
    with pytest.raises(MalformedEvent):
        compose_line(
            head,
            S.digest,
            source=server_source("demo"),
            type=event_type("door.opened"),
            subject="doors/front",
            time=MOMENT,
            data={},
        )


def test_a_type_and_its_name_are_each_others_inverse():
    assert event_type("door.held.cleared") == "io.ostiary.door.held.cleared.v1"
    assert event_name("io.ostiary.door.held.cleared.v1") == "door.held.cleared"


def test_an_event_line_is_not_changed_once_it_is_read():
    event = EventLine.model_validate_json(LINE)
    with pytest.raises(ValueError, match="frozen"):
        event.id = "another"
