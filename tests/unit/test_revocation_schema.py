"""The revocation log as it travels: entries that follow, snapshots, and what they may name."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from schemas.errors import BrokenLog, Equivocation, MalformedChunk
from schemas.revocation import (
    MAX_ENTRIES,
    Denied,
    Revocation,
    RevocationEntry,
    RevocationReason,
    read_denied,
    write_denied,
)
from schemas.statement import parse_statement
from schemas.versions import LogHead
from tests.centre import NOW, Centre, payload


@pytest.fixture(params=["intl", "gm"])
def centre(request):
    centre = Centre(request.param)
    for number in range(1, 6):
        centre.revoke("card", f"{number:016x}")
    return centre


def message(centre, after, until=None):
    return parse_statement(payload(centre.log_after(after, until)), Revocation)


def test_what_is_new_depends_on_what_is_held(centre):
    digest = centre.keys.suite.digest
    for held in range(6):
        new, head = message(centre, 0).after(centre.heads[held], digest)
        assert [each.sequence for each in new] == list(range(held + 1, 6))
        assert head == centre.head


def test_entries_that_are_all_known_change_nothing(centre):
    digest = centre.keys.suite.digest
    assert message(centre, 0, 3).after(centre.head, digest) == ((), centre.head)


def test_missing_entries_are_noticed(centre):
    digest = centre.keys.suite.digest
    with pytest.raises(BrokenLog, match="entries 2 to 3 are missing"):
        message(centre, 3).after(centre.heads[1], digest)


def test_another_log_is_not_gone_on_with(centre):
    digest = centre.keys.suite.digest
    for held in range(1, 6):
        fork = LogHead(sequence=held, hash="ab" * 32)
        with pytest.raises(Equivocation):
            message(centre, 0).after(fork, digest)
        with pytest.raises(Equivocation):
            message(centre, held - 1).after(fork, digest)
    with pytest.raises(Equivocation):
        message(centre, 3).after(LogHead(sequence=3, hash="ab" * 32), digest)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "person", "subject": "ada"},
        {"subject": "f" * 16},
        {"reason": RevocationReason.LOST},
        {"time": NOW.replace(microsecond=1)},
        {"sequence": 2},
    ],
    ids=str,
)
def test_the_hash_covers_all_of_an_entry_and_the_one_before(centre, change):
    digest = centre.keys.suite.digest
    entry = centre.entries[0]
    at = entry.hash_after(centre.heads[0].hash, digest)
    assert at == centre.heads[1].hash
    changed = RevocationEntry(**(entry.model_dump() | change))
    assert changed.hash_after(centre.heads[0].hash, digest) != at
    assert entry.hash_after(centre.heads[1].hash, digest) != at


@pytest.mark.parametrize(
    ("kind", "subject", "fits"),
    [
        ("card", "0123456789abcdef", True),
        ("card", "0123456789ABCDEF", False),
        ("card", "0123456789abcde", False),
        ("card", "0123456789abcdef\n", False),
        ("card", "ada", False),
        ("person", "ada", True),
        ("person", "a" * 63, True),
        ("person", "a" * 64, False),
        ("person", "Ada", False),
        ("person", "-ada", False),
        ("person", "ada\n", False),
        ("key-version", "front/1", True),
        ("key-version", "a" * 63 + "/255", True),
        ("key-version", "front/0", False),
        ("key-version", "front/01", False),
        ("key-version", "front/1000", False),
        ("key-version", "front", False),
        ("key-version", "/1", False),
        ("door", "front", False),
    ],
    ids=ascii,
)
def test_a_subject_is_of_its_kind(kind, subject, fits):
    line = {"kind": kind, "subject": subject, "sequence": 1, "reason": "revoked"}
    if fits:
        assert Denied.model_validate(line).subject == subject
    else:
        with pytest.raises(ValidationError):
            Denied.model_validate(line)


def entries(*sequences):
    return [
        {"kind": "person", "subject": "ada", "reason": "left", "sequence": n, "time": NOW}
        for n in sequences
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"entries": [], "counter": 0},
        {"entries": entries(1, 3), "counter": 3},
        {"entries": entries(2, 1), "counter": 1},
        {"entries": entries(1, 1), "counter": 1},
        {"entries": entries(1, 2), "counter": 1},
        {"entries": entries(1, 2), "counter": 3},
        {"entries": entries(0), "counter": 0},
        {"entries": entries(*range(1, MAX_ENTRIES + 2)), "counter": MAX_ENTRIES + 1},
        {"previous": "ab"},
        {"more": 1},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_a_message_has_consecutive_entries_and_counts_by_the_last(changes):
    good = {
        "site": "demo",
        "audience": "all",
        "issued": NOW,
        "counter": 2,
        "previous": "ab" * 32,
        "entries": entries(1, 2),
    }
    assert Revocation.model_validate(good)
    with pytest.raises(ValidationError):
        Revocation.model_validate(good | changes)


def test_a_snapshots_chunk_gives_its_lines_back():
    denied = [
        Denied(kind="card", subject="0" * 16, sequence=1, reason=RevocationReason.STOLEN),
        Denied(kind="key-version", subject="front/2", sequence=9, reason=RevocationReason.REVOKED),
    ]
    assert read_denied(write_denied(denied)) == denied
    assert read_denied(b"") == []


@pytest.mark.parametrize(
    "changes",
    [{"kind": "door"}, {"subject": "x"}, {"sequence": 0}, {"sequence": "1"}, {"reason": "mood"}],
    ids=str,
)
def test_a_snapshots_chunk_of_another_form_is_refused(changes):
    line = {"kind": "card", "subject": "0" * 16, "sequence": 1, "reason": "lost"}
    assert read_denied(json.dumps(line).encode())
    with pytest.raises(MalformedChunk):
        read_denied(json.dumps(line | changes).encode())
    with pytest.raises(MalformedChunk):
        read_denied(b"not json\n")
