"""How an agent holds the revocation log, and each attack on it by name."""

from __future__ import annotations

import pytest

from edge_agent.core.trusted_state import (
    after_revocation,
    after_snapshot,
    open_snapshot,
)
from schemas.errors import (
    BrokenLog,
    Equivocation,
    FastForward,
    MalformedChunk,
    MixAndMatch,
    PartialBundle,
    Replayed,
    Rollback,
)
from schemas.versions import MAX_LEAP, LogHead
from tests.believing import OTHER_HASH, centre, heard, revoked, state
from tests.centre import AGENT, NOW, Centre

__all__ = ["centre", "state"]


def test_entries_follow_and_what_is_known_already_is_passed_over(state, centre):
    first, second = (centre.revoke("card", f"{n:016x}") for n in (1, 2))
    state, denied = after_revocation(state, first, AGENT, NOW)
    assert [each.subject for each in denied] == ["0" * 15 + "1"]
    both, denied = after_revocation(state, centre.log_after(0), AGENT, NOW)
    assert [each.subject for each in denied] == ["0" * 15 + "2"]
    assert both.revocation == centre.head
    for old in (first, second):
        again, denied = after_revocation(both, old, AGENT, NOW)
        assert again is both
        assert denied == ()


def test_a_gap_in_the_log_is_not_passed_over(state, centre):
    centre.revoke("card", "0" * 16)
    with pytest.raises(BrokenLog):
        after_revocation(state, centre.revoke("card", "1" * 16), AGENT, NOW)


def test_equivocation_of_the_log(state, centre):
    fork = Centre(centre.keys.suite_name)
    fork.keys = centre.keys
    state = revoked(state, centre, 1)
    fork.revoke("card", f"{2:016x}")
    with pytest.raises(Equivocation):
        after_revocation(state, fork.revoke("card", f"{3:016x}"), AGENT, NOW)


def test_mix_and_match_of_log_entries_with_a_heartbeat(state, centre):
    state = heard(state, centre, revocation=LogHead(sequence=2, hash=OTHER_HASH))
    for number in (1, 2, 3):
        centre.revoke("card", f"{number:016x}")
    with pytest.raises(MixAndMatch):
        after_revocation(state, centre.log_after(0), AGENT, NOW)


def test_a_snapshot_brings_the_whole_log_at_once(state, centre):
    for number in (1, 2, 3):
        centre.revoke("card", f"{number:016x}")
    centre.revoke("person", "ada")
    envelope, bodies = centre.snapshot()
    after, denied = after_snapshot(state, envelope, AGENT, NOW, bodies)
    assert after.revocation == centre.head
    assert {each.subject for each in denied} == {f"{n:016x}" for n in (1, 2, 3)} | {"ada"}
    with pytest.raises(Replayed):
        open_snapshot(after, envelope, AGENT, NOW)


def test_rollback_to_an_old_snapshot(state, centre):
    state = revoked(state, centre, 1)
    old = centre.snapshot()
    state = revoked(state, centre, 2)
    with pytest.raises(Rollback):
        after_snapshot(state, old[0], AGENT, NOW, old[1])


def test_equivocation_of_a_snapshot(state, centre):
    state = revoked(state, centre, 1)
    with pytest.raises(Equivocation):
        open_snapshot(state, centre.snapshot(hash=OTHER_HASH)[0], AGENT, NOW)


def test_mix_and_match_of_a_snapshot_with_a_heartbeat(state, centre):
    state = heard(state, centre, revocation=LogHead(sequence=1, hash=OTHER_HASH))
    centre.revoke("card", "0" * 16)
    with pytest.raises(MixAndMatch):
        open_snapshot(state, centre.snapshot()[0], AGENT, NOW)


def test_fast_forward_by_a_snapshot(state, centre):
    far = {"counter": MAX_LEAP + 2, "hash": OTHER_HASH}
    held = revoked(state, centre, 1)
    with pytest.raises(FastForward):
        open_snapshot(held, centre.snapshot(**far)[0], AGENT, NOW)
    assert open_snapshot(state, centre.snapshot(**far)[0], AGENT, NOW)


def test_partial_bundle_a_snapshot_without_one_of_its_chunks(state, centre):
    for number in (1, 2, 3):
        centre.revoke("card", f"{number:016x}")
    envelope, bodies = centre.snapshot()
    bodies.popitem()
    with pytest.raises(PartialBundle):
        after_snapshot(state, envelope, AGENT, NOW, bodies)


def test_other_bytes_in_place_of_a_snapshots_chunk_are_refused(state, centre):
    centre.revoke("card", "0" * 16)
    envelope, bodies = centre.snapshot()
    for other in (b"", *(body + b"\n" for body in bodies.values())):
        with pytest.raises(MalformedChunk):
            after_snapshot(state, envelope, AGENT, NOW, dict.fromkeys(bodies, other))


def test_endless_data_in_a_snapshots_chunk_is_refused_before_it_is_read(state, centre):
    body = b"\n" * (96 * 1024 + 1)
    envelope, _ = centre.snapshot(counter=1, chunks=(centre.digest(body),))
    with pytest.raises(MalformedChunk, match="bytes"):
        after_snapshot(state, envelope, AGENT, NOW, {centre.digest(body): body})


def test_a_snapshot_can_have_no_entry_beyond_its_own_end(state, centre):
    centre.revoke("card", "0" * 16)
    centre.revoke("card", "1" * 16)
    envelope, bodies = centre.snapshot(counter=1)
    with pytest.raises(MalformedChunk, match="entry 2"):
        after_snapshot(state, envelope, AGENT, NOW, bodies)
