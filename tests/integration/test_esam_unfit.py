"""An ESAM whose key table makes no sense is unfit, and its agent's other ESAMs are as ever."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.esam_watch import EsamWatch
from edge_agent.keying import Keying
from edge_agent.secure_element.esam_chip import Esam
from edge_agent.secure_element.esam_layout import GET_DATA, KEY_TABLE
from schemas.events import EventLine, event_name
from schemas.keys import MAX_VERSIONS
from tests.door_rig import DOOR, PATIENCE_S, door_rig
from tests.esam_desk import ESAM_SERIAL, EsamDesk
from tests.esam_rig import Slot

OTHER_SERIAL, OTHER = bytes(7) + b"\x07", "other"


class Lying(Slot):
    """It says that its chip holds these versions."""

    def __init__(self, chip, *versions: int) -> None:
        super().__init__(chip)
        self.versions: tuple[int, ...] = versions
        self.asked = 0

    async def transmit(self, apdu: bytes) -> bytes:
        if self.versions and apdu[1:3] == bytes((GET_DATA, KEY_TABLE)):
            self.asked += 1
            return b"\x01" + b"".join(bytes((v,)) + bytes(9) for v in self.versions) + b"\x90\x00"
        return await super().transmit(apdu)


class Agent:
    """Two doors, each with an ESAM of its own; one of them is lying."""

    def __init__(self, rig, *lie: int) -> None:
        self.rig = rig
        self.liar = Lying(EsamDesk("intl").issue().load(1).chip, *lie)
        good = Slot(EsamDesk("intl", serial=OTHER_SERIAL).issue().load(1).chip)
        self.esams = (
            Esam(self.liar, ESAM_SERIAL, [DOOR]),
            Esam(good, OTHER_SERIAL, [OTHER]),
        )
        rig.elements.esams = self.esams
        self.watch = EsamWatch(self.esams, rig.recorder)
        self.keying = Keying(rig.elements, rig.store, rig.recorder, rig.signer, rig.random)

    async def begin(self) -> None:
        policy = self.rig.policy()
        doors = {name: policy["doors"][DOOR] | {"domain": name} for name in (DOOR, OTHER)}
        await self.rig.put_policy(doors=doors)

    async def told(self, *names: str) -> list[tuple[str, dict]]:
        lines = await self.rig.outbox.lines_after(0, 4096, 1 << 23)
        events = [EventLine.model_validate_json(each.line) for each in lines]
        return [(event_name(e.type), e.data) for e in events if event_name(e.type) in names]

    async def until_told(self, name: str) -> dict:
        async with asyncio.timeout(PATIENCE_S):
            while not (found := await self.told(name)):
                pass  # each look goes to the disk and back, so others get their turn
        return found[-1][1]


@pytest.fixture(
    params=[(0,), (1, 1), (1, 2, 1), tuple(range(1, MAX_VERSIONS + 2))],
    ids=["zero", "twice", "again", "too many"],
)
async def agent(tmp_path, request):
    async with door_rig(tmp_path) as rig:
        agent = Agent(rig, *request.param)
        await agent.begin()
        await rig.start()
        parts = [asyncio.create_task(each.run()) for each in (agent.watch, agent.keying)]
        yield agent
        assert not any(part.done() for part in parts)
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)


async def test_it_is_said_once_and_the_others_keys_are_told_of(agent):
    told = await agent.until_told("esam.unavailable")
    assert (told["serial"], told["reason"]) == (ESAM_SERIAL.hex(), "unfit")
    held = await agent.until_told("keys.held")
    assert (held["domain"], set(held["held"])) == (OTHER, {"1"})
    for _ in range(20):
        assert len(await agent.told("esam.unavailable", "esam.unavailable.cleared")) == 1
    assert agent.liar.asked <= 2, "once more to see that it is so; the next look is in 10 s"


async def test_what_else_it_answers_makes_it_none_the_better_but_a_good_look_does(agent):
    await agent.until_told("esam.unavailable")
    faulty, _ = agent.esams
    assert (await faulty.state()).serial == ESAM_SERIAL
    assert faulty.trouble is not None
    agent.liar.versions = ()
    await faulty.look()
    assert (await agent.until_told("esam.unavailable.cleared"))["serial"] == ESAM_SERIAL.hex()
    async with asyncio.timeout(PATIENCE_S):
        while {d["domain"] for _, d in await agent.told("keys.held")} != {DOOR, OTHER}:
            pass


async def test_eight_versions_are_as_many_as_there_may_be(tmp_path):
    async with door_rig(tmp_path) as rig:
        agent = Agent(rig, *range(1, MAX_VERSIONS + 1))
        await agent.esams[0].look()
        assert agent.esams[0].trouble is None
