"""Coming and going as the database and the server's own chain have it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from server.clock import SystemClock
from server.distribution.presence import Presence
from server.link_status import LinkStatus
from server.store.announcements import waiting
from server.store.database import open_database
from tests.unit.test_presence import AGENT, report

LIMIT_S = 30


async def test_a_removed_agent_is_offline_and_its_successor_comes_online(tmp_path: Path) -> None:
    engine = await open_database(tmp_path / "ostiary.db")
    clock, told = SystemClock(), asyncio.Event()
    presence = Presence(
        engine=engine,
        link=LinkStatus("builtin", connected=True),
        clock=clock,
        alarm=lambda refusal: None,
        announced=told.set,
        new_session=lambda agent: None,
    )

    async def written(act: Callable[[], None]) -> list[str]:
        told.clear()
        act()
        async with asyncio.timeout(LIMIT_S):
            await told.wait()
        return [said.name for said in await waiting(engine, 10)]

    def hear(session: str) -> None:
        said = report().model_copy(update={"session": session, "issued": clock.now()})
        presence.heard(AGENT, said)

    await presence.load()
    watching = asyncio.create_task(presence.run())
    assert await written(lambda: hear("00" * 8)) == ["agent.online"]
    names = await written(lambda: presence.forget(AGENT))
    assert names == ["agent.online", "agent.offline"]
    assert presence.session(AGENT) is None
    assert (await written(lambda: hear("11" * 8)))[-1] == "agent.online"
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await engine.dispose()
