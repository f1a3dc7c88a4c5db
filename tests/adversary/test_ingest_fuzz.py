"""Bytes from the broker are hostile: whatever comes, there is an answer and no crash."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.suites import INTL
from server.ingest.alarms import Alarms
from server.ingest.doors import Doors, project
from server.ingest.heads import Batch, Heads
from server.ingest.journal import Journal, say_alarm
from server.ingest.verify import Refusal, Verified, verify_message
from tests.agent_pen import MOMENT, SITE, Pen

PEN = Pen()
PEN.write_many(3)
GOOD = PEN.message(1, 3)
JOURNAL = Journal(SITE, INTL, PEN.signer, lambda: "c" * 16)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def digest_all(topic: str, payload: bytes) -> Verified | Refusal:
    """The whole pure path: verify, place, project, alarm, journal."""
    result = verify_message(topic, payload, PEN.ring, SITE, PEN.suite)
    batch = Batch(Heads(()), {}, 0.0)
    if isinstance(result, Verified):
        batch.place(result)
        for link in result.links:
            list(project(Doors(), result.agent, link.event, 1))
    else:
        batch.alarms.append(result)
    raised = Alarms().raise_for(batch.alarms, {"front"}, 0.0)
    JOURNAL.compose([say_alarm(each, SITE, MOMENT) for each in raised], None)
    return result


@given(st.text(), st.binary(max_size=300))
def test_any_topic_and_bytes_get_an_answer(topic, payload):
    assert isinstance(digest_all(topic, payload), Refusal)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=300)
def test_one_changed_byte_never_passes_as_something_else(at, change):
    payload = bytearray(GOOD)
    payload[at] ^= change
    result = digest_all(PEN.topic, bytes(payload))
    if isinstance(result, Verified):  # JSON blanks and member order aside, it's the same message
        assert [link.line for link in result.links] == PEN.lines


@given(st.integers(0, len(GOOD)))
def test_a_message_cut_short_never_passes(length):
    if length < len(GOOD):
        assert isinstance(digest_all(PEN.topic, GOOD[:length]), Refusal)


@given(json_values)
@settings(max_examples=200)
def test_any_json_as_envelope_gets_an_answer(value):
    payload = json.dumps(value).encode(errors="surrogatepass")
    assert isinstance(digest_all(PEN.topic, payload), Refusal)


@given(st.sampled_from(["payload", "payloadType", "signatures", "extra"]), json_values)
@settings(max_examples=200)
def test_any_member_of_an_envelope_replaced_gets_an_answer(member, value):
    envelope = json.loads(GOOD)
    envelope[member] = value
    digest_all(PEN.topic, json.dumps(envelope).encode(errors="surrogatepass"))


@given(
    st.sampled_from(
        ["specversion", "id", "source", "type", "subject", "time", "sequence", "chain", "prevhash"]
    )
    | st.text(),
    json_values,
)
@settings(max_examples=300)
def test_any_attribute_of_a_signed_line_replaced_gets_an_answer(attribute, value):
    line = json.loads(PEN.lines[0])
    line[attribute] = value
    payload = json.dumps(line).encode(errors="surrogatepass")
    digest_all(PEN.topic, PEN.seal(payload))


@given(
    st.dictionaries(st.sampled_from(["door", "doors", "mode", "count"]) | st.text(), json_values)
)
@settings(max_examples=300)
def test_any_data_signed_by_an_agent_gets_an_answer(data):
    for name in ("agent.started", "door.mode_changed", "agent.events_lost", "door.opened"):
        line = json.loads(PEN.lines[0])
        line |= {"data": data, "type": f"io.ostiary.{name}.v1"}
        digest_all(PEN.topic, PEN.seal(json.dumps(line).encode(errors="surrogatepass")))


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"])
def test_the_ends_of_time_are_times(moment):
    line = json.loads(PEN.lines[0]) | {"time": moment}
    result = digest_all(PEN.topic, PEN.seal(json.dumps(line).encode()))
    assert isinstance(result, Verified)
    assert replace(result).first == 1
