"""What holds for every chain, envelope, statement and signature there can be."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.acknowledgement import Acknowledgement
from schemas.chain import (
    EVENTS_TYPE,
    Head,
    compose_line,
    join_lines,
    parse_line,
    split_lines,
)
from schemas.envelope import open_envelope, pae, seal_envelope
from schemas.errors import BrokenChain, MalformedEvent, SchemaError
from schemas.names import SERVER
from schemas.sealed import seal_secret, unseal_secret
from schemas.statement import open_statement, payload_type, sign_statement
from schemas.strict_json import NotStrictJson, read_json
from tests.schema_cast import (
    CHAIN,
    MOMENT,
    OPENSSL,
    P256,
    chain_of,
    key_of,
    signer_of,
    trust,
    verify_chain,
)

S = P256.suite
HEAD = Head(CHAIN)
LINES = chain_of(S, 8)
OTHERS = chain_of(S, 8, data={"another": "past"}) + chain_of(S, 2, chain="f" * 16)
WHOLE = verify_chain(LINES, S.digest, HEAD)
RING = trust(S, "agent", EVENTS_TYPE)
ENVELOPE = seal_envelope(EVENTS_TYPE, join_lines(LINES[:2]), [signer_of(S, "agent")])

text = st.text(st.characters(codec="utf-8"), max_size=40)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(text, json_values, max_size=6)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def tampered(draw):
    """Another list of lines than the true one: cut, doubled, exchanged, replaced or edited."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["delete", "insert", "replace", "swap", "edit"])):
            case "delete" if len(lines) > 1:
                del lines[at]
            case "insert":
                lines.insert(at, draw(st.sampled_from(LINES + OTHERS)))
            case "replace":
                lines[at] = draw(st.sampled_from(LINES + OTHERS))
            case "swap":
                other = draw(st.integers(0, len(lines) - 1))
                lines[at], lines[other] = lines[other], lines[at]
            case _:
                place = draw(st.integers(0, len(lines[at]) - 1))
                flipped = lines[at][place] ^ draw(st.integers(1, 255))
                lines[at] = lines[at][:place] + bytes([flipped]) + lines[at][place + 1 :]
    return lines


@settings(max_examples=400)
@given(tampered())
def test_no_other_lines_lead_to_the_same_head(lines):
    try:
        head = verify_chain(lines, S.digest, HEAD)
    except (BrokenChain, MalformedEvent):
        return
    # whole, but not the true one: its end gives it away, and the end is signed and acknowledged
    assert (head == WHOLE) == (lines == LINES)


@settings(max_examples=200)
@given(tampered())
def test_a_message_holds_only_lines_that_follow_each_other(lines):
    try:
        links = split_lines(join_lines(lines), S.digest)
    except (BrokenChain, MalformedEvent):
        return
    start = links[0].event
    before = Head(start.chain, start.number - 1, start.prevhash)
    assert verify_chain(lines, S.digest, before).sequence == links[-1].event.number


@settings(max_examples=300)
@given(json_objects, st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_what_is_composed_is_read_back_as_it_was(data, time):
    try:
        line, head = compose_line(
            HEAD,
            S.digest,
            source="/sites/demo/agents/front-agent",
            type="io.ostiary.door.opened.v1",
            subject="doors/front",
            time=time,
            data=data,
        )
    except MalformedEvent as refusal:
        assert "long" in str(refusal)  # noqa: PT017
        return
    link = parse_line(line, S.digest)
    assert link.event.data == data
    assert link.event.time == time
    assert (link.hash, link.event.number) == (head.hash, head.sequence)
    assert b"\n" not in line
    assert b"\r" not in line


@settings(max_examples=300)
@given(st.dictionaries(st.text(max_size=10), any_json, max_size=4))
def test_any_data_is_composed_for_all_to_read_or_refused(data):
    try:
        line, _ = compose_line(
            HEAD,
            S.digest,
            source="/sites/demo/agents/front-agent",
            type="io.ostiary.door.opened.v1",
            subject="doors/front",
            time=MOMENT,
            data=data,
        )
    except MalformedEvent:
        return
    strictest = json.loads(line, parse_constant=pytest.fail)
    assert strictest["data"] == data


@settings(max_examples=1000)
@given(st.integers(0, len(ENVELOPE) - 1), st.integers(0, 7))
def test_an_envelope_with_any_bit_flipped_is_refused(place, bit):
    data = bytearray(ENVELOPE)
    data[place] ^= 1 << bit
    with pytest.raises(SchemaError):
        open_envelope(bytes(data), RING, EVENTS_TYPE)


@settings(max_examples=100)
@given(st.binary(max_size=300), st.sampled_from([OPENSSL.suite, S]))
def test_any_bytes_come_through_an_envelope(payload, suite):
    data = seal_envelope(EVENTS_TYPE, payload, [signer_of(suite, "agent")])
    assert open_envelope(data, trust(suite, "agent", EVENTS_TYPE), EVENTS_TYPE).payload == payload


@given(text, st.binary(max_size=40), text, st.binary(max_size=40))
def test_two_payloads_never_have_one_pre_authentication_encoding(type_a, a, type_b, b):
    assert (pae(type_a, a) == pae(type_b, b)) == ((type_a, a) == (type_b, b))


@settings(max_examples=200)
@given(st.binary(max_size=200) | any_json.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_refused_by_name(data):
    for parse in (
        lambda: open_envelope(data, RING, EVENTS_TYPE),
        lambda: parse_line(data, S.digest),
        lambda: split_lines(data, S.digest),
    ):
        with pytest.raises(SchemaError):
            parse()


@settings(max_examples=300)
@given(any_json)
def test_strict_json_is_what_json_can_say_and_nothing_more(value):
    data = json.dumps(value).encode()

    def portable(part):
        match part:
            case float():
                return math.isfinite(part)
            case bool():
                return True
            case int():
                return -(2**63) <= part < 2**63
            case list():
                return all(map(portable, part))
            case dict():
                return all(map(portable, part.values()))
        return True

    if portable(value):
        assert read_json(data) == value
    else:
        with pytest.raises(NotStrictJson):
            read_json(data)


@settings(max_examples=60)
@given(
    st.integers(1, 2**63 - 1),
    st.booleans(),
    st.binary(min_size=32, max_size=32).filter(any),
    st.datetimes(timezones=st.just(UTC), max_value=datetime(2026, 1, 1)),  # noqa: DTZ001
)
def test_any_acknowledgement_comes_through_its_envelope(sequence, resend, digest, issued):
    statement = Acknowledgement(
        site="demo",
        audience="door",
        issued=issued,
        counter=sequence,
        chain=CHAIN,
        sequence=sequence,
        hash=digest.hex(),
        resend=resend,
    )
    data = sign_statement(statement, signer_of(S, SERVER))
    ring = trust(S, SERVER, payload_type("acknowledgement"))
    again = open_statement(data, Acknowledgement, ring, site="demo", audience="door", now=MOMENT)
    assert again == statement


@settings(max_examples=60)
@given(st.binary(max_size=100), text, st.binary(min_size=32, max_size=32))
def test_any_secret_comes_through_its_seal(secret, context, kek):
    sealed = seal_secret(kek, secret, context, lambda n: b"\x05" * n)
    assert unseal_secret(kek, sealed, context) == secret


@settings(max_examples=60)
@given(st.binary(max_size=200), st.sampled_from([OPENSSL, P256]), st.data())
def test_a_signature_holds_for_its_message_and_no_other(message, curve, data):
    key = key_of(curve.suite, "agent")
    signature = key.sign(message)
    key.public.verify(message, signature)
    other = data.draw(st.binary(max_size=200).filter(lambda m: m != message))
    with pytest.raises(SchemaError):
        key.public.verify(other, signature)
    changed = bytearray(signature)
    changed[data.draw(st.integers(0, 71)) % len(signature)] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SchemaError):
        key.public.verify(message, bytes(changed))
