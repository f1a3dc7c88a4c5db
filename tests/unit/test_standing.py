"""Desired, reported and applied are kept apart, and compared by version and hash."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.versions import LogHead, Version
from server.core.standing import Desired, behind, contradicts
from server.ingest.receipts import Applied

DESIRED = Desired(2, Version(version=7, hash="a" * 64), LogHead(sequence=5, hash="b" * 64), 3)
DONE = Applied("front", 2, 7, "a" * 64, 5, "b" * 64, 3)


def test_an_agent_with_a_receipt_for_everything_is_not_behind():
    assert behind(DESIRED, DONE) == ()
    assert contradicts(DESIRED, DONE) is None


@pytest.mark.parametrize(
    ("lacking", "part"),
    [
        ({"root": 1}, "root"),
        ({"policy": 6}, "policy"),
        ({"policy_hash": "c" * 64}, "policy"),
        ({"revocation": 4}, "revocation"),
        ({"revocation_hash": "c" * 64}, "revocation"),
        ({"lockdown": 2}, "lockdown"),
    ],
)
def test_each_part_without_its_receipt_is_named(lacking, part):
    assert behind(DESIRED, replace(DONE, **lacking)) == (part,)


def test_an_agent_without_any_receipt_is_behind_in_all():
    assert behind(DESIRED, None) == ("root", "policy", "revocation", "lockdown")


def test_a_new_site_asks_for_nothing():
    assert behind(Desired(1, None, LogHead(), 0), None) == ()


@pytest.mark.parametrize("part", ["policy_hash", "revocation_hash"])
def test_a_receipt_for_other_content_is_a_contradiction(part):
    assert contradicts(DESIRED, replace(DONE, **{part: "c" * 64}))


def test_an_older_receipt_contradicts_nothing():
    old = replace(DONE, policy=6, policy_hash="c" * 64, revocation=4, revocation_hash="c" * 64)
    assert contradicts(DESIRED, old) is None
