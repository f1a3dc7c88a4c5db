"""What a message must be before anything of it is looked at."""

import json

import pytest

from schemas.chain import EVENTS_TYPE, join_lines
from schemas.envelope import MAX_ENVELOPE_BYTES, TrustedKey
from schemas.events import agent_source
from server.ingest.verify import AlarmKind, Refusal, Verified, verify_message
from tests.agent_pen import SITE, Pen


def check(pen: Pen, payload: bytes, *, topic: str | None = None, ring=None) -> Verified | Refusal:
    return verify_message(topic or pen.topic, payload, ring or pen.ring, SITE, pen.suite)


def refused(result: Verified | Refusal) -> AlarmKind:
    assert isinstance(result, Refusal), result
    return result.kind


@pytest.fixture
def pen() -> Pen:
    pen = Pen()
    pen.write_many(5)
    return pen


@pytest.mark.parametrize("suite_name", ["gm", "intl"])
def test_a_good_message_is_its_lines(suite_name):
    pen = Pen(suite_name=suite_name)
    pen.write_many(3)
    result = check(pen, pen.message(1, 3))
    assert isinstance(result, Verified)
    assert [link.line for link in result.links] == pen.lines
    assert (result.agent, result.first, result.last) == ("front", 1, 3)


def test_another_key_is_unknown_even_if_it_names_itself_as_a_known_one(pen):
    impostor = Pen("impostor")
    impostor.write()
    assert refused(check(pen, impostor.message(1))) is AlarmKind.UNKNOWN_KEY
    envelope = json.loads(impostor.message(1))
    envelope["signatures"][0]["keyid"] = pen.signer.keyid
    assert refused(check(pen, json.dumps(envelope).encode())) is AlarmKind.BAD_SIGNATURE


def test_a_changed_payload_is_a_bad_signature(pen):
    good, other = json.loads(pen.message(1)), json.loads(pen.message(2))
    good["payload"] = other["payload"]
    assert refused(check(pen, json.dumps(good).encode())) is AlarmKind.BAD_SIGNATURE


def test_an_agent_can_not_speak_on_anothers_topic(pen):
    result = check(pen, pen.message(1), topic=f"ostiary/{SITE}/up/back/events")
    assert refused(result) is AlarmKind.WRONG_TOPIC
    assert result.agent == "front"  # whose key it was, not whom the topic names


@pytest.mark.parametrize(
    "topic",
    ["ostiary/other/up/front/events", "ostiary/demo/up/front/receipts", "ostiary/demo/x", "", "+"],
)
def test_a_topic_of_another_site_or_channel_is_refused(pen, topic):
    result = verify_message(topic, pen.message(1), pen.ring, SITE, pen.suite)
    assert refused(result) is AlarmKind.WRONG_TOPIC


@pytest.mark.parametrize(
    "source",
    [agent_source(SITE, "back"), agent_source("other", "front"), f"/sites/{SITE}/server"],
)
def test_an_agent_can_not_write_lines_of_another_source(source):
    pen = Pen()
    pen.write()
    pen.write(source=source)
    assert refused(check(pen, pen.message(1, 2))) is AlarmKind.WRONG_TOPIC


def test_a_key_trusted_for_another_purpose_signs_no_events(pen):
    ring = {k: TrustedKey(t.key, t.holder, frozenset({"x"})) for k, t in pen.ring.items()}
    assert refused(check(pen, pen.message(1), ring=ring)) is AlarmKind.UNKNOWN_KEY


def test_another_payload_type_is_malformed(pen):
    message = pen.seal(pen.lines[0], "application/vnd.ostiary.policy.v1+json")
    assert refused(check(pen, message)) is AlarmKind.MALFORMED


def test_an_oversized_envelope_is_malformed_though_signed(pen):
    message = pen.message(1) + b" " * MAX_ENVELOPE_BYTES
    assert refused(check(pen, message)) is AlarmKind.MALFORMED
    assert isinstance(check(pen, pen.message(1) + b" "), Verified)


@pytest.mark.parametrize("payload", [b"", b"\n", b"{}", b"null", b"\xff\xfe", b"[" * 5000])
def test_signed_rubbish_is_malformed(pen, payload):
    assert refused(check(pen, pen.seal(payload))) is AlarmKind.MALFORMED


@pytest.mark.parametrize("envelope", [b"", b"{}", b"[]", b"\x00", b"[" * 100_000, b'{"payload":1}'])
def test_bytes_that_are_no_envelope_are_malformed(pen, envelope):
    assert refused(check(pen, envelope)) is AlarmKind.MALFORMED


def test_257_lines_are_too_many():
    pen = Pen()
    pen.write_many(257)
    assert refused(check(pen, pen.message(1, 257))) is AlarmKind.MALFORMED
    assert isinstance(check(pen, pen.message(1, 256)), Verified)


def test_lines_out_of_order_or_with_a_hole_are_a_broken_chain(pen):
    for lines in ([1, 0], [0, 2], [0, 0]):
        message = pen.seal(join_lines(pen.lines[n] for n in lines))
        assert refused(check(pen, message)) is AlarmKind.BROKEN_CHAIN


def test_a_line_that_names_another_line_before_it_is_a_broken_chain(pen):
    other = Pen()
    other.write("door.opened")
    message = pen.seal(join_lines([other.lines[0], pen.lines[1]]), EVENTS_TYPE)
    assert refused(check(pen, message)) is AlarmKind.BROKEN_CHAIN
