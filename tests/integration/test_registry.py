"""Whose word counts: read from the database, and taken back at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from server.clock import SystemClock
from server.ingest import registry as module
from server.ingest.registry import Registry
from server.store.agents import (
    AgentExists,
    insert_agent,
    list_retired,
    retire_agent,
)
from server.store.database import open_database
from server.store.enrolments import foretell_chain
from tests.agent_pen import Pen
from tests.server_rig import add_agent

LIMIT_S = 30
PEN, OTHER = Pen("front"), Pen("back")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    opened = await open_database(tmp_path / "ostiary.db")
    for pen in (PEN, OTHER):
        await add_agent(opened, pen.agent, pen.suite, pen.signer.key.public.point, 1)
    yield opened
    await opened.dispose()


@pytest.fixture
async def registry(engine: AsyncEngine) -> Registry:
    made = Registry(engine, PEN.suite, SystemClock())
    await made.refresh(now=True)
    assert made.agents == {"front", "back"}
    return made


async def retire(engine: AsyncEngine, pen: Pen) -> None:
    async with engine.begin() as connection:
        assert await retire_agent(connection, pen.agent)


async def test_what_another_program_removes_is_noticed(engine, registry, monkeypatch):
    monkeypatch.setattr(module, "REFRESH_INTERVAL_S", 0.01)
    await retire(engine, PEN)
    watching = asyncio.create_task(registry.watch())
    async with asyncio.timeout(LIMIT_S):
        while "front" in registry.agents:  # noqa: ASYNC110 the watch has no other sign
            await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert set(registry.ring) == {OTHER.signer.keyid}


async def test_an_expulsion_counts_at_once(registry):
    registry.expel("front")
    assert set(registry.ring) == {OTHER.signer.keyid}
    assert registry.agents == {"back"}


async def test_a_read_that_began_before_an_expulsion_does_not_undo_it(
    engine, registry, monkeypatch
):
    """The rows were read, then the agent was removed, and only then would they be taken in."""
    real = module.list_agents
    await add_agent(
        engine, "side", PEN.suite, Pen("side").signer.key.public.point, 3
    )  # something to read

    async def slow(db: AsyncEngine):
        rows = await real(db)
        if "front" in registry.agents:
            await retire(engine, PEN)
            registry.expel("front")
        return rows

    monkeypatch.setattr(module, "list_agents", slow)
    await registry.refresh(now=True)
    assert registry.agents == {"back", "side"}
    assert PEN.signer.keyid not in registry.ring


async def test_one_gone_and_one_come_between_two_looks_are_both_noticed(engine, registry):
    await retire(engine, PEN)
    third = Pen("third")
    await add_agent(engine, third.agent, third.suite, third.signer.key.public.point, 1)
    await registry.refresh(now=True)
    assert registry.agents == {"back", "third"}
    assert PEN.signer.keyid not in registry.ring


async def test_a_retired_key_is_kept_for_old_events_and_counts_for_no_new_agent(engine):
    await retire(engine, PEN)
    assert [agent.keyid for agent in await list_retired(engine)] == [PEN.signer.keyid]
    async with engine.begin() as connection:
        with pytest.raises(AgentExists):
            await insert_agent(connection, "fresh", PEN.suite, PEN.signer.key.public.point, 4)
        assert await retire_agent(connection, "front") is None


async def test_a_chain_foretold_with_a_new_agent_is_known_with_it(engine, registry):
    third = Pen("third")
    async with engine.begin() as connection:
        await insert_agent(connection, "third", third.suite, third.signer.key.public.point, 9)
        await foretell_chain(connection, "third", "ab" * 8)
    await registry.refresh(now=True)
    assert registry.announced == {("third", "ab" * 8)}
