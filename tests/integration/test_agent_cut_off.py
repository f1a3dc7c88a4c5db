"""A connection that is cut between what is durable and the act."""

import asyncio

import pytest

from edge_agent.link import _to_the_end
from schemas.command import Action
from schemas.lockdown import Lockdown
from schemas.topics import COMMAND, LOCKDOWN
from tests.link_rig import AGENT, DOOR, SITE, IdleDoors, unconnected
from tests.site_keys import SiteKeys
from tests.site_voice import SiteVoice

SESSION = "00112233445566aa"


class SlowDoors(IdleDoors):
    """Takes its time for each act."""

    def __init__(self):
        super().__init__()
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def execute(self, command):
        await self.trust_changed()
        await super().execute(command)

    async def trust_changed(self):
        self.begun.set()
        await self.go_on.wait()
        await super().trust_changed()


@pytest.fixture
async def rig(tmp_path):
    async with unconnected(tmp_path, SiteVoice(SiteKeys(site=SITE), AGENT), port=1) as rig:
        rig.doors = rig.link._inbox._doors = SlowDoors()
        rig.link._inbox.session = SESSION
        yield rig


async def cut_while_acting(rig, channel, payload):
    inbox = rig.link._inbox
    taking = asyncio.create_task(_to_the_end(inbox.take(channel, payload, retained=False)))
    await rig.doors.begun.wait()
    taking.cancel()
    rig.doors.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await taking


async def test_a_lockdown_whose_connection_is_cut_is_acted_on_and_receipted(rig):
    drill = Lockdown(id="drill", scope="door", name=DOOR, since=rig.voice.now())
    await cut_while_acting(rig, LOCKDOWN, rig.voice.lock_down(drill))
    assert rig.doors.changes == 1
    await rig.event("lockdown.applied", counter=1)


async def test_a_command_that_was_counted_is_carried_out_though_its_connection_is_cut(rig):
    await cut_while_acting(rig, COMMAND, rig.voice.command(Action.BLOCK, SESSION, DOOR))
    assert [command.action for command in rig.doors.commands] == [Action.BLOCK]
