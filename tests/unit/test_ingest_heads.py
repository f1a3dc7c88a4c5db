"""Where a message stands in its chain."""

import pytest

from schemas.chain import GENESIS, Head
from server.ingest.heads import GAP_PATIENCE_S, Batch, Heads, questions
from server.ingest.verify import AlarmKind, Verified, verify_message
from tests.agent_pen import SITE, Pen


class Receiver:
    """Batches, committed one after the other into a store that is a dictionary."""

    def __init__(self) -> None:
        self.heads = Heads(())
        self.store: dict[tuple[str, str, int], str] = {}
        self.lines: list[bytes] = []
        self.now_s = 100.0

    def receive(self, pen: Pen, *messages: bytes) -> Batch:
        verified = [verify_message(pen.topic, m, pen.ring, SITE, pen.suite) for m in messages]
        assert all(isinstance(v, Verified) for v in verified)
        asked = questions(self.heads, verified)
        batch = Batch(self.heads, {k: v for k, v in self.store.items() if k in asked}, self.now_s)
        for message in verified:
            batch.place(message)
        for row in batch.rows:
            event = row.link.event
            key = (row.source, event.chain, event.number)
            assert key not in self.store, "stored twice"
            self.store[key] = row.link.hash
            self.lines.append(row.link.line)
        for (source, _), head in batch.heads.items():
            self.heads.moved(source, head)
        return batch


def kinds(batch: Batch) -> list[AlarmKind]:
    return [alarm.kind for alarm in batch.alarms]


@pytest.fixture
def pen() -> Pen:
    pen = Pen()
    pen.write_many(10)
    return pen


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


def fork_of(pen: Pen, at: int) -> Pen:
    """The same agent and chain, with other lines from `at` on."""
    other = Pen(pen.agent)
    other.write_many(at - 1)
    for _ in range(12 - at):
        other.write("door.opened")
    return other


def test_lines_in_order_are_stored_and_acknowledged(receiver, pen):
    batch = receiver.receive(pen, pen.message(1), pen.message(2, 5))
    batch = receiver.receive(pen, pen.message(6))
    assert receiver.lines == pen.lines[:6]
    assert batch.acknowledge == {"front": pen.head.chain}
    assert receiver.heads.of("front", pen.head.chain) == Head(pen.head.chain, 6, pen.digest(6))
    assert not batch.alarms


def test_the_signature_stands_with_the_last_line_of_its_message(receiver, pen):
    batch = receiver.receive(pen, pen.message(1, 3), pen.message(4))
    signed = [row.signed and (row.signed.first, row.signed.last) for row in batch.rows]
    assert signed == [None, None, (1, 3), (4, 4)]


def test_a_duplicate_is_acknowledged_and_not_stored(receiver, pen):
    receiver.receive(pen, pen.message(1, 5))
    for message in (pen.message(5), pen.message(2), pen.message(1, 5), pen.message(2, 3)):
        batch = receiver.receive(pen, message)
        assert (batch.rows, batch.alarms) == ([], [])
        assert batch.acknowledge == {"front": pen.head.chain}
        assert batch.duplicates


def test_a_duplicate_within_one_batch_is_stored_once(receiver, pen):
    batch = receiver.receive(pen, pen.message(1), pen.message(2), pen.message(1), pen.message(1, 2))
    assert receiver.lines == pen.lines[:2]
    assert (batch.duplicates, batch.alarms) == (3, [])


def test_a_message_that_overlaps_the_head_gives_only_its_new_lines(receiver, pen):
    receiver.receive(pen, pen.message(1, 5))
    batch = receiver.receive(pen, pen.message(3, 8))
    assert [row.link.line for row in batch.rows] == pen.lines[5:8]
    assert batch.rows[-1].signed.first == 3
    assert batch.duplicates == 3


@pytest.mark.parametrize(("first", "last"), [(5, 5), (3, 3), (2, 4), (3, 8), (4, 5)])
def test_other_bytes_under_a_known_sequence_are_a_fork(receiver, pen, first, last):
    receiver.receive(pen, pen.message(1, 5))
    other = fork_of(pen, 3)
    batch = receiver.receive(other, other.message(first, last))
    assert kinds(batch) == [AlarmKind.FORK]
    assert not batch.rows
    assert not batch.acknowledge
    assert receiver.lines == pen.lines[:5]


def test_a_fork_within_one_batch_is_seen(receiver, pen):
    other = fork_of(pen, 2)
    batch = receiver.receive(pen, pen.message(1, 3), other.message(2), other.message(2, 5))
    assert kinds(batch) == [AlarmKind.FORK, AlarmKind.FORK]
    assert receiver.lines == pen.lines[:3]


def test_a_line_after_another_history_is_a_broken_chain(receiver, pen):
    receiver.receive(pen, pen.message(1, 5))
    other = fork_of(pen, 3)
    batch = receiver.receive(other, other.message(6))
    assert kinds(batch) == [AlarmKind.BROKEN_CHAIN]
    assert not batch.rows


def test_beyond_a_gap_nothing_is_stored_and_a_resend_is_asked(receiver, pen):
    receiver.receive(pen, pen.message(1, 2))
    batch = receiver.receive(pen, pen.message(4), pen.message(5))
    assert not batch.rows
    assert not batch.acknowledge
    assert batch.resend == {"front": pen.head.chain}
    assert not batch.alarms  # brokers lose messages; the agent will send again
    batch = receiver.receive(pen, pen.message(3, 5))
    assert receiver.lines == pen.lines[:5]
    assert not batch.resend


def test_a_gap_that_closes_within_its_batch_is_not_asked_for(receiver, pen):
    batch = receiver.receive(pen, pen.message(2), pen.message(1, 2))
    assert receiver.lines == pen.lines[:2]
    assert (batch.resend, batch.alarms) == ({}, [])


def test_a_chain_that_begins_with_a_gap_is_asked_for_from_the_start(receiver, pen):
    batch = receiver.receive(pen, pen.message(3))
    assert batch.resend == {"front": pen.head.chain}
    assert receiver.heads.of("front", pen.head.chain) == Head(pen.head.chain, 0, GENESIS)


def test_a_gap_that_stays_is_an_alarm(receiver, pen):
    receiver.receive(pen, pen.message(1), pen.message(3))
    receiver.now_s += GAP_PATIENCE_S
    assert kinds(receiver.receive(pen, pen.message(3))) == [AlarmKind.GAP]
    receiver.receive(pen, pen.message(2))
    assert not receiver.receive(pen, pen.message(4)).alarms  # healed: patience begins anew


def test_messages_out_of_order_end_as_one_chain(receiver, pen):
    for n in (2, 1, 3, 2, 3, 5, 4, 5):  # what is ahead comes again
        receiver.receive(pen, pen.message(n))
    assert receiver.lines == pen.lines[:5]


def test_an_old_message_replayed_changes_nothing(receiver, pen):
    old = pen.message(2)
    receiver.receive(pen, pen.message(1, 10))
    batch = receiver.receive(pen, old)
    assert (batch.rows, batch.heads, batch.alarms) == ([], {}, [])


def test_the_first_chain_of_an_agent_is_no_alarm_and_another_is(receiver, pen):
    assert not receiver.receive(pen, pen.message(1)).alarms
    pen.begin("f" * 16)
    pen.write_many(2)
    batch = receiver.receive(pen, pen.message(1))
    assert kinds(batch) == [AlarmKind.NEW_CHAIN]
    assert len(batch.rows) == 1
    assert receiver.heads.newest("front").chain == "f" * 16
    assert not receiver.receive(pen, pen.message(2)).alarms


def test_a_chain_that_an_enrolment_foretold_is_no_alarm(receiver, pen):
    receiver.receive(pen, pen.message(1))
    pen.begin("f" * 16)
    pen.write()
    batch = Batch(receiver.heads, {}, 0.0, {("front", "f" * 16)})
    batch.place(verify_message(pen.topic, pen.message(1), pen.ring, SITE, pen.suite))
    assert not batch.alarms
    pen.begin("e" * 16)
    pen.write()
    batch.place(verify_message(pen.topic, pen.message(1), pen.ring, SITE, pen.suite))
    assert kinds(batch) == [AlarmKind.NEW_CHAIN]


def test_two_chains_that_begin_in_one_batch_are_an_alarm(receiver, pen):
    first = pen.message(1)
    pen.begin("f" * 16)
    pen.write()
    assert kinds(receiver.receive(pen, first, pen.message(1))) == [AlarmKind.NEW_CHAIN]


def test_declared_losses_are_an_alarm(receiver):
    pen = Pen()
    pen.write("agent.events_lost", {"count": 7})
    batch = receiver.receive(pen, pen.message(1))
    assert kinds(batch) == [AlarmKind.EVENTS_LOST]
    assert "7" in batch.alarms[0].detail
    assert len(batch.rows) == 1


def test_a_line_that_the_store_lost_is_an_alarm_and_stops_nobody_else(receiver, pen):
    receiver.receive(pen, pen.message(1, 5))
    del receiver.store["front", pen.head.chain, 3]
    batch = receiver.receive(pen, pen.message(3), pen.message(6))
    assert kinds(batch) == [AlarmKind.BROKEN_CHAIN]
    assert len(batch.rows) == 1


def test_heads_are_as_they_were_when_a_batch_is_not_committed(pen):
    heads = Heads([("front", Head(pen.head.chain, 0, GENESIS))])
    verified = verify_message(pen.topic, pen.message(1, 3), pen.ring, SITE, pen.suite)
    Batch(heads, {}, 0.0).place(verified)
    assert heads.of("front", pen.head.chain).sequence == 0


def test_gaps_of_chains_that_an_agent_makes_up_take_no_memory(receiver, pen):
    for number in range(100):
        pen.begin(f"{number:016x}")
        pen.write_many(2)
        assert receiver.receive(pen, pen.message(2)).resend
    assert len(receiver.heads._gaps) == 1


@pytest.mark.parametrize("at_once", [False, True])
def test_no_agent_can_give_its_events_the_ids_of_anothers(receiver, pen, at_once):
    thief = Pen("thief")
    thief.begin(pen.head.chain)
    thief.write_many(3)
    honest, stolen = (verified(each, each.message(1, 3)) for each in (pen, thief))
    if at_once:
        batch = Batch(receiver.heads, {}, receiver.now_s)
        batch.place(honest)
        batch.place(stolen)
    else:
        receiver.receive(pen, pen.message(1, 3))
        batch = receiver.receive(thief, thief.message(1, 3))
    assert [row.source for row in batch.rows] == ["front"] * 3 * at_once
    assert kinds(batch) == [AlarmKind.BROKEN_CHAIN]
    assert batch.alarms[0].agent == "thief"


def verified(pen: Pen, message: bytes) -> Verified:
    checked = verify_message(pen.topic, message, pen.ring, SITE, pen.suite)
    assert isinstance(checked, Verified)
    return checked
