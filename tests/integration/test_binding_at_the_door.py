"""An agent in its own process binds cards in windows, over a real broker, and is killed in one."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime, timedelta

import pytest

from schemas.command import Action
from schemas.transport import TransportRequest
from tests.agent_rig import DOOR, PATIENCE_S, Rig, TakingServer, standing
from tests.esam_desk import ESAM_SERIAL, EsamDesk

pytestmark = pytest.mark.system


async def open_window(server: TakingServer, doorway) -> str:
    """Wait until the reader blinks; the command's id."""
    done = len(server.named("command.executed"))
    doorway.binding.clear()
    await server.command(
        Action.BINDING_WINDOW,
        person="bob",
        direction="in",
        until=datetime.now(UTC) + timedelta(seconds=60),
    )
    await server.until(lambda: len(server.named("command.executed")) > done)
    async with asyncio.timeout(PATIENCE_S):
        await doorway.binding.wait()
    return server.named("command.executed")[-1]["command"]


def on_an_esam(rig: Rig, server: TakingServer) -> None:
    """Move the door's domain to a virtual ESAM whose control key the server has."""
    desk = EsamDesk(rig.suite_name, path=rig.folder / "esam.bin").issue().load(1)
    rig.config.write_text(
        rig.config.read_text()
        + f'[[esams]]\nkind = "virtual"\npath = "esam.bin"\nserial = "{ESAM_SERIAL.hex()}"\n'
        f'domains = ["{DOOR}"]\n'
    )

    def lend(request: TransportRequest) -> bytes | None:
        if request.loan is None:
            return None
        assert (request.loan.esam, request.loan.domain) == (ESAM_SERIAL.hex(), DOOR)
        return desk.control.lend(
            bytes.fromhex(request.loan.challenge),
            index=request.loan.index,
            version=request.loan.version,
            card_id=bytes.fromhex(request.card),
            transport_key=bytes(16),
        )

    server.lend = lend


@pytest.mark.parametrize(("suite", "esam"), [("gm", True), ("intl", False)])
async def test_a_card_is_bound_at_a_running_agent_and_a_kill_closes_the_window(
    tmp_path, mosquitto, suite, esam
):
    rig = Rig(tmp_path, suite, mosquitto.port)
    card, other = rig.make_card(1), rig.make_card(2)
    async with standing(rig) as server:
        if esam:
            on_an_esam(rig, server)
        await rig.start()
        await server.applied(await server.put_policy(cards=[]))
        async with rig.doorway() as doorway:
            assert await doorway.tap(card) == "denied"
            command = await open_window(server, doorway)
            assert await doorway.tap(card) == "bound"
            await server.until(lambda: bool(server.named("card.bound")))
            (told,) = server.named("card.bound")
            assert (told["card"], told["command"]) == (card.serial.hex(), command)
            assert await doorway.tap(other) == "denied", "the window is used up"
            await server.applied(await server.put_policy())
            assert await doorway.tap(card) == "granted"
            await open_window(server, doorway)
        before = server.reports[-1].session
        await rig.end(signal.SIGKILL)
        await rig.start()
        async with rig.doorway() as doorway:
            assert await doorway.tap(other) == "denied"
            assert await doorway.tap(card) == "granted"
            await server.until(lambda: server.reports[-1].session != before)
            await open_window(server, doorway)
            assert await doorway.tap(other) == "denied", "the policy says that it is bound already"
            assert await doorway.tap(rig.make_card(3)) == "bound"
        assert await rig.end(signal.SIGTERM) == 0
    assert bytes(16).hex() not in "".join(map(str, rig.log))
