"""Claim codes: typed, pasted or scanned, they give back what they were made of, or nothing."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.enrolment import SECRET_BYTES, Claim, fingerprint
from schemas.errors import MalformedClaim

names = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(
    lambda name: name not in ("server", "all")
)
hosts = st.sampled_from(["127.0.0.1", "doors.example.org", "localhost", "::1", "2001:db8::7"])
claims = st.builds(
    Claim,
    host=hosts,
    port=st.integers(1, 65535),
    agent=names,
    secret=st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES),
    root=st.binary(min_size=32, max_size=32).map(bytes.hex),
)
CLAIM = Claim(
    host="doors.example.org",
    port=8443,
    agent="front-agent",
    secret=bytes(range(SECRET_BYTES)),
    root=hashlib.sha256(b"root").hexdigest(),
)


@given(claims)
def test_a_code_gives_back_what_it_was_made_of(claim):
    assert Claim.parse(claim.code) == claim
    assert Claim.parse(f"  {claim.code}\n") == claim


def test_a_code_reads_as_documented():
    start, _, root = CLAIM.code.partition("?root=")
    assert start == "ostiary://doors.example.org:8443/front-agent/AAAQ-EAYE-AUDA-OCAJ-BIFQ-YDIO"
    assert len(root) == 52


def test_a_secret_may_be_typed_in_small_letters_and_without_dashes():
    start, _, root = CLAIM.code.rpartition("?")
    where, _, secret = start.rpartition("/")
    assert Claim.parse(f"{where}/{secret.lower().replace('-', '')}?{root}") == CLAIM


def test_a_secret_is_not_shown_by_chance():
    assert "secret" not in repr(CLAIM)
    assert CLAIM.code.split("/")[4][:9] not in str(CLAIM)


@pytest.mark.parametrize(
    "change",
    [
        lambda code: "",
        lambda code: code.replace("ostiary:", "https:"),
        lambda code: code[:-1],
        lambda code: code[:40],
        lambda code: code.replace("?root=", "?"),
        lambda code: code.replace("?root=", "?root=AAAA&root="),
        lambda code: code.replace("AAAQ-", ""),
        lambda code: code.replace("AAAQ-", "AAAQ-AAAQ-"),
        lambda code: code.replace("AAAQ", "AA1Q"),
        lambda code: code.replace("front-agent", "Front"),
        lambda code: code.replace("front-agent", "server"),
        lambda code: code.replace("front-agent/", ""),
        lambda code: code.replace("front-agent/", "front-agent/more/"),
        lambda code: code.replace(":8443", ""),
        lambda code: code.replace(":8443", ":0"),
        lambda code: code.replace(":8443", ":65536"),
        lambda code: code.replace(":8443", ":x"),
        lambda code: code.replace("doors.example.org", ""),
        lambda code: code.replace("doors.example.org", "doors_example"),
        lambda code: code.replace("doors.example.org", "[::1"),
        lambda code: code.replace("doors.example.org", "a" * 254),
        lambda code: code.replace("doors", "门"),
    ],
)
def test_a_code_that_was_mistyped_or_cut_short_is_refused_by_name(change):
    assert change(CLAIM.code) != CLAIM.code
    with pytest.raises(MalformedClaim):
        Claim.parse(change(CLAIM.code))


@given(st.text())
def test_any_other_text_is_refused_by_name(text):
    with pytest.raises(MalformedClaim):
        Claim.parse(text)
    with pytest.raises(MalformedClaim):
        Claim.parse("ostiary://" + text)


def test_a_fingerprint_is_eight_groups_of_four_digits():
    shown = fingerprint("0123456789abcdef" * 4)
    assert shown == "0123 4567 89ab cdef 0123 4567 89ab cdef"
