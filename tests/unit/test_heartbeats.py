"""Heartbeats: never backwards, never without facts, never in a burst."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from edge_agent.core.trusted_state import TrustedState, after_heartbeat, lacks
from schemas.heartbeat import INTERVAL_S, Heartbeat
from schemas.versions import LogHead, Version
from server.clock import microseconds
from server.core.residual_risk import answered
from server.distribution.heartbeats import HEADS, RESERVED_US, Facts
from server.store.counters import reserve
from tests.orders_rig import MOMENT, Orders, orders, running

FACTS = Facts(3, Version(version=9, hash="ab" * 32), LogHead(sequence=4, hash="cd" * 32), 2)


@pytest.fixture
async def site(tmp_path):
    async with orders(tmp_path) as made:
        yield made


def opened(site: Orders, message: tuple[str, bytes, bool]) -> tuple[str, Heartbeat]:
    topic, payload, retain = message
    agent = topic.split("/")[3]
    assert retain
    assert topic.endswith(f"down/{agent}/heartbeat")
    state = after_heartbeat(TrustedState.pinned(site.keys.root), payload, agent, site.clock.now())
    assert state.heartbeat is not None
    return agent, state.heartbeat


async def test_a_heartbeat_names_the_newest_of_everything_to_one_agent(site):
    site.facts["front-agent"] = FACTS
    async with running(site.heartbeats.run):
        site.heartbeats.beat("front-agent")
        agent, said = opened(site, (await site.broker.until(1))[0])
    assert agent == said.audience == "front-agent"
    assert (said.root, said.policy, said.revocation, said.lockdown) == (
        FACTS.root,
        FACTS.policy,
        FACTS.revocation,
        FACTS.lockdown,
    )
    assert said.issued == MOMENT
    assert said.counter == microseconds(MOMENT)
    assert len(said.model_dump_json()) <= 512
    assert site.heartbeats.issued("front-agent") == [(FACTS.revocation.sequence, MOMENT)]


async def test_an_agent_that_follows_knows_what_it_lacks(site):
    site.facts["front-agent"] = FACTS
    async with running(site.heartbeats.run):
        site.heartbeats.beat("front-agent")
        _, payload, _ = (await site.broker.until(1))[0]
    state = after_heartbeat(
        TrustedState.pinned(site.keys.root), payload, "front-agent", site.clock.now()
    )
    lacking = lacks(state)
    assert (lacking.root_after, lacking.policy, lacking.revocation_after, lacking.lockdown) == (
        1,
        True,
        0,
        True,
    )


async def test_who_is_not_known_gets_none(site):
    site.facts["known"] = FACTS
    async with running(site.heartbeats.run):
        site.heartbeats.beat("unknown")
        site.heartbeats.beat("known")
        assert [opened(site, m)[0] for m in await site.broker.until(1)] == ["known"]
    assert site.heartbeats.issued("unknown") == []


async def test_counters_go_up_though_the_clock_stands_still_or_goes_back(site):
    site.facts = {f"agent-{n}": FACTS for n in range(5)}
    site.heartbeats._facts, site.heartbeats._agents = site.facts.get, site.facts.keys
    async with running(site.heartbeats.run):
        for agent in site.facts:
            site.heartbeats.beat(agent)
        await site.broker.until(5)
        site.clock.wall -= timedelta(hours=1)
        for agent in site.facts:
            site.heartbeats.beat(agent)
        messages = await site.broker.until(10)
    site.clock.wall = MOMENT
    counters = [opened(site, m)[1].counter for m in messages]
    assert counters == sorted(set(counters))


async def test_counters_go_up_over_restarts_and_do_not_run_away_from_the_clock(site):
    site.facts["front-agent"] = FACTS
    parts, counters = site, []
    for _ in range(20):
        parts.facts["front-agent"] = FACTS
        async with running(parts.heartbeats.run):
            parts.heartbeats.beat("front-agent")
            counters.append(opened(parts, (await parts.broker.until(1))[0])[1].counter)
        parts = await parts.restarted()
    assert counters == sorted(set(counters))
    assert counters[-1] < microseconds(MOMENT) + RESERVED_US + 20 * 1_000_000


async def test_after_a_restart_a_heartbeat_may_be_as_new_as_the_restart(site):
    site.facts["front-agent"] = FACTS
    assert site.heartbeats.issued("front-agent") == []
    async with running(site.heartbeats.run):
        site.heartbeats.beat("front-agent")
        await site.broker.until(1)
    again = await site.restarted()
    ((head, issued),) = again.heartbeats.issued("front-agent")
    assert head == 0, "what it named is not known any more"
    assert MOMENT <= issued <= MOMENT + timedelta(microseconds=RESERVED_US)


async def test_when_each_head_of_the_log_was_named_last_is_known_of_the_newest_and_bounded(site):
    times, count = {}, 0
    async with running(site.heartbeats.run):
        for head in [*range(1, HEADS + 4), HEADS + 3]:
            site.clock.wall += timedelta(seconds=1)
            times[head] = site.clock.wall
            named = LogHead(sequence=head, hash="ab" * 32)
            site.facts["front-agent"] = replace(FACTS, revocation=named)
            site.heartbeats.beat("front-agent")
            count += 1
            await site.broker.until(count)
    site.clock.wall = MOMENT
    issued = site.heartbeats.issued("front-agent")
    assert issued == [(1, times[4]), *((head, times[head]) for head in range(5, HEADS + 4))]
    assert answered(issued, 6) == times[5]
    assert answered(issued, 3) == times[4] > times[2], "an upper bound"
    assert answered(issued, 1) is None


async def test_turns_are_spread_evenly_over_the_interval(site):
    site.facts.update({f"agent-{n:03}": FACTS for n in range(60)})
    beats = site.heartbeats
    await beats.load()
    beats._begin_round(site.clock.monotonic())
    taken = []
    for _ in range(60):
        site.clock.pass_time(INTERVAL_S / 60)
        taken.append(beats._take())
    sizes = [len(each) for each in taken]
    assert max(sizes) <= 2
    assert sum(sizes[:30]) in range(29, 32)
    seen = {agent for each in taken for agent in each}
    site.clock.pass_time(0.01)
    assert seen | set(beats._take()) == set(site.facts)


async def test_those_who_had_to_go_without_while_the_broker_was_away_get_theirs_when_it_is_back(
    site,
):
    site.facts["front-agent"] = FACTS
    looks = 0

    def connected() -> bool:
        nonlocal looks
        looks += 1
        return looks > 4

    site.heartbeats._connected = connected
    site.broker.away = True
    async with running(site.heartbeats.run):
        site.heartbeats.beat("front-agent")
        async with asyncio.timeout(20):
            while looks < 4:  # noqa: ASYNC110 it looks again every tenth of a second
                await asyncio.sleep(0.01)
        site.broker.away = False
        (message,) = await site.broker.until(1)
    assert opened(site, message)[0] == "front-agent"


async def test_without_a_database_no_counter_is_used_that_a_restart_could_use_again(
    site, monkeypatch
):
    site.facts["front-agent"] = FACTS
    writes, said_at_the_second = [], []

    async def fails_once(engine: AsyncEngine, counter: int) -> None:
        writes.append(counter)
        if len(writes) == 1:
            raise OSError("disk full")
        said_at_the_second.extend(site.broker.messages)
        await reserve(engine, counter)

    monkeypatch.setattr("server.distribution.heartbeats.reserve", fails_once)
    monkeypatch.setattr("server.distribution.heartbeats._RETRY_S", 0.01)
    async with running(site.heartbeats.run):
        site.heartbeats.beat("front-agent")
        (message,) = await site.broker.until(1)
    assert len(writes) == 2
    assert said_at_the_second == []
    assert opened(site, message)[1].counter <= writes[1]


async def test_what_the_broker_keeps_for_an_agent_that_is_gone_is_taken_back(site):
    site.facts["front-agent"] = FACTS
    async with running(site.heartbeats.run):
        site.heartbeats.beat("front-agent")
        await site.broker.until(1)
        del site.facts["front-agent"]
        site.heartbeats.forget("front-agent")
        topic, payload, retain = (await site.broker.until(2))[1]
    assert topic.endswith("down/front-agent/heartbeat")
    assert (payload, retain) == (b"", True)


async def test_an_agent_that_came_back_meanwhile_keeps_its_heartbeat(site):
    site.facts["front-agent"] = site.facts["back-agent"] = FACTS
    async with running(site.heartbeats.run):
        site.heartbeats.forget("front-agent")
        site.heartbeats.beat("back-agent")
        topic, payload, _ = (await site.broker.until(1))[0]
    assert payload
    assert "back-agent" in topic
