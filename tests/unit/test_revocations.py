"""The revocation log of the server: what is asked for is durable, told, and never told wrongly."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import delete, insert, update

from edge_agent.core.trusted_state import TrustedState, after_revocation, after_snapshot
from schemas.card_chunks import MAX_CHUNK_BYTES
from schemas.errors import BrokenLog
from schemas.revocation import MAX_ENTRIES, Denied, RevocationReason, read_denied
from schemas.versions import LogHead
from server.distribution.revocation_messages import cut
from server.distribution.revocations import BASE_INTERVAL_S, MARGIN, MAX_SKIPPED, Stopped, Subject
from server.store.distribution_tables import revocations as table
from server.store.model_tables import cards, persons
from tests.orders_rig import MOMENT, Forgetful, Orders, orders, running

LOST = RevocationReason.LOST
STOLEN = RevocationReason.STOLEN


@pytest.fixture
async def site(tmp_path):
    async with orders(tmp_path) as made, running(made.revocations.run):
        yield made


def card(number: int) -> str:
    return f"{number:016x}"


def lost(*numbers: int) -> list[Subject]:
    return [Subject("card", card(n), LOST) for n in numbers]


class Follower:
    """An agent that takes what the server sends."""

    def __init__(self, site: Orders, agent: str = "front-agent") -> None:
        self.site, self.agent = site, agent
        self.state = TrustedState.pinned(site.keys.root)
        self.denied: dict[tuple[str, str], int] = {}

    @property
    def head(self) -> LogHead:
        return self.state.revocation

    def take(self, envelope: bytes) -> None:
        self.state, new = after_revocation(self.state, envelope, self.agent, MOMENT)
        self._deny(new)

    async def pull(self) -> None:
        """As an agent that lacks something does, and gets it."""
        server = self.site.revocations
        envelopes = await server.after(self.head.sequence, self.agent)
        if envelopes is None:
            envelope, chunks = await server.snapshot(self.head.sequence)
            self.state, new = after_snapshot(self.state, envelope, self.agent, MOMENT, chunks)
            self._deny(new)
            envelopes = await server.after(self.head.sequence, self.agent)
            if envelopes is None:
                return
        for each in envelopes:
            self.take(each)

    def _deny(self, new) -> None:
        for each in new:
            key = each.kind, each.subject
            self.denied[key] = max(each.sequence, self.denied.get(key, 0))


async def test_a_revocation_is_stored_announced_and_told_to_all(site):
    entry = await site.revocations.revoke("card", card(1), LOST, "mei")
    assert (entry.sequence, entry.subject, entry.reason) == (1, card(1), LOST)
    ((topic, payload, retain),) = await site.broker.until(1)
    assert (topic, retain) == ("ostiary/demo/all/revocation", False)
    follower = Follower(site)
    follower.take(payload)
    assert follower.head == site.revocations.head
    assert follower.denied == {("card", card(1)): 1}
    (news,) = await site.announcements()
    assert (news.name, news.subject) == ("revocation.requested", f"cards/{card(1)}")
    assert news.data == {
        "by": "mei",
        "sequence": 1,
        "kind": "card",
        "subject": card(1),
        "reason": "lost",
    }
    assert site.news == 1


async def test_revoking_again_for_the_same_reason_gives_the_entry_that_stands(site):
    first = await site.revocations.revoke("person", "mei", LOST, "li")
    again = await site.revocations.revoke("person", "mei", LOST, "wu")
    assert again == first
    assert site.revocations.head.sequence == 1
    assert len(await site.announcements()) == 1
    other = await site.revocations.revoke("person", "mei", STOLEN, "wu")
    assert other.sequence == 2


async def test_the_same_card_twice_in_one_request_is_one_entry(site):
    answer = await site.revocations.revoke_all(lost(7, 8, 7), "li")
    assert [(r.entry.sequence, r.new) for r in answer] == [(1, True), (2, True), (1, False)]


async def test_who_was_let_in_again_can_be_revoked_again(site):
    await site.revocations.revoke("card", card(1), LOST, "li")
    await site.revocations.revoke("person", "mei", LOST, "li")
    async with site.engine.begin() as connection:
        await connection.execute(
            insert(persons).values(id="mei", name="Mei", note="", cleared=1, revision=1)
        )
        await connection.execute(
            insert(cards).values(
                id=card(1),
                person="mei",
                state="active",
                note="",
                offline=False,
                slot=0,
                cleared=1,
                revision=1,
            )
        )
    assert (await site.revocations.revoke("card", card(1), LOST, "li")).sequence == 3
    assert (await site.revocations.revoke("person", "mei", LOST, "li")).sequence == 2
    async with site.engine.begin() as connection:
        await connection.execute(update(persons).values(cleared=2))
    assert (await site.revocations.revoke("person", "mei", LOST, "li")).sequence == 4


@pytest.mark.parametrize(
    ("kind", "subject"), [("card", "mei"), ("person", "Mei!"), ("key-version", "front/0")]
)
async def test_a_subject_of_another_kind_is_refused_before_anything_is_written(site, kind, subject):
    with pytest.raises(ValueError, match="does not name"):
        await site.revocations.revoke(kind, subject, LOST, "li")
    assert site.revocations.head == LogHead()


async def test_what_comes_while_a_message_is_on_its_way_shares_the_next_one(site):
    site.broker.open.clear()
    await site.revocations.revoke("card", card(1), LOST, "li")
    await site.broker.until(1)
    await asyncio.gather(
        *(site.revocations.revoke("card", card(n), LOST, "li") for n in range(2, 30))
    )
    site.broker.open.set()
    messages = await site.broker.until(2)
    assert len(messages) == 2
    follower = Follower(site)
    for _, payload, _ in messages:
        follower.take(payload)
    assert follower.head == site.revocations.head
    assert len(follower.denied) == 29


async def test_many_go_out_in_messages_that_agents_accept(site):
    await site.revocations.revoke_all(lost(*range(1, MAX_ENTRIES * 2 + 11)), "li")
    messages = await site.broker.until(3)
    follower = Follower(site)
    for _, payload, _ in messages:
        follower.take(payload)
    assert follower.head == site.revocations.head


async def test_a_revocation_without_a_broker_is_durable_and_can_be_pulled(site):
    site.broker.away = True
    await site.revocations.revoke("card", card(1), LOST, "li")
    follower = Follower(site)
    await follower.pull()
    assert follower.head == site.revocations.head
    assert site.broker.messages == []


async def test_the_log_goes_on_after_a_restart(site):
    await site.revocations.revoke_all(lost(1, 2), "li")
    head = site.revocations.head
    again = await site.restarted()
    assert again.revocations.head == head
    async with running(again.revocations.run):
        entry = await again.revocations.revoke("card", card(3), LOST, "li")
        assert entry.sequence == 3
        ((_, payload, _),) = await again.broker.until(1)
    follower = Follower(site)
    with pytest.raises(BrokenLog):
        follower.take(payload)
    await follower.pull()
    follower.take(payload)
    assert follower.head == again.revocations.head


async def test_a_failed_write_tells_whoever_asked_and_the_next_one_goes_on(site):
    await site.revocations.revoke("card", card(1), LOST, "li")
    async with site.engine.begin() as connection:  # what a restored database would collide with
        await connection.execute(
            insert(table).values(
                sequence=2, kind="card", subject=card(9), reason="lost", time_us=1, hash="0" * 64
            )
        )
    with pytest.raises(Exception, match="UNIQUE"):
        await site.revocations.revoke("card", card(2), LOST, "li")
    assert site.revocations.head.sequence == 1
    async with site.engine.begin() as connection:
        await connection.execute(delete(table).where(table.c.sequence == 2))
    assert (await site.revocations.revoke("card", card(2), LOST, "li")).sequence == 2
    assert [n.data["subject"] for n in await site.announcements()] == [card(1), card(2)]


async def test_a_write_that_happened_though_it_failed_is_not_written_again(site):
    log = site.revocations
    log._engine = Forgetful(site.engine)
    with pytest.raises(OSError, match="lost"):
        await log.revoke("card", card(1), LOST, "li")
    log._engine = site.engine
    assert (await log.revoke("card", card(1), LOST, "li")).sequence == 1
    assert (await log.revoke("card", card(2), LOST, "li")).sequence == 2
    follower = Follower(site)
    await follower.pull()
    assert follower.head == log.head


async def test_whoever_is_far_behind_gets_a_snapshot(site, monkeypatch):
    monkeypatch.setattr("server.distribution.revocations.MAX_MESSAGES", 1)
    await site.revocations.revoke_all(lost(*range(MAX_ENTRIES + 1)), "li")
    assert await site.revocations.after(0) is None
    assert len(await site.revocations.after(1)) == 1
    follower = Follower(site)
    await follower.pull()
    assert follower.head == site.revocations.head
    assert len(follower.denied) == MAX_ENTRIES + 1


async def test_a_log_with_a_hole_still_denies_whom_it_names(site):
    await site.revocations.revoke_all(lost(1, 2, 3), "li")
    async with site.engine.begin() as connection:
        await connection.execute(delete(table).where(table.c.sequence == 2))
    follower = Follower(site)
    await follower.pull()
    assert follower.head == site.revocations.head
    assert {subject for _, subject in follower.denied} == {card(1), card(3)}


async def test_the_same_range_is_signed_once(site):
    await site.revocations.revoke_all(lost(1, 2), "li")
    (once,) = await site.revocations.after(0)
    (again,) = await site.revocations.after(0)
    assert once is again
    await site.revocations.revoke("card", card(3), LOST, "li")
    (more,) = await site.revocations.after(0)
    assert more != once


async def test_chunks_of_a_snapshot_can_be_asked_for_while_a_newer_one_is_made(site):
    await site.revocations.revoke("card", card(1), LOST, "li")
    await site.revocations.snapshot()
    await site.revocations.revoke("card", card(2), LOST, "li")
    same, _ = await site.revocations.snapshot()
    newer, _ = await site.revocations.snapshot(above=1)
    assert newer != same
    await site.revocations.revoke_all(lost(*range(3, 4 + MAX_ENTRIES)), "li")
    far, many = await site.revocations.snapshot()
    assert far not in (same, newer)
    assert sum(len(read_denied(body)) for body in many.values()) == MAX_ENTRIES + 3
    assert (await site.revocations.snapshot())[0] == far
    ((digest, body),) = (await site.revocations.snapshot(above=1))[1].items()
    assert site.revocations.chunk(digest) == body
    assert site.revocations.chunk("0" * 64) is None


def test_a_snapshot_is_cut_into_chunks_that_a_new_denial_changes_only_at_the_end():
    denied = [
        Denied(kind="person", subject="p" * 60, sequence=n, reason=STOLEN) for n in range(1, 2001)
    ]
    chunks = cut(denied)
    assert len(chunks) > 2
    assert all(len(chunk) <= MAX_CHUNK_BYTES for chunk in chunks)
    assert [d for chunk in chunks for d in read_denied(chunk)] == denied
    assert cut(denied[:-1])[:-1] == chunks[:-1]
    assert cut([]) == []


async def until_heard(site: Orders) -> None:
    """The log's writer has looked at what was reported: it does so between two orders."""
    for _ in range(2):
        await site.revocations.revoke("person", "nobody", LOST, "li")


async def restored(site: Orders, lose: int) -> Orders:
    """The server again, over a database that lacks the last entries."""
    last = site.revocations.head.sequence
    async with site.engine.begin() as connection:
        await connection.execute(delete(table).where(table.c.sequence > last - lose))
    return await site.restarted()


async def test_after_a_restored_backup_the_log_goes_on_above_what_agents_hold(site):
    await site.revocations.revoke_all(lost(1, 2, 3), "li")
    ahead, behind = Follower(site, "ahead"), Follower(site, "behind")
    await ahead.pull()
    again = await restored(site, lose=2)
    ahead.site = behind.site = again
    await behind.pull()
    async with running(again.revocations.run):
        again.revocations.reported("ahead", ahead.head)
        await until_heard(again)
        again.revocations.reported("behind", behind.head)
        await until_heard(again)
        assert again.revocations.head.sequence > 3 + MARGIN - 1
        (alarm,) = again.alarms
        assert (alarm.kind, alarm.agent) == ("revocation_log_behind", "ahead")
        await again.revocations.revoke("card", card(4), LOST, "li")
        await ahead.pull()
        await behind.pull()
    assert ahead.head == behind.head == again.revocations.head
    assert {s for _, s in ahead.denied} == {card(1), card(2), card(3), card(4), "nobody"}
    assert {s for _, s in behind.denied} == {card(1), card(4), "nobody"}
    third = await again.restarted()
    assert third.revocations.head == again.revocations.head
    assert await third.revocations.after(1) is None


async def test_an_agent_that_holds_another_entry_under_a_number_gets_a_snapshot(site):
    await site.revocations.revoke_all(lost(1, 2), "li")
    other = Follower(site, "other")
    await other.pull()
    again = await restored(site, lose=1)
    other.site = again
    async with running(again.revocations.run):
        await again.revocations.revoke_all(lost(5, 6, 7), "li")
        again.revocations.reported("other", other.head)
        again.revocations.reported("fine", LogHead())
        await until_heard(again)
        await other.pull()
        assert other.head == again.revocations.head
        assert [a.agent for a in again.alarms] == ["other"]
        again.revocations.reported("other", other.head)
        await again.revocations.revoke("card", card(8), LOST, "li")
        assert len(await again.revocations.after(other.head.sequence, "other")) == 1


async def test_who_makes_up_a_log_moves_it_once_a_minute_and_never_beyond_what_agents_follow(site):
    await site.revocations.revoke("card", card(1), LOST, "li")
    made_up = LogHead(sequence=50, hash="ab" * 32)
    site.revocations.reported("liar", made_up)
    await until_heard(site)
    base = site.revocations.head.sequence
    assert base >= 50 + MARGIN
    site.revocations.reported("liar", LogHead(sequence=base + 5000, hash="ab" * 32))
    await until_heard(site)
    assert site.revocations.head.sequence < base + 5000
    site.clock.pass_time(BASE_INTERVAL_S + 1)
    site.revocations.reported("liar", LogHead(sequence=MAX_SKIPPED * 2, hash="ab" * 32))
    await until_heard(site)
    assert site.revocations.head.sequence < MAX_SKIPPED
    assert "a new key" in site.alarms[-1].detail


async def test_a_revocation_that_nobody_waits_for_any_more_stands_all_the_same(site):
    asking = asyncio.create_task(site.revocations.revoke("card", card(1), LOST, "li"))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await site.revocations.revoke("card", card(1), LOST, "li")).sequence == 1
    assert site.revocations.head.sequence == 1


async def test_nobody_waits_for_a_writer_that_has_ended(tmp_path):
    async with orders(tmp_path) as site:
        asking = asyncio.create_task(site.revocations.revoke("card", card(1), LOST, "li"))
        await asyncio.sleep(0)
        writer = asyncio.create_task(site.revocations.run())
        await asyncio.sleep(0)
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        with pytest.raises(Stopped):
            await asking
        async with asyncio.timeout(20):
            with pytest.raises(Stopped):
                await site.revocations.revoke("card", card(1), LOST, "li")
