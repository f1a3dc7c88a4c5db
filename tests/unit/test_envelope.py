"""The envelope: what a receiver refuses, in which order, and by which name."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest

from schemas.chain import EVENTS_TYPE
from schemas.envelope import (
    MAX_ENVELOPE_BYTES,
    MAX_SIGNATURES,
    Signer,
    envelope_json,
    open_envelope,
    pae,
    seal_envelope,
)
from schemas.errors import (
    BadSignature,
    MalformedEnvelope,
    MalformedSignature,
    UnknownKey,
    WrongPurpose,
)
from schemas.suites import keyid
from tests.schema_cast import SUITES, key_of, signer_of, trust

PAYLOAD = b'{"some":"payload"}'
EACH_SUITE = pytest.mark.parametrize("s", SUITES, ids=lambda s: s.name)
S = SUITES[1]
RING = trust(S, "agent", EVENTS_TYPE)


def sealed(payload=PAYLOAD, payload_type=EVENTS_TYPE, holder="agent", s=S):
    return seal_envelope(payload_type, payload, [signer_of(s, holder)])


def altered(**members):
    """A good envelope with members changed, or left out where None."""
    envelope = json.loads(sealed()) | members
    return json.dumps({k: v for k, v in envelope.items() if v is not None}).encode()


def test_pae_is_what_dsse_v1_gives_as_its_example():
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_pae_counts_bytes_and_not_characters():
    assert pae("门", "é".encode()) == b"DSSEv1 3 \xe9\x97\xa8 2 \xc3\xa9"


@EACH_SUITE
def test_a_sealed_payload_opens_and_says_whose_it_is(s):
    opened = open_envelope(sealed(s=s), trust(s, "agent", EVENTS_TYPE), EVENTS_TYPE)
    assert opened.payload == PAYLOAD
    assert opened.holder == "agent"
    assert opened.keyid == signer_of(s, "agent").keyid
    key_of(s, "agent").public.verify(pae(EVENTS_TYPE, PAYLOAD), opened.signature)


def test_an_empty_payload_is_a_payload():
    assert open_envelope(sealed(b""), RING, EVENTS_TYPE).payload == b""


def test_an_envelope_is_given_back_from_its_parts_byte_for_byte():
    data = sealed()
    opened = open_envelope(data, RING, EVENTS_TYPE)
    parts = [(opened.keyid, opened.signature)]
    assert envelope_json(EVENTS_TYPE, opened.payload, parts) == data


def test_a_signer_is_named_by_its_key_and_hides_it():
    signer = Signer.of(key_of(S, "agent"))
    assert signer.keyid == keyid(key_of(S, "agent").public)
    assert "scalar" not in repr(signer)
    assert signer.key.scalar.hex() not in repr(signer)


def test_an_envelope_of_another_type_is_refused_even_where_the_key_may_sign_both():
    ring = trust(S, "agent", EVENTS_TYPE, "application/other")
    with pytest.raises(WrongPurpose):
        open_envelope(sealed(payload_type="application/other"), ring, EVENTS_TYPE)


def test_a_signature_for_one_type_does_not_hold_for_another():
    ring = trust(S, "agent", EVENTS_TYPE, "application/other")
    relabelled = json.loads(sealed(payload_type="application/other"))
    relabelled["payloadType"] = EVENTS_TYPE
    with pytest.raises(BadSignature):
        open_envelope(json.dumps(relabelled).encode(), ring, EVENTS_TYPE)


def test_an_unknown_key_is_refused():
    with pytest.raises(UnknownKey):
        open_envelope(sealed(holder="stranger"), RING, EVENTS_TYPE)
    with pytest.raises(UnknownKey):
        open_envelope(sealed(), {}, EVENTS_TYPE)


def test_a_known_key_that_may_not_sign_this_type_is_refused():
    with pytest.raises(UnknownKey):
        open_envelope(sealed(), trust(S, "agent", "application/other"), EVENTS_TYPE)


def test_a_strangers_signature_under_a_known_name_is_bad():
    data = json.loads(sealed(holder="stranger"))
    data["signatures"][0]["keyid"] = signer_of(S, "agent").keyid
    with pytest.raises(BadSignature):
        open_envelope(json.dumps(data).encode(), RING, EVENTS_TYPE)


def test_one_good_signature_among_strangers_and_bad_ones_suffices():
    good = json.loads(sealed())["signatures"][0]
    bad = {"keyid": good["keyid"], "sig": b64encode(b"\x30\x06\x02\x01\x01\x02\x01\x01").decode()}
    stranger = json.loads(sealed(holder="stranger"))["signatures"][0]
    opened = open_envelope(altered(signatures=[stranger, bad, good]), RING, EVENTS_TYPE)
    assert b64encode(opened.signature).decode() == good["sig"]


def test_a_malformed_signature_by_a_known_key_is_named_so():
    name = signer_of(S, "agent").keyid
    with pytest.raises(MalformedSignature):
        open_envelope(altered(signatures=[{"keyid": name, "sig": ""}]), RING, EVENTS_TYPE)


def test_members_that_dsse_does_not_name_are_passed_over():
    assert open_envelope(altered(more=1), RING, EVENTS_TYPE).payload == PAYLOAD


MALFORMED = {
    "nothing": b"",
    "not JSON": b"hello",
    "binary": bytes(range(256)),
    "a number": b"1",
    "a list": b"[]",
    "NaN beside it": sealed()[:-1] + b',"more":NaN}',
    "a number beyond a double": sealed()[:-1] + b',"more":1e999}',
    "an integer beyond 64 bits": sealed()[:-1] + b',"more":' + b"9" * 5000 + b"}",
    "text after it": sealed() + b"x",
    "a second envelope": sealed() * 2,
    "a byte order mark": b"\xef\xbb\xbf" + sealed(),
    "UTF-16": sealed().decode().encode("utf-16"),
    "UTF-32": sealed().decode().encode("utf-32"),
    "not UTF-8": sealed()[:-1] + b',"more":"\xff"}',
    "two payloads": sealed()[:-1] + b',"payload":"YQ=="}',
    "two keyids": sealed().replace(b'{"keyid"', b'{"keyid":"a","keyid"'),
    "lists without end": b"[" * 200_000,
    "objects without end": b'{"a":' * 80_000,
    "no payloadType": altered(payloadType=None),
    "no payload": altered(payload=None),
    "no signatures": altered(signatures=None),
    "a payloadType that is a number": altered(payloadType=1),
    "a payload that is a list": altered(payload=[]),
    "signatures that are an object": altered(signatures={"keyid": "a", "sig": ""}),
    "an empty list of signatures": altered(signatures=[]),
    "17 signatures": altered(signatures=json.loads(sealed())["signatures"] * 17),
    "a signature that is text": altered(signatures=["a"]),
    "a signature without keyid": altered(signatures=[{"sig": "YQ=="}]),
    "a signature without sig": altered(signatures=[{"keyid": "a"}]),
    "a keyid that is null": altered(signatures=[{"keyid": None, "sig": "YQ=="}]),
    "a payload of another alphabet": altered(payload="_-8="),
    "a payload without padding": altered(payload="YQ"),
    "a payload with a line break": altered(payload="Y\nQ=="),
    "a payload with unused bits set": altered(payload="YR=="),
    "a payload with surplus padding": altered(payload="YWJj="),
    "a payload beyond ASCII": altered(payload="門"),
    "a payload with a lone surrogate": altered(payload="\ud800"),
    "a sig with unused bits set": altered(signatures=[{"keyid": "a", "sig": "YR=="}]),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_envelope_is_malformed(what):
    with pytest.raises(MalformedEnvelope):
        open_envelope(MALFORMED[what], RING, EVENTS_TYPE)


def test_as_many_signatures_as_the_limit_are_read():
    signatures = json.loads(sealed())["signatures"] * MAX_SIGNATURES
    assert open_envelope(altered(signatures=signatures), RING, EVENTS_TYPE).payload == PAYLOAD


def test_the_limit_of_size_is_exact_and_comes_before_all_else():
    data = sealed()
    assert open_envelope(data, RING, EVENTS_TYPE, max_bytes=len(data)).payload == PAYLOAD
    with pytest.raises(MalformedEnvelope, match="limit"):
        open_envelope(data, RING, EVENTS_TYPE, max_bytes=len(data) - 1)
    with pytest.raises(MalformedEnvelope, match="limit"):
        open_envelope(b"[" * (MAX_ENVELOPE_BYTES + 1), RING, EVENTS_TYPE)


def test_a_hostile_type_is_quoted_short_and_printable():
    with pytest.raises(WrongPurpose) as refusal:
        open_envelope(altered(payloadType="\x1b[2J\n\ud800" * 1000), RING, EVENTS_TYPE)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 1000
