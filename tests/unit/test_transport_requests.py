"""Agents ask for transport keys: answered for a window the server recorded, and for no other."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest
from sqlalchemy import event as sqla_event
from sqlalchemy import insert

from schemas.errors import BadSignature
from schemas.esam_issue import lent
from schemas.keys import Item
from schemas.transport import TransportRefusal, TransportSource
from server.clock import microseconds
from server.distribution.transport_requests import BURST, MOST_CARDS
from server.ingest.verify import AlarmKind
from server.model.revisions import next_revision
from server.store.distribution_tables import revocations
from server.store.rotations import Versions, put_versions
from server.store.windows import tell_window
from tests.esam_desk import EsamDesk
from tests.key_rig import AGENT
from tests.transport_rig import CARD, DOMAIN, MOMENT, OTHER, WINDOW, event, transport_desk

KEY = b"k" * 16


@pytest.fixture(params=["intl"])
async def desk(request, tmp_path):
    async with transport_desk(tmp_path / "site", request.param) as opened:
        await opened.transport.take_list({CARD: KEY}, "test")
        await opened.window()
        yield opened


async def ask(desk, requests, card=CARD, agent=AGENT, **changes):
    return await desk.answer(requests, desk.question(card, **changes), agent)


@pytest.mark.parametrize("desk", ["gm", "intl"], indirect=True)
async def test_a_key_is_sealed_to_the_one_question_and_told_of_first(desk):
    async with desk.serving() as requests:
        question = desk.question()
        answer = await desk.answer(requests, question)
    assert (answer.refusal, answer.source, answer.loan) == (None, TransportSource.LIST, None)
    assert desk.opened(question, answer) == KEY
    with pytest.raises(BadSignature):
        desk.opened(desk.question(), answer)
    assert await desk.told("keys.transport_given") == [
        {
            "by": f"agent {AGENT}",
            "agent": AGENT,
            "card": CARD,
            "command": WINDOW,
            "source": "list",
            "lent_to": None,
        }
    ]
    assert desk.alarms == []


async def refused(desk, refusal, *, alarm=False, **question):
    """It is refused so, and nothing of it is told as given."""
    before = len(await desk.told("keys.transport_given"))
    agent = question.pop("agent", AGENT)
    async with desk.serving() as requests:
        answer = await ask(desk, requests, agent=agent, **question)
    assert (answer.refusal, answer.sealed, answer.loan) == (refusal, None, None)
    assert len(await desk.told("keys.transport_given")) == before
    assert [each.kind for each in desk.alarms] == [AlarmKind.KEY_REFUSED] * alarm


async def test_a_window_that_no_operator_opened_is_an_alarm(desk):
    await refused(desk, TransportRefusal.WINDOW_CLOSED, command="bb" * 8, alarm=True)


async def test_another_agents_window_is_an_alarm(desk):
    await refused(desk, TransportRefusal.WINDOW_CLOSED, agent="back-agent", alarm=True)


@pytest.mark.parametrize("state", ["bound", "not_bound", "ended", "refused"])
async def test_a_window_that_was_used_up_is_closed(desk, state):
    async with desk.engine.begin() as connection:
        await tell_window(connection, WINDOW, state, None, "", None)
    await refused(desk, TransportRefusal.WINDOW_CLOSED)


async def test_a_window_is_over_a_little_after_its_end(desk):
    desk.clock.at = MOMENT + timedelta(seconds=69)
    async with desk.serving() as requests:
        assert (await ask(desk, requests)).refusal is None
    desk.clock.at = MOMENT + timedelta(seconds=70)
    await refused(desk, TransportRefusal.WINDOW_CLOSED)


async def test_a_card_whose_key_is_not_known_is_refused(desk):
    await refused(desk, TransportRefusal.UNKNOWN_KEY, card=OTHER)


async def test_another_persons_card_is_refused(desk):
    await desk.card(CARD, "bo")
    await refused(desk, TransportRefusal.OTHER_PERSON)


async def test_the_persons_own_card_is_given(desk):
    await desk.card(CARD, "mei")
    async with desk.serving() as requests:
        assert (await ask(desk, requests)).refusal is None


@pytest.mark.parametrize("state", ["suspended", "lost", "stolen", "damaged", "revoked"])
async def test_a_card_that_is_not_active_is_refused(desk, state):
    await desk.card(CARD, "mei", state)
    await refused(desk, TransportRefusal.CARD_NOT_ACTIVE)


async def test_a_card_that_was_revoked_before_anybody_knew_it_is_refused(desk):
    async with desk.engine.begin() as connection:
        await connection.execute(
            insert(revocations).values(
                sequence=1,
                kind="card",
                subject=CARD,
                reason="lost",
                time_us=microseconds(MOMENT),
                hash="00" * 32,
            )
        )
    await refused(desk, TransportRefusal.CARD_NOT_ACTIVE)


async def test_a_window_for_one_card_is_for_no_other(desk):
    await desk.window("bb" * 8, card=OTHER)
    await refused(desk, TransportRefusal.OTHER_CARD, command="bb" * 8)


async def test_a_lost_card_that_was_found_can_be_unbound(desk):
    await desk.card(CARD, "bo", "lost")
    await desk.window("bb" * 8, kind="unbind", card=CARD)
    async with desk.serving() as requests:
        assert (await ask(desk, requests, command="bb" * 8)).refusal is None


async def test_a_window_is_for_few_cards_and_each_may_ask_again(desk):
    await desk.transport.take_list({f"{n:016x}": KEY for n in range(20)}, "test")
    async with desk.serving() as requests:
        for n in range(MOST_CARDS):
            assert (await ask(desk, requests, f"{n:016x}")).refusal is None
            assert (await ask(desk, requests, f"{n:016x}")).refusal is None
        more = await ask(desk, requests, f"{MOST_CARDS:016x}")
        assert more.refusal is TransportRefusal.WINDOW_CLOSED
        assert (await ask(desk, requests, f"{0:016x}")).refusal is None
    assert [each.kind for each in desk.alarms] == [AlarmKind.KEY_REFUSED]


async def test_a_question_that_comes_again_is_an_alarm_and_not_answered(desk):
    question = desk.question()
    async with desk.serving() as requests:
        await desk.answer(requests, question)
        requests.asked(AGENT, question.request)
        assert [each.kind for each in desk.alarms] == [AlarmKind.REPLAYED]
        await ask(desk, requests)
    assert desk.sent.empty()


async def test_a_question_of_a_session_that_is_over_is_not_answered(desk):
    async with desk.serving() as requests:
        requests.asked(AGENT, desk.question(session="ff" * 8).request)
        await ask(desk, requests)
    assert desk.sent.empty()
    assert len(await desk.told("keys.transport_given")) == 1


async def test_who_asks_without_end_is_stopped(desk):
    requests = desk.requests()
    for _ in range(int(BURST) + 1):
        requests.asked(AGENT, desk.question().request)
    assert [each.kind for each in desk.alarms] == [AlarmKind.KEY_REFUSED]
    desk.clock.seconds += 2
    requests.asked(AGENT, desk.question().request)
    assert len(desk.alarms) == 1


async def test_of_a_windows_questions_the_newest_is_answered_and_other_windows_have_theirs(desk):
    await desk.window("bb" * 8, person="bo")
    requests = desk.requests()
    requests.asked(AGENT, desk.question().request)
    other = desk.question(command="bb" * 8)
    requests.asked(AGENT, other.request)
    newest = desk.question()
    requests.asked(AGENT, newest.request)
    task = asyncio.create_task(requests.run())
    sent = [(await desk.sent.get())[1] for _ in range(2)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert desk.sent.empty()
    assert len(sent) == 2


@pytest.mark.parametrize("point", ["04" + "00" * 64, "04" + "ff" * 64])
async def test_a_recipient_that_is_no_point_is_refused(desk, point):
    async with desk.serving() as requests:
        answer = await ask(desk, requests, recipient=point)
    assert answer.refusal is TransportRefusal.FAILED
    assert [each.kind for each in desk.alarms] == [AlarmKind.KEY_REFUSED]


async def test_a_database_that_fails_is_an_answer_too(desk):
    def fail(*_):
        raise OSError("the disk is full")

    async with desk.serving() as requests:
        sqla_event.listen(desk.engine.sync_engine, "commit", fail)
        answer = await ask(desk, requests)
        sqla_event.remove(desk.engine.sync_engine, "commit", fail)
        assert answer.refusal is TransportRefusal.FAILED
        assert (await ask(desk, requests)).refusal is None
    assert len(await desk.told("keys.transport_given")) == 1


async def test_a_broker_that_is_away_holds_up_nobody(desk):
    async with desk.serving() as requests:
        desk.connected = False
        requests.asked(AGENT, desk.question().request)
        await desk.unsent.wait()
        desk.connected = True
        assert (await ask(desk, requests)).refusal is None


async def test_a_stop_between_the_record_and_the_answer_is_asked_over_and_binds_one_card(desk):
    """What was recorded and not sent is asked for again; the card counts once in its window."""
    gone = asyncio.Event()

    async def publish(*_):
        gone.set()
        await asyncio.Event().wait()  # the process ends here

    requests = desk.requests()
    requests._publish = publish
    task = asyncio.create_task(requests.run())
    requests.asked(AGENT, desk.question().request)
    await gone.wait()
    task.cancel()
    await asyncio.wait([task])
    assert len(await desk.told("keys.transport_given")) == 1
    await desk.engine.dispose()
    async with transport_desk(desk.keys_desk.site.path) as again, again.serving() as requests:
        question = again.question()
        assert again.opened(question, await again.answer(requests, question)) == KEY
        assert len(await again.told("keys.transport_given")) == 2
        taken = await again.says(event())
        assert (taken.alarms, await again.owner(CARD)) == ([], "mei")


# Loans to an ESAM.


@pytest.fixture
async def esam(desk):
    """An ESAM that has version 1 of the domain at place 1, by packages of this authority."""
    keys = desk.keys_desk
    await keys.authority.create_domain(DOMAIN, "intl", "test")
    esam = EsamDesk("intl").issue()
    await keys.know(esam)
    assert await keys.write(esam, Item.KEYS, 1)
    return esam


def loan(chip, **changes):
    values = {
        "esam": chip.serial.hex(),
        "domain": DOMAIN,
        "index": 1,
        "version": 1,
        "challenge": chip.challenge().hex(),
    }
    return values | changes


async def test_an_esam_takes_what_it_is_lent_and_it_is_told_to_which(desk, esam):
    challenge = esam.challenge()
    async with desk.serving() as requests:
        answer = await ask(desk, requests, loan=loan(esam, challenge=challenge.hex()))
    data = bytes.fromhex(answer.loan)
    blocks = esam.control.open(challenge, bytes.fromhex("84d40201"), data)
    assert lent(blocks) == (bytes.fromhex(CARD), KEY)
    (given,) = await desk.told("keys.transport_given")
    assert given["lent_to"] == esam.serial.hex()


@pytest.mark.parametrize(
    "changes",
    [
        {"esam": "ff" * 8},
        {"domain": "zone-b"},
        {"index": 2},
        {"version": 2},
    ],
)
async def test_an_esam_is_lent_nothing_but_for_its_own_domain(desk, esam, changes):
    asked = loan(esam, **changes)
    await refused(desk, TransportRefusal.ESAM_REFUSED, loan=asked, alarm=True)


async def test_another_agents_esam_is_lent_nothing(desk, esam):
    await desk.keys_desk.know(esam, agent="back-agent")
    await refused(desk, TransportRefusal.ESAM_REFUSED, loan=loan(esam), alarm=True)


async def test_an_esam_that_was_withdrawn_is_lent_nothing(desk, esam):
    await desk.keys_desk.esams.withdraw(esam.serial.hex(), "test")
    await refused(desk, TransportRefusal.ESAM_REFUSED, loan=loan(esam), alarm=True)


async def test_a_version_below_the_floor_is_lent_nothing(desk, esam):
    await desk.keys_desk.authority.new_version(DOMAIN, "test")
    async with desk.engine.begin() as connection:
        await put_versions(connection, DOMAIN, Versions(preferred=2))
    await desk.keys_desk.authority.raise_floor(DOMAIN, 2, "test")
    await refused(desk, TransportRefusal.ESAM_REFUSED, loan=loan(esam), alarm=True)


async def test_while_the_home_of_the_keys_is_slow_others_write(desk, esam, monkeypatch):
    answers, asked, home = threading.Event(), asyncio.Event(), desk.keys_desk.homes.first
    loop, lend = asyncio.get_running_loop(), type(home).lend

    def slow(*args):
        loop.call_soon_threadsafe(asked.set)
        assert answers.wait(30)
        return lend(*args)

    monkeypatch.setattr(type(home), "lend", slow)
    master = b"m" * 16
    await desk.transport.take_root(TransportSource.DERIVED, master, "test", suite="intl")
    async with desk.serving() as requests:
        answering = asyncio.create_task(ask(desk, requests, OTHER, loan=loan(esam)))
        await asked.wait()
        try:
            async with desk.engine.begin() as connection:
                await next_revision(connection)
        finally:
            answers.set()
        assert (await answering).loan is not None
