"""Commands and lockdowns at an agent in its own process, and what of them outlives a kill."""

import signal
from datetime import timedelta

import pytest

from edge_agent.commanding import EXIT_TO_RESTART
from schemas.command import Action
from schemas.lockdown import Lockdown
from schemas.topics import COMMAND
from tests.agent_rig import DOOR, Rig, standing

pytestmark = pytest.mark.system


async def started(rig, server):
    """Start the agent, and wait until the server knows its session."""
    heard = len(server.reports)
    await rig.start()
    await server.until(lambda: len(server.reports) > heard and not server.reports[-1].leaving)


async def governed(rig, server, **door):
    """As `started`, with a policy in force."""
    await started(rig, server)
    settings = {**rig.policy()["doors"][DOOR], "strike_release_s": 100.0, **door}
    await server.applied(await server.put_policy(doors={DOOR: settings}))


async def result_of(server, action, **changes):
    """Send the command and wait until it was carried out."""

    def done():
        return [each for each in server.named("command.executed") if each["action"] == action]

    before = len(done())
    await server.command(action, **changes)
    await server.until(lambda: len(done()) > before)


def drill(server):
    return Lockdown(id="drill", scope="door", name=DOOR, since=server.voice.now())


async def killed_and_started(rig, server, mode):
    """Kill the agent and start it: the door is in `mode` again; what it reported meanwhile."""
    count = len(server.events)
    await rig.end(signal.SIGKILL)
    await started(rig, server)
    await server.until(lambda: "agent.started" in server.names[count:])
    await server.until(lambda: server.reports[-1].doors[DOOR].mode == mode)
    return server.names[count:]


async def test_a_block_and_a_lockdown_outlive_a_kill_and_nothing_is_pulsed(tmp_path, mosquitto):
    rig = Rig(tmp_path, "intl", mosquitto.port)
    async with standing(rig) as server:
        await governed(rig, server)
        await result_of(server, Action.BLOCK)
        assert "door.mode_changed" not in await killed_and_started(rig, server, "blocked")
        await server.lock_down(drill(server))
        await server.until(lambda: "lockdown.applied" in server.names)
        assert server.named("lockdown.applied")[-1]["doors"] == [DOOR]
        assert "door.mode_changed" not in await killed_and_started(rig, server, "locked_down")
        async with rig.doorway() as doorway:
            assert not doorway.released
            await doorway.press_rex()
            await doorway.strike(released=True)
        await server.lock_down()
        await server.until(lambda: server.reports[-1].lockdown == 2)
        await result_of(server, Action.NORMAL)
        await killed_and_started(rig, server, "locked")


async def test_an_unlock_does_not_outlive_a_kill(tmp_path, mosquitto):
    rig = Rig(tmp_path, "intl", mosquitto.port)
    async with standing(rig) as server:
        await governed(rig, server)
        async with rig.doorway() as doorway:
            await result_of(server, Action.UNLOCK)
            await doorway.strike(released=True)
        names = await killed_and_started(rig, server, "locked")
        assert "door.mode_changed" not in names


async def test_a_command_is_done_once_even_if_it_comes_again(tmp_path, mosquitto):
    rig = Rig(tmp_path, "intl", mosquitto.port)
    async with standing(rig) as server:
        await governed(rig, server, strike_release_s=0.2)
        envelope = server.voice.command(Action.PULSE, server.reports[-1].session, DOOR)
        for _ in range(3):
            await server.tell(COMMAND, envelope)
        await result_of(server, Action.IDENTIFY)
        assert [each["action"] for each in server.named("command.executed")] == [
            "pulse",
            "identify",
        ]
        modes = [each["mode"] for each in server.named("door.mode_changed")]
        assert modes.count("accessed") == 1


async def test_a_command_from_before_a_restart_is_not_done_after_it(tmp_path, mosquitto):
    rig = Rig(tmp_path, "intl", mosquitto.port)
    async with standing(rig) as server:
        await governed(rig, server)
        session = server.reports[-1].session
        late = server.voice.command(
            Action.PULSE, session, DOOR, expires=server.voice.now() + timedelta(seconds=5)
        )
        await killed_and_started(rig, server, "locked")
        await server.tell(COMMAND, late)
        await server.until(lambda: server.refused("WrongSession") or server.refused("Expired"))
        assert "command.executed" not in server.names
        assert "door.mode_changed" not in server.names


async def test_a_reader_blinks_for_whoever_looks_for_the_door(tmp_path, mosquitto):
    rig = Rig(tmp_path, "intl", mosquitto.port)
    async with standing(rig) as server:
        await governed(rig, server)
        async with rig.doorway() as doorway:
            assert not doorway.identified.is_set()
            await result_of(server, Action.IDENTIFY)
            await doorway.identified.wait()


async def test_a_reboot_ends_the_agent_in_order_for_its_supervisor(tmp_path, mosquitto):
    rig = Rig(tmp_path, "intl", mosquitto.port)
    async with standing(rig) as server:
        await governed(rig, server)
        reboot = server.voice.command(Action.REBOOT, server.reports[-1].session, None)
        await server.tell(COMMAND, reboot)
        await rig.logged("stopped")
        assert await rig.end(signal.SIGTERM) == EXIT_TO_RESTART
        await started(rig, server)
        await server.until(lambda: len(server.named("agent.started")) == 2)
        assert server.named("agent.started")[-1]["cause"] == "start"
        assert len(server.named("command.executed")) == 1
