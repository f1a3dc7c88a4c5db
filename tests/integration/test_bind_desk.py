"""`ostiary-agent bind`: no card is bound that the server does not hear of."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from edge_agent import bind_desk
from edge_agent.readers.port import Feedback
from edge_agent.recorder import Recorder
from edge_agent.virtual.card_os import VirtualCard
from schemas.events import EventLine, event_name
from tests.door_rig import (
    AGENT,
    DOOR,
    PATIENCE_S,
    SERIAL,
    SITE,
    TRANSPORT_KEY,
    door_rig,
)

CARD = SERIAL.hex()


class Desk:
    """One run after the other at the reader of one door; `said` is what was printed."""

    def __init__(self, rig, folder) -> None:
        self.rig, self.said = rig, []
        door = SimpleNamespace(door=DOOR, readers=[SimpleNamespace(direction="in")])
        self._config = SimpleNamespace(
            doors=[door], site=SITE, agent=AGENT, doorway_path=folder / "doorway.sock"
        )
        self.parts = SimpleNamespace(
            elements=rig.elements,
            clock=rig.clock,
            default_view=rig.house.default_view,
            open_reader=lambda _door, direction, _doorway: rig.open_reader(direction),
        )

    @asynccontextmanager
    async def running(self, count: int = 1):
        ready = asyncio.Event()
        task = asyncio.create_task(
            bind_desk.bind_cards(
                self._config,
                {CARD: TRANSPORT_KEY},
                count,
                ready=lambda _: ready.set(),
                bound=lambda card: self.said.append(f"bound {card}"),
                refused=self.said.append,
            )
        )
        async with asyncio.timeout(PATIENCE_S):
            await ready.wait()
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def told(self) -> list[dict]:
        lines = await self.rig.outbox.lines_after(0, 4096, 1 << 23)
        events = [EventLine.model_validate_json(each.line) for each in lines]
        return [each.data for each in events if event_name(each.type) == "card.bound"]

    async def disk(self, *, fails: bool) -> None:
        pragma = f"PRAGMA query_only={'ON' if fails else 'OFF'}"
        await self.rig.outbox._thread.run(lambda database: database.execute(pragma).fetchone())


@pytest.fixture
async def desk(tmp_path, monkeypatch):
    async with door_rig(tmp_path) as rig:
        await rig.put_policy()
        desk = Desk(rig, tmp_path)

        @asynccontextmanager
        async def opened(_):
            yield desk.parts, rig.outbox, rig.store

        monkeypatch.setattr(bind_desk, "opened", opened)
        yield desk


@pytest.fixture
def card(desk):
    return VirtualCard(None, "intl", SERIAL, TRANSPORT_KEY, desk.rig.random)


async def test_a_card_that_was_bound_just_before_the_end_is_told_of_when_it_comes_again(
    desk, card, monkeypatch
):
    written, record = asyncio.Event(), Recorder.record

    async def never(recorder, drafts):
        written.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Recorder, "record", never)
    async with desk.running():
        tap = asyncio.create_task(desk.rig.tap(card))
        async with asyncio.timeout(PATIENCE_S):
            await written.wait()
    tap.cancel()
    assert (desk.said, await desk.told()) == ([], [])
    monkeypatch.setattr(Recorder, "record", record)
    async with desk.running() as task:
        assert await desk.rig.tap(card) is Feedback.BOUND
        await task
    assert desk.said == [f"bound {CARD}"]
    (told,) = await desk.told()
    assert (told["card"], told["domain"], told["key_version"]) == (CARD, DOOR, 1)


async def test_a_card_counts_once_its_event_is_on_the_disk(desk, card):
    async with desk.running() as task:
        await desk.disk(fails=True)
        for _ in range(2):
            assert await desk.rig.tap(card) is Feedback.ERROR
        assert not task.done()
        assert len(desk.said) == 2
        assert all(CARD in said and "not_kept" in said for said in desk.said)
        await desk.disk(fails=False)
        assert await desk.rig.tap(card) is Feedback.BOUND
        await task
    assert desk.said[2:] == [f"bound {CARD}"]
    (told,) = await desk.told()
    assert (told["card"], told["domain"], told["key_version"]) == (CARD, DOOR, 1)
