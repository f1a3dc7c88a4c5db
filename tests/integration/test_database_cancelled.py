"""A task that is cancelled within a transaction leaves the database as it was, and free."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import event, text

from server.store.database import open_database


@pytest.fixture
async def engine(tmp_path):
    made = await open_database(tmp_path / "ostiary.db")
    async with made.begin() as connection:
        await connection.execute(text("create table numbers (number integer)"))
    yield made
    await made.dispose()


async def cancelled_at(engine, moment, *statements):
    """The task, ended: it was cancelled when the last of its statements was at this moment."""

    async def transact():
        async with engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))

    def cancel(_connection, _cursor, statement, *_):
        if statement == statements[-1]:
            task.cancel()

    event.listen(engine.sync_engine, moment, cancel)
    task = asyncio.create_task(transact())
    await asyncio.wait([task])
    event.remove(engine.sync_engine, moment, cancel)
    assert task.cancelled() or isinstance(task.exception(), asyncio.CancelledError)
    return task


@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
@pytest.mark.parametrize("last", ["select number from numbers", "delete from numbers"])
async def test_a_cancelled_transaction_holds_no_lock_and_leaves_nothing(engine, moment, last):
    async with engine.begin() as connection:
        await connection.execute(text("insert into numbers values (1), (2)"))
    tasks = []  # which hold what they failed with, and so the rows that were not read
    for _ in range(20):
        insert = "insert into numbers values (3)"
        tasks.append(await cancelled_at(engine, moment, insert, last))
        async with engine.begin() as connection:
            await connection.execute(text("update numbers set number = number + 1"))
    async with engine.connect() as connection:
        rows = await connection.scalars(text("select number from numbers order by number"))
        assert list(rows) == [21, 22]
