"""Lockdowns: nothing but a person ends one, and every door can tell whether it has the newest."""

from __future__ import annotations

import pytest

from edge_agent.core.trusted_state import TrustedState, after_heartbeat, after_lockdowns
from schemas.heartbeat import Heartbeat
from schemas.lockdown import Lockdowns
from schemas.versions import LogHead
from server.clock import microseconds
from server.distribution.lockdowns import LockdownExists, NoSuchLockdown, TooManyLockdowns
from tests.orders_rig import MOMENT, SITE, Forgetful, Orders, orders
from tests.site_keys import SiteKeys

AGENT = "front-agent"


@pytest.fixture
async def site(tmp_path):
    async with orders(tmp_path) as made:
        yield made


def held(site: Orders, state: TrustedState | None = None) -> TrustedState:
    """What an agent holds after the newest message to all."""
    before = state or TrustedState.pinned(site.keys.root)
    return after_lockdowns(before, site.payloads("all/lockdown")[-1], AGENT, site.clock.now())


def ids(state: TrustedState) -> list[str]:
    assert isinstance(state.lockdowns, Lockdowns)
    return [each.id for each in state.lockdowns.active]


async def test_a_lockdown_is_announced_and_retained_for_every_agent(site):
    began = await site.lockdowns.start("area", "lab", ["guards"], "mei")
    ((topic, _, retain),) = site.broker.messages
    assert (topic, retain) == (f"ostiary/{SITE}/all/lockdown", True)
    state = held(site)
    assert state.lockdowns.active == (began,)
    assert (began.scope, began.name, began.exempt) == ("area", "lab", ("guards",))
    (news,) = await site.announcements()
    assert (news.name, news.subject) == ("lockdown.started", f"lockdowns/{began.id}")
    assert news.data["by"] == "mei"
    assert news.data["counter"] == site.lockdowns.counter == 1


async def test_ending_one_leaves_the_others(site):
    first = await site.lockdowns.start("site", SITE, [], "mei")
    second = await site.lockdowns.start("door", "front", [], "li")
    state = held(site)
    await site.lockdowns.end(first.id, "wu")
    assert ids(held(site, state)) == [second.id]
    names = [n.name for n in await site.announcements()]
    assert names == ["lockdown.started", "lockdown.started", "lockdown.ended"]
    with pytest.raises(NoSuchLockdown):
        await site.lockdowns.end(first.id, "wu")


async def test_a_lockdown_survives_a_restart_with_the_very_bytes_that_went_out(site):
    began = await site.lockdowns.start("site", SITE, [], "mei")
    again = await site.restarted()
    assert again.lockdowns.active == (began,)
    assert (again.lockdowns.counter, again.lockdowns.envelope) == (1, site.lockdowns.envelope)
    await again.lockdowns.republish()
    assert again.broker.messages == site.broker.messages


async def test_before_the_first_lockdown_there_is_nothing_to_publish(site):
    await site.lockdowns.republish()
    assert site.broker.messages == []
    assert site.lockdowns.counter == 0
    assert await site.lockdowns.end_all("mei") == ()
    assert site.broker.messages == []


async def test_a_new_online_key_signs_the_lockdowns_anew_under_a_higher_counter(site):
    began = await site.lockdowns.start("site", SITE, [], "mei")
    keys = SiteKeys(signers={r: s for r, s in site.keys.signers.items() if r != "online"})
    again = Orders(site.engine, site.executor, keys, site.clock)
    await again.load()
    await again.lockdowns.republish()
    assert again.lockdowns.counter == 2
    assert ids(held(again)) == [began.id]
    assert [n.name for n in await site.announcements()] == ["lockdown.started"]


async def test_a_lockdown_without_a_broker_is_in_force_when_it_is_back(site):
    site.broker.away = True
    began = await site.lockdowns.start("site", SITE, [], "mei")
    site.broker.away = False
    await site.lockdowns.republish()
    assert ids(held(site)) == [began.id]


async def test_an_id_is_used_once(site):
    await site.lockdowns.start("site", SITE, [], "mei", id="fire")
    with pytest.raises(LockdownExists):
        await site.lockdowns.start("site", SITE, [], "mei", id="fire")
    await site.lockdowns.end("fire", "mei")
    with pytest.raises(LockdownExists):
        await site.lockdowns.start("site", SITE, [], "mei", id="fire")


async def test_what_one_statement_cannot_hold_is_refused(site, monkeypatch):
    monkeypatch.setattr("server.distribution.lockdowns.MOST", 1)
    await site.lockdowns.start("site", SITE, [], "mei")
    with pytest.raises(TooManyLockdowns):
        await site.lockdowns.start("site", SITE, [], "mei")


def heartbeat(site: Orders, lockdown: int) -> bytes:
    now = site.clock.now()
    return site.keys.sign(
        Heartbeat(
            site=SITE,
            audience=AGENT,
            issued=now,
            counter=microseconds(now),
            root=1,
            policy=None,
            revocation=LogHead(),
            lockdown=lockdown,
        )
    )


async def test_a_restored_backup_ends_no_lockdown_and_ages_no_door(site):
    empty = await site.restarted()  # as if from before the lockdown
    await site.lockdowns.start("site", SITE, [], "mei")
    state = held(site)
    state = after_heartbeat(state, heartbeat(site, site.lockdowns.counter), AGENT, MOMENT)
    empty.lockdowns.reported(AGENT, 1)
    empty.lockdowns.reported(AGENT, 1)
    (alarm,) = empty.alarms
    assert (alarm.kind, alarm.agent) == ("state_behind", AGENT)
    assert empty.broker.messages == []
    site.clock.pass_time(30)
    fresh = heartbeat(site, empty.lockdowns.named(AGENT))
    state = after_heartbeat(state, fresh, AGENT, site.clock.now())
    assert empty.lockdowns.named("another") == 0
    async with site.engine.begin() as connection:  # what the restored database does not have
        await connection.exec_driver_sql("delete from lockdowns")
        await connection.exec_driver_sql("delete from lockdown_statements")
    await empty.lockdowns.end_all("mei")
    assert empty.lockdowns.counter == 2
    assert ids(held(empty, state)) == []
    empty.lockdowns.reported(AGENT, 2)
    assert empty.lockdowns.named(AGENT) == 2


async def test_a_counter_that_an_agent_makes_up_moves_nothing(site):
    site.lockdowns.reported("liar", 2**62)
    assert site.lockdowns.named("liar") == 0
    await site.lockdowns.start("site", SITE, [], "mei")
    assert site.lockdowns.counter == 1


async def test_a_change_that_failed_leaves_what_the_database_says(site):
    began = await site.lockdowns.start("site", SITE, [], "mei")
    async with site.engine.begin() as connection:  # the next statement collides
        await connection.exec_driver_sql("insert into lockdown_statements values (2, x'00')")
    with pytest.raises(Exception, match="UNIQUE"):
        await site.lockdowns.end(began.id, "mei")
    assert site.lockdowns.active == (began,)
    async with site.engine.begin() as connection:
        await connection.exec_driver_sql("delete from lockdown_statements where counter = 2")
    await site.lockdowns.end(began.id, "mei")
    assert site.lockdowns.active == ()
    assert site.lockdowns.counter == 2


async def test_a_change_that_happened_though_it_failed_is_known_at_the_next(site):
    site.lockdowns._engine = Forgetful(site.engine)
    with pytest.raises(OSError, match="lost"):
        await site.lockdowns.start("site", SITE, [], "mei", id="fire")
    site.lockdowns._engine = site.engine
    assert (await site.lockdowns.end("fire", "mei")).id == "fire"
    assert site.lockdowns.counter == 2
