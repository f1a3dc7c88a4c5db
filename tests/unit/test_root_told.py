"""A new root document is taken up though the database fails as it is told of."""

import asyncio
from types import SimpleNamespace

import pytest

from server import app
from server.store.announcements import waiting
from server.store.database import open_database
from tests.orders_rig import FakeClock

LIMIT_S = 20


class FailingOnce:
    """A database that is not there the first time."""

    def __init__(self, engine):
        self._engine, self._failures = engine, 1

    def begin(self):
        if self._failures:
            self._failures -= 1
            raise OSError("the database is away")
        return self._engine.begin()


@pytest.fixture
async def engine(tmp_path):
    engine = await open_database(tmp_path / "ostiary.db")
    yield engine
    await engine.dispose()


async def test_a_root_document_waits_for_the_database_and_ends_no_server(engine, monkeypatch):
    monkeypatch.setattr(app, "ROOT_LOOK_S", 0.01)
    told = []

    async def publish_root():
        told.append("root")

    site = SimpleNamespace(root=SimpleNamespace(version=1), newest_root_version=lambda: 2)
    state = SimpleNamespace(
        site="demo", clock=FakeClock(), engine=FailingOnce(engine), announced=lambda: None
    )
    parts = SimpleNamespace(site=site, state=state, publish_root=publish_root)
    async with asyncio.timeout(LIMIT_S):
        await app._until_done(parts, asyncio.Event())
    assert told == ["root"]
    assert [each.name for each in await waiting(engine, 10)] == ["root.published"]
