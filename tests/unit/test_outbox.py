import asyncio
import secrets
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.database import connect
from edge_agent.outbox import AcknowledgementMismatch, Outbox, OutboxFailed
from edge_agent.outbox_tables import read_state
from schemas.chain import Head, parse_line
from schemas.event_data import ClockStatus, DoorData, EventsLost
from schemas.events import event_name
from schemas.suites import INTL
from tests.schema_cast import verify_chain

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SYNCED = ClockStatus(status="synced")


class StillClock:
    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0

    def status(self) -> ClockStatus:
        return SYNCED


async def open_outbox(path: Path, capacity: int = 100) -> Outbox:
    return await Outbox.open(
        path / "outbox.db",
        digest=INTL.digest,
        source="/sites/demo/agents/front-agent",
        clock=StillClock(),
        random=secrets.token_bytes,
        capacity=capacity,
    )


async def append(outbox: Outbox, name: str = "door.closed"):
    return await outbox.append(name, "doors/front", DoorData(door="front", clock=SYNCED), NOW)


def names(lines):
    return [event_name(parse_line(each.line, INTL.digest).event.type) for each in lines]


async def acknowledge(outbox: Outbox, line) -> None:
    state = outbox.state
    await outbox.acknowledge(state.head.chain, line.sequence, INTL.digest(line.line).hex(), NOW)


async def test_lines_form_one_chain_across_a_reopening(tmp_path):
    outbox = await open_outbox(tmp_path)
    lines = [await append(outbox) for _ in range(3)]
    await outbox.close()
    outbox = await open_outbox(tmp_path)
    lines += [await append(outbox) for _ in range(3)]
    head = verify_chain([each.line for each in lines], INTL.digest, Head(outbox.state.head.chain))
    assert head == outbox.state.head
    assert await outbox.lines_after(0, 256, 10**6) == lines
    await outbox.close()


async def test_an_acknowledgement_deletes_the_lines_it_covers_and_no_other(tmp_path):
    outbox = await open_outbox(tmp_path)
    lines = [await append(outbox) for _ in range(5)]
    await acknowledge(outbox, lines[2])
    assert await outbox.lines_after(0, 256, 10**6) == lines[3:]
    await acknowledge(outbox, lines[1])  # an older one says nothing new
    assert outbox.state.waiting == 2
    await outbox.close()


async def test_the_chain_goes_on_after_everything_was_acknowledged(tmp_path):
    outbox = await open_outbox(tmp_path)
    first = await append(outbox)
    await acknowledge(outbox, first)
    await outbox.close()
    outbox = await open_outbox(tmp_path)
    second = await append(outbox)
    verify_chain([first.line, second.line], INTL.digest, Head(outbox.state.head.chain))
    await outbox.close()


async def test_an_acknowledgement_of_other_bytes_deletes_nothing(tmp_path):
    outbox = await open_outbox(tmp_path)
    line = await append(outbox)
    chain = outbox.state.head.chain
    for wrong in [
        (chain, 1, "ab" * 32),
        (chain, 2, INTL.digest(line.line).hex()),
        ("00" * 8, 1, INTL.digest(line.line).hex()),
    ]:
        with pytest.raises(AcknowledgementMismatch):
            await outbox.acknowledge(*wrong, NOW)
    assert outbox.state.waiting == 1
    await outbox.close()


async def test_a_full_store_keeps_the_oldest_and_declares_what_it_dropped(tmp_path):
    outbox = await open_outbox(tmp_path, capacity=20)
    for _ in range(19):  # and one agent.buffer_high
        await append(outbox)
    for _ in range(3):
        with pytest.raises(OutboxFailed):
            await append(outbox)
    await outbox.close()
    outbox = await open_outbox(tmp_path, capacity=20)  # the count is durable
    lines = await outbox.lines_after(0, 256, 10**6)
    assert names(lines).count("agent.buffer_high") == 1
    await acknowledge(outbox, lines[9])
    await append(outbox)
    rest = await outbox.lines_after(20, 256, 10**6)
    assert names(rest) == ["agent.events_lost", "door.closed"]
    lost = EventsLost.model_validate(parse_line(rest[0].line, INTL.digest).event.data)
    assert (lost.count, lost.why) == (3, "buffer_full")
    verify_chain([each.line for each in lines + rest], INTL.digest, Head(outbox.state.head.chain))
    await outbox.close()


async def test_a_failing_disk_is_named_and_the_loss_declared_once_it_works(tmp_path, monkeypatch):
    outbox = await open_outbox(tmp_path)
    first = await append(outbox)

    def fail(database, state):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("edge_agent.outbox_tables.save", fail)
        with pytest.raises(OutboxFailed, match="disk I/O error"):
            await append(outbox)
    last = await append(outbox)
    lines = await outbox.lines_after(0, 256, 10**6)
    assert names(lines) == ["door.closed", "agent.events_lost", "door.closed"]
    assert parse_line(lines[1].line, INTL.digest).event.data["why"] == "storage_error"
    assert (first, last) == (lines[0], lines[2])
    await outbox.close()


async def test_a_full_disk_is_survived(tmp_path):
    outbox = await open_outbox(tmp_path)
    await append(outbox)
    pages = await outbox._thread.run(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await outbox._thread.run(lambda db: db.execute(f"PRAGMA max_page_count={pages}").fetchone())
    with pytest.raises(OutboxFailed, match="full"):
        await asyncio.gather(*(append(outbox) for _ in range(50)))
    await outbox._thread.run(lambda db: db.execute("PRAGMA max_page_count=100000").fetchone())
    await append(outbox)
    lines = await outbox.lines_after(0, 256, 10**6)
    assert names(lines)[-2:] == ["agent.events_lost", "door.closed"]
    verify_chain([each.line for each in lines], INTL.digest, Head(outbox.state.head.chain))
    await outbox.close()


async def test_an_event_is_stored_even_if_its_caller_is_cancelled(tmp_path):
    outbox = await open_outbox(tmp_path)
    task = asyncio.create_task(append(outbox))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await outbox.changed()
    assert outbox.state.head.sequence == 1
    await outbox.close()


async def test_how_the_last_run_ended_is_known(tmp_path):
    outbox = await open_outbox(tmp_path)
    assert await outbox.begin() == "first_start"
    await outbox.close()
    outbox = await open_outbox(tmp_path)
    assert await outbox.begin() == "start"
    await outbox._thread.close()  # as if killed
    outbox = await open_outbox(tmp_path)
    await outbox.close()  # another command that only looked in
    outbox = await open_outbox(tmp_path)
    assert await outbox.begin() == "restart_after_kill"
    await outbox.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from tests.unit.test_outbox import append, open_outbox

async def main():
    outbox = await open_outbox(Path(sys.argv[1]), capacity=10**6)
    while True:
        print((await append(outbox)).sequence, flush=True)

asyncio.run(main())
"""


def test_nothing_committed_is_lost_when_the_process_is_killed(tmp_path):
    promised = 0
    for appended in (1, 17, 40):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        for _ in range(appended):
            promised = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].split("\n")
        promised = max([promised, *(int(each) for each in rest[:-1])])
    database = connect(tmp_path / "outbox.db")
    state = read_state(database)
    lines = [row[0] for row in database.execute("SELECT line FROM lines ORDER BY sequence")]
    assert len(lines) >= promised
    assert verify_chain(lines, INTL.digest, Head(state.head.chain)) == state.head
    database.close()


async def test_an_event_that_no_server_would_take_is_counted_as_lost_and_breaks_nothing(tmp_path):
    outbox = await open_outbox(tmp_path)
    monster = Blob(door="front", clock=SYNCED, detail="x" * 5000)
    with pytest.raises(OutboxFailed, match="4096"):
        await outbox.append("door.fault", "doors/front", monster, NOW)
    await append(outbox)
    lines = await outbox.lines_after(0, 10, 10**6)
    assert names(lines) == ["agent.events_lost", "door.closed"]
    verify_chain([each.line for each in lines], INTL.digest, Head(outbox.state.head.chain))
    await outbox.close()


async def test_marks_of_start_and_end_that_a_disk_refuses_are_failures_of_the_outbox(tmp_path):
    outbox = await open_outbox(tmp_path)
    await outbox.begin()
    blocker = connect(tmp_path / "outbox.db")
    await outbox._thread.run(lambda database: database.execute("PRAGMA busy_timeout=0"))
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutboxFailed, match="start"):
        await outbox.begin()
    with pytest.raises(OutboxFailed, match="end"):
        await outbox.close()
    blocker.close()


class Blob(DoorData):
    detail: str
