"""What doors say of cards is taken as far as an operator's window allows it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update

from server.distribution.windows import standing
from server.ingest.verify import AlarmKind
from server.model.bindings import EVERYWHERE, end, unbind
from server.model.revisions import next_revision
from server.store.model_tables import bindings, persons, touched
from server.store.transport_tables import transport_keys
from server.store.windows import note_given
from tests.transport_rig import CARD, DOMAIN, MOMENT, OTHER, WINDOW, event, transport_desk


@pytest.fixture
async def desk(tmp_path):
    async with transport_desk(tmp_path / "site") as opened:
        await opened.transport.take_list({CARD: b"k" * 16}, "test")
        await opened.window()
        await given(opened, CARD)
        yield opened


async def given(desk, card, command=WINDOW):
    async with desk.engine.begin() as connection:
        await desk.transport.give(connection, card)
        await note_given(connection, command, card)


async def touched_agents(desk):
    async with desk.engine.begin() as connection:
        found = set(await connection.scalars(select(touched.c.agent)))
        await connection.execute(delete(touched))
    return found


async def refused(desk, *events, **more):
    """Not believed: an alarm, and nothing that follows."""
    before = await desk.bound(), await desk.owner(CARD)
    taken = await desk.says(*events, **more)
    assert [each.kind for each in taken.alarms] == [AlarmKind.BINDING_REFUSED]
    assert not taken.policies
    assert (await desk.bound(), await desk.owner(CARD)) == before
    return taken.alarms[0].detail


async def test_a_new_card_becomes_that_of_the_person_whom_the_operator_named(desk):
    taken = await desk.says(event(person="mallory"))
    assert (taken.alarms, taken.policies, taken.announced) == ([], True, True)
    assert await desk.owner(CARD) == "mei"
    assert await desk.bound() == [(CARD, DOMAIN, 1)]
    (changed,) = await desk.told("model.changed")
    assert changed == {"by": "olga", "kind": "card", "id": CARD, "action": "created"}
    window = await desk.stands()
    assert (window.state, window.came, window.news) == ("bound", CARD, 1)
    assert await touched_agents(desk) == {"front-agent"}


async def test_the_key_it_was_bound_with_is_kept(desk):
    await desk.says(event())
    async with desk.engine.connect() as connection:
        query = select(transport_keys.c.kept).where(transport_keys.c.card == CARD)
        assert await connection.scalar(query)


async def test_the_persons_own_card_is_bound_and_not_made_anew(desk):
    await desk.card(CARD, "mei")
    taken = await desk.says(event())
    assert (taken.policies, taken.announced) == (True, False)
    assert await desk.bound() == [(CARD, DOMAIN, 1)]


async def test_another_persons_card_is_an_alarm(desk):
    await desk.card(CARD, "bo")
    assert "is bo's" in await refused(desk, event())


async def test_a_person_who_is_gone_gets_no_card(desk):
    async with desk.engine.begin() as connection:
        await connection.execute(delete(persons).where(persons.c.id == "mei"))
    assert "not there any more" in await refused(desk, event())


async def test_a_window_that_no_operator_opened_binds_nothing(desk):
    assert "opened no window" in await refused(desk, event(command="bb" * 8))


async def test_another_agents_window_binds_nothing(desk):
    assert "is of agent front-agent" in await refused(desk, event(), agent="back-agent")


async def test_another_domain_than_the_windows_door_has_is_refused(desk):
    assert "not zone-b" in await refused(desk, event(domain="zone-b"))


async def test_a_card_whose_key_was_not_given_there_is_refused(desk):
    assert "was not given" in await refused(desk, event(card=OTHER))


async def test_a_window_binds_one_card(desk):
    await desk.says(event())
    await given(desk, OTHER)
    assert "bound already" in await refused(desk, event(card=OTHER))


async def test_a_window_to_unbind_binds_nothing(desk):
    await desk.window("bb" * 8, kind="unbind", card=CARD)
    await given(desk, CARD, "bb" * 8)
    assert "is not to bind" in await refused(desk, event(command="bb" * 8))


async def test_what_the_door_refused_was_never_open(desk):
    refusal = {"action": "binding-window", "reason": "Busy", "detail": "a card is there"}
    await desk.says(event("command.refused", **refusal))
    window = await desk.stands()
    assert (window.state, window.outcome, window.detail) == ("refused", "Busy", "a card is there")
    assert "was refused" in await refused(desk, event())


async def test_a_refusal_by_another_agent_is_none(desk):
    refusal = {"action": "binding-window", "reason": "Busy", "detail": ""}
    await desk.says(event("command.refused", **refusal), agent="back-agent")
    assert (await desk.stands()).state == "open"


async def test_a_card_that_was_refused_leaves_the_window_open_until_nobody_comes(desk):
    def ended(outcome, card):
        person = {"person": "mei", "detail": "why"}
        return event("card.not_bound", outcome=outcome, card=card, **person)

    await desk.says(ended("unknown_key", OTHER))
    window = await desk.stands()
    assert (window.state, window.outcome, window.came) == ("open", "unknown_key", OTHER)
    assert standing(window, MOMENT + timedelta(seconds=69)) == "open"
    assert standing(window, MOMENT + timedelta(seconds=70)) == "not_bound"
    await desk.says(ended("nobody_came", None))
    window = await desk.stands()
    assert (window.state, window.outcome, window.news) == ("not_bound", "nobody_came", 2)
    await desk.says(ended("replaced", None))
    assert (await desk.stands()).outcome == "nobody_came"


async def test_a_window_of_which_nothing_is_heard_ends(desk):
    assert standing(await desk.stands(), MOMENT + timedelta(seconds=70)) == "ended"


async def unbinding(desk):
    await desk.says(event())
    await touched_agents(desk)
    await desk.window("bb" * 8, kind="unbind", card=CARD)
    return event("card.unbound", command="bb" * 8, at=MOMENT + timedelta(seconds=1))


async def test_an_unbound_card_is_bound_no_more_and_the_policy_changes(desk):
    said = await unbinding(desk)
    taken = await desk.says(said)
    assert (taken.policies, taken.alarms, await desk.bound()) == (True, [], [])
    assert (await desk.stands("bb" * 8)).state == "unbound"
    assert await desk.owner(CARD) == "mei"
    assert await touched_agents(desk) == {"front-agent"}


@pytest.mark.parametrize(
    "changes",
    [{"command": None}, {"command": WINDOW}, {"card": OTHER}, {"domain": "zone-b"}],
)
async def test_only_a_window_for_this_card_unbinds_it(desk, changes):
    await unbinding(desk)
    await refused(desk, event("card.unbound", **({"command": "bb" * 8} | changes)))
    assert await desk.bound() == [(CARD, DOMAIN, 1)]


async def test_an_unbound_card_is_unbound_whatever_the_locks_clock_says(desk):
    await unbinding(desk)
    said = event("card.unbound", command="bb" * 8, at=MOMENT - timedelta(minutes=4))
    assert (await desk.says(said)).policies
    assert await desk.bound() == []


async def test_a_new_key_version_changes_no_policy(desk):
    await desk.says(event())
    await touched_agents(desk)
    desk.clock.at += timedelta(seconds=1)
    versions = {"from_version": 1, "key_version": 2, "command": None}
    taken = await desk.says(event("card.rekeyed", at=MOMENT + timedelta(seconds=1), **versions))
    assert not taken.policies
    assert await desk.bound() == [(CARD, DOMAIN, 2)]
    assert await touched_agents(desk) == set()


async def test_another_agent_says_nothing_of_key_versions(desk):
    await desk.says(event())
    versions = {"from_version": 1, "key_version": 2, "command": None}
    said = event("card.rekeyed", at=MOMENT + timedelta(seconds=1), **versions)
    assert "no door" in await refused(desk, said, agent="back-agent")
    assert await desk.bound() == [(CARD, DOMAIN, 1)]


async def test_a_commit_that_failed_leaves_nothing_to_be_told(desk):
    class Failed(Exception):
        pass

    from types import SimpleNamespace

    from server.model.bound import Bound

    projection = Bound(desk.clock)
    rows = [SimpleNamespace(source="front-agent", link=SimpleNamespace(event=event()))]

    async def attempt():
        async with desk.engine.begin() as connection:
            await next_revision(connection)  # a write, as that of the event
            await projection.project(connection, rows)
            raise Failed

    with pytest.raises(Failed):
        await attempt()
    assert await desk.bound() == []
    async with desk.engine.begin() as connection:
        await projection.project(connection, [])
    taken = projection.taken()
    assert (taken.policies, taken.alarms) == (False, [])


async def test_what_the_lock_bound_by_a_list_of_its_own_needs_no_window(desk):
    taken = await desk.says(event(command=None, transport="desk"))
    assert taken.alarms == []
    assert await desk.bound() == [(CARD, DOMAIN, 1)]
    assert await desk.owner(CARD) is None
    async with desk.engine.begin() as connection:
        await connection.execute(update(bindings).values(time_us=0))
    assert (await desk.says(event())).policies
    assert await desk.owner(CARD) == "mei"


async def ended(desk, domain=DOMAIN):
    """An operator ends the binding, or deletes the card."""
    async with desk.engine.begin() as connection:
        if domain == DOMAIN:
            await unbind(connection, CARD, DOMAIN, await next_revision(connection))
        else:
            await end(connection, [CARD], domain, await next_revision(connection))


@pytest.mark.parametrize("domain", [DOMAIN, EVERYWHERE])
async def test_late_news_of_a_window_brings_back_nothing_that_was_ended_since(desk, domain):
    await ended(desk, domain)
    said = event(at=MOMENT + timedelta(days=1))  # no clock decides
    assert "an operator ended the binding" in await refused(desk, said)
    assert await desk.owner(CARD) is None
    window = await desk.stands()
    assert (window.state, window.outcome, window.came) == ("not_bound", "binding_ended", CARD)
    async with desk.engine.connect() as connection:
        assert await connection.scalar(select(transport_keys.c.kept))  # the card has keys now


@pytest.mark.parametrize("domain", [DOMAIN, EVERYWHERE])
async def test_a_card_whose_binding_was_ended_is_bound_anew_in_a_new_window(desk, domain):
    await desk.says(event())
    await ended(desk, domain)
    await desk.window("bb" * 8)
    await given(desk, CARD, "bb" * 8)
    said = event(command="bb" * 8, at=MOMENT - timedelta(days=1))
    assert (await desk.says(said)).alarms == []
    assert await desk.bound() == [(CARD, DOMAIN, 1)]
    assert (await desk.stands("bb" * 8)).state == "bound"


async def test_the_end_of_a_binding_in_another_domain_ends_nothing_here(desk):
    await ended(desk, "zone-b")
    assert (await desk.says(event())).policies


async def test_late_news_of_a_card_that_was_erased_since_does_not_bind_it(desk):
    await desk.says(await unbinding(desk))
    assert await desk.bound() == []
    assert "an operator ended the binding" in await refused(desk, event())


async def test_late_news_of_an_erasing_lets_nothing_back_that_was_ended_after_it(desk):
    """Bound, erased at one lock, bound at another, ended; then the two locks say so, late."""
    erased = await unbinding(desk)
    await desk.window("cc" * 8)
    await given(desk, CARD, "cc" * 8)
    await ended(desk)
    assert (await desk.says(erased)).alarms == []
    assert "an operator ended the binding" in await refused(desk, event(command="cc" * 8))
    assert await desk.bound() == []


async def test_late_news_of_an_erasing_leaves_what_was_bound_after_it(desk):
    erased = await unbinding(desk)
    await desk.window("cc" * 8)
    await given(desk, CARD, "cc" * 8)
    assert (await desk.says(event(command="cc" * 8))).alarms == []
    assert not (await desk.says(erased)).policies
    assert await desk.bound() == [(CARD, DOMAIN, 1)]


async def test_a_window_to_unbind_unbinds_once(desk):
    erased = await unbinding(desk)
    await desk.says(erased)
    await desk.window("cc" * 8)
    await given(desk, CARD, "cc" * 8)
    await desk.says(event(command="cc" * 8))
    assert "unbound already" in await refused(desk, erased)


async def test_what_a_lock_bound_by_a_list_of_its_own_does_not_undo_an_operators_end(desk):
    by_list = event(command=None, transport="desk", at=MOMENT + timedelta(days=1))
    await ended(desk)
    assert "it needs a window" in await refused(desk, by_list)
    await desk.window("bb" * 8)
    await given(desk, CARD, "bb" * 8)
    await desk.says(event(command="bb" * 8))
    assert (await desk.says(by_list)).alarms == []  # it is bound, and that is no more than true
