"""Whatever the network does to the log, an agent denies exactly what it holds of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from edge_agent.core.trusted_state import TrustedState, after_revocation, after_snapshot
from schemas.errors import BrokenLog
from schemas.revocation import RevocationReason
from server.distribution import revocation_messages, revocations
from server.distribution.revocations import Subject
from server.store import revocations as rows
from server.store.announcements import announcements
from server.store.database import open_database
from server.store.distribution_tables import revocations as table
from tests.orders_rig import MOMENT, Orders, running
from tests.site_keys import SiteKeys

AGENT = "front-agent"
SUBJECTS = [("card", f"{n:016x}") for n in range(4)] + [("person", "mei"), ("key-version", "lab/2")]
REASONS = [RevocationReason.LOST, RevocationReason.LEFT]

subject = st.builds(
    lambda s, r: Subject(*s, r), st.sampled_from(SUBJECTS), st.sampled_from(REASONS)
)
step = st.one_of(
    st.tuples(st.just("revoke"), st.lists(subject, min_size=1, max_size=8)),
    st.tuples(st.just("deliver"), st.integers(0, 1000)),  # any message so far: late, lost or again
    st.tuples(st.just("pull"), st.integers(0, 3)),  # and the connection breaks after so many
    st.tuples(st.just("snapshot"), st.none()),
)


class Agent:
    """What an agent holds, by the rules of its own trusted state."""

    def __init__(self, keys: SiteKeys) -> None:
        self.state = TrustedState.pinned(keys.root)
        self.denied: dict[tuple[str, str], int] = {}

    def take(self, envelope: bytes) -> None:
        try:
            self.state, new = after_revocation(self.state, envelope, AGENT, MOMENT)
        except BrokenLog:  # something before it is missing: nothing may be taken
            return
        self._deny(new)

    def take_snapshot(self, envelope: bytes, chunks: Any) -> None:
        self.state, new = after_snapshot(self.state, envelope, AGENT, MOMENT, chunks)
        self._deny(new)

    def _deny(self, new: Any) -> None:
        for each in new:
            key = each.kind, each.subject
            self.denied[key] = max(each.sequence, self.denied.get(key, 0))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Orders]]:
    with asyncio.Runner() as runner, ThreadPoolExecutor(1) as executor:
        path = tmp_path_factory.mktemp("log") / "ostiary.db"
        engine = runner.run(open_database(path))
        yield runner, Orders(engine, executor, SiteKeys())
        runner.run(engine.dispose())


@pytest.fixture(autouse=True)
def small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a short log has pages, ranges, snapshots, and snapshots that lag."""
    monkeypatch.setattr(revocations, "MAX_ENTRIES", 3)
    monkeypatch.setattr(revocation_messages, "MAX_ENTRIES", 3)
    monkeypatch.setattr(revocations, "MAX_MESSAGES", 2)
    monkeypatch.setattr(rows, "_PAGE", 2)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(step, max_size=25))
def test_an_agent_denies_exactly_what_its_head_says_and_in_the_end_everything(bench, steps):
    runner, orders = bench
    runner.run(_follow(orders, steps))


async def _follow(orders: Orders, steps: list[tuple[str, Any]]) -> None:
    async with orders.engine.begin() as connection:
        await connection.execute(delete(table))
        await connection.execute(delete(announcements))
    site = await orders.restarted()
    server, agent = site.revocations, Agent(site.keys)
    log: list[tuple[tuple[str, str], int]] = []
    async with running(server.run):
        for what, value in steps:
            if what == "revoke":
                for revoked in await server.revoke_all(value, "li"):
                    if revoked.new:
                        log.append(
                            ((revoked.entry.kind, revoked.entry.subject), revoked.entry.sequence)
                        )
            elif what == "deliver" and site.broker.messages:
                agent.take(site.broker.messages[value % len(site.broker.messages)][1])
            elif what == "pull":
                await _pull(site, agent, value)
            elif what == "snapshot" and log:
                above = agent.state.revocation.sequence
                if above < server.head.sequence:
                    agent.take_snapshot(*await server.snapshot(above))
            _check(agent, log)
        while agent.state.revocation != server.head:
            await _pull(site, agent, 100)
            _check(agent, log)
    assert agent.denied == dict(log)


async def _pull(site: Orders, agent: Agent, most: int) -> None:
    envelopes = await site.revocations.after(agent.state.revocation.sequence, AGENT)
    if envelopes is None:
        agent.take_snapshot(*await site.revocations.snapshot(agent.state.revocation.sequence))
        return
    for envelope in envelopes[:most]:
        agent.take(envelope)


def _check(agent: Agent, log: list[tuple[tuple[str, str], int]]) -> None:
    head = agent.state.revocation.sequence
    assert agent.denied == {key: sequence for key, sequence in log if sequence <= head}
