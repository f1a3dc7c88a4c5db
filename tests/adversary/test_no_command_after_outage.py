"""No door unlocks after an outage because of what someone wanted before it.

A real broker is killed and started again under a real agent; then it delivers commands that it kept
in every way a broker can. Each is refused by its name, and the strike does not move.
"""

from contextlib import asynccontextmanager
from datetime import timedelta

import aiomqtt
import pytest

from edge_agent.virtual.people import Doorway
from schemas.command import Action
from schemas.topics import COMMAND, down
from tests.agent_rig import AGENT, DOOR, SITE, Rig, standing
from tests.broker import mosquitto

__all__ = ["mosquitto"]
pytestmark = pytest.mark.system
UNLOCKING = [Action.PULSE, Action.UNLOCK]


class WatchedDoorway(Doorway):
    """Counts how often the strike is released."""

    releases = 0

    def _heard(self, message):
        self.releases += message.get("strike") == "released"
        super()._heard(message)


@asynccontextmanager
async def after_an_outage(tmp_path, mosquitto):
    """Server, doorway, and commands of before the outage that nobody has heard yet."""
    rig = Rig(tmp_path, "intl", mosquitto.port)
    async with standing(rig) as server:
        await rig.start()
        door = {**rig.policy()["doors"][DOOR], "strike_release_s": 0.1}
        await server.applied(await server.put_policy(doors={DOOR: door}))
        async with WatchedDoorway(rig.folder / "state" / "doorway.sock", DOOR) as doorway:
            before = server.reports[-1].session
            await server.command(Action.PULSE)
            await server.until(lambda: server.names.count("door.mode_changed") == 2)
            assert doorway.releases == 1, "in order, a command does move the strike"
            kept = [server.voice.command(action, before, DOOR) for action in UNLOCKING]
            mosquitto.kill()
            mosquitto.start()
            await server.until(lambda: server.reports[-1].session != before)
            yield server, doorway, kept
            assert doorway.releases == 1
            assert not doorway.released
            assert [each["action"] for each in server.named("command.executed")] == ["pulse"]


async def test_a_queued_command_is_not_executed_after_an_outage(tmp_path, mosquitto):
    async with after_an_outage(tmp_path, mosquitto) as (server, _, kept):
        for envelope in kept:
            await server.tell(COMMAND, envelope)
        await server.until(lambda: server.refused("WrongSession"))
        await server.until(lambda: len(server.named("command.refused")) == len(kept))


@pytest.mark.parametrize("which", range(len(UNLOCKING)))
async def test_a_retained_command_is_not_executed_after_an_outage(tmp_path, mosquitto, which):
    async with after_an_outage(tmp_path, mosquitto) as (server, _, kept):
        # Who takes the agent's name cuts it off: it comes back to what the broker has kept.
        async with aiomqtt.Client(mosquitto.host, mosquitto.port, identifier=AGENT) as impostor:
            await impostor.publish(down(SITE, AGENT, COMMAND), kept[which], qos=1, retain=True)
        await server.until(lambda: server.refused("RetainedReplay"))


async def test_an_expired_command_is_not_executed_after_an_outage(tmp_path, mosquitto):
    async with after_an_outage(tmp_path, mosquitto) as (server, _, _):
        then = server.voice.now() - timedelta(seconds=6)
        for action in UNLOCKING:
            await server.command(action, issued=then, expires=then + timedelta(seconds=5))
        await server.until(lambda: server.refused("Expired"))
        await server.until(lambda: len(server.named("command.refused")) == len(UNLOCKING))


async def test_a_replayed_command_is_not_executed_after_an_outage(tmp_path, mosquitto):
    async with after_an_outage(tmp_path, mosquitto) as (server, _, _):
        (executed,) = server.commands
        await server.tell(COMMAND, executed)
        await server.until(lambda: server.refused("WrongSession"))
        # and were its session this one: its counter was counted, and that outlived the outage
        for action in UNLOCKING:
            await server.command(action, counter=1)
        await server.until(lambda: server.refused("Replayed"))
