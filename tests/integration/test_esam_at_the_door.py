"""A door whose keys are on an ESAM: it opens, it fails secure, and it says so."""

from __future__ import annotations

import asyncio
import signal
import sys
from secrets import token_bytes

import pytest

from edge_agent.esam_watch import EsamWatch
from edge_agent.readers.port import Feedback
from edge_agent.secure_element.esam_chip import Esam, EsamUnavailable
from edge_agent.secure_element.esam_slots import VirtualSlot
from edge_agent.virtual.esam_os import VirtualEsam
from schemas.esam_issued import IssuedEsam
from tests.agent_rig import DOOR as AGENTS_DOOR
from tests.agent_rig import Rig, standing
from tests.card_desk import repeatable
from tests.door_rig import DOOR, PATIENCE_S, DoorRig, door_rig
from tests.esam_desk import ESAM_SERIAL, EsamDesk


class Fitted:
    """A door rig whose domain is on a virtual ESAM."""

    def __init__(self, rig: DoorRig):
        self.rig = rig
        self.file = rig.folder / "esam.bin"
        self.authority = EsamDesk("intl", path=self.file).issue().load(1)
        self.esam = Esam(VirtualSlot(self.file, repeatable(5)), ESAM_SERIAL, [DOOR])
        self.esam.lend = self.lend
        rig.elements.esams = (self.esam,)
        self.watch = EsamWatch([self.esam], rig.recorder)

    async def lend(self, serial, challenge, loan):
        return self.authority.control.lend(
            challenge,
            index=loan.index,
            version=loan.version,
            card_id=loan.card_id,
            transport_key=loan.transport_key,
        )

    def take_out(self):
        self.file.rename(self.file.with_suffix(".out"))

    def put_back(self):
        self.file.with_suffix(".out").rename(self.file)

    async def events(self, *names: str) -> list[dict]:
        return [data for _, data in await self.rig.events(*names)]

    async def until_told(self, name: str) -> dict:
        async with asyncio.timeout(PATIENCE_S):
            while not (found := await self.events(name)):
                pass  # each look goes to the disk and back, so others get their turn
        return found[-1]


@pytest.fixture
async def fitted(tmp_path):
    async with door_rig(tmp_path) as rig:
        fitted = Fitted(rig)
        await rig.put_policy()
        await rig.start()
        watching = asyncio.create_task(fitted.watch.run())
        yield fitted
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_card_that_was_bound_with_it_opens(fitted):
    card = await fitted.rig.card()
    assert await fitted.rig.tap(card) is Feedback.GRANTED
    await fitted.rig.until_strike(released=True)
    assert await fitted.events("esam.unavailable") == []
    assert list(fitted.rig.folder.glob("*.sealed")) == [], "no secret in software beside it"


async def test_without_it_nobody_comes_in_everybody_gets_out_and_it_is_said_once(fitted):
    rig, card = fitted.rig, await fitted.rig.card()
    fitted.take_out()
    for _ in range(3):
        assert await rig.tap(card) is Feedback.ERROR
    (reason,) = {each["reason"] for each in await fitted.events("access.denied")}
    assert reason == "secure_element_unavailable"
    assert rig.strike == []
    told = await fitted.until_told("esam.unavailable")
    assert (told["reason"], told["serial"]) == ("removed", ESAM_SERIAL.hex())
    assert told["domains"] == [DOOR]
    assert await rig.tap(card, "out") is Feedback.GRANTED
    await rig.until_strike(released=True)
    fitted.put_back()
    assert await rig.tap(card) is Feedback.GRANTED
    cleared = await fitted.until_told("esam.unavailable.cleared")
    assert cleared["serial"] == ESAM_SERIAL.hex()
    assert len(await fitted.events("esam.unavailable")) == 1


async def test_it_is_told_before_anybody_stands_at_the_door(tmp_path):
    async with door_rig(tmp_path) as rig:
        fitted = Fitted(rig)
        fitted.take_out()
        watching = asyncio.create_task(fitted.watch.run())
        told = await fitted.until_told("esam.unavailable")
        assert told["reason"] == "missing"
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_what_was_met_is_told_though_it_is_over_by_the_next_look(tmp_path):
    async with door_rig(tmp_path) as rig:
        fitted = Fitted(rig)
        fitted.take_out()
        with pytest.raises(EsamUnavailable):
            await fitted.esam.challenge()
        fitted.put_back()
        watching = asyncio.create_task(fitted.watch.run())
        await fitted.until_told("esam.unavailable.cleared")
        assert (await fitted.until_told("esam.unavailable"))["reason"] == "missing"
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_another_esam_opens_nothing_even_with_the_same_keys(fitted):
    rig, card = fitted.rig, await fitted.rig.card()
    fitted.take_out()
    other = EsamDesk("intl", serial=bytes(8), path=fitted.file)
    other.secrets = fitted.authority.secrets
    other.issue().load(1)
    assert await rig.tap(card) is Feedback.ERROR
    assert (await fitted.until_told("esam.unavailable"))["reason"] == "wrong_serial"


async def test_a_door_of_another_domain_goes_on_with_its_own_element(fitted):
    rig = fitted.rig
    fitted.take_out()
    await rig.put_policy(door={"domain": "other"})
    assert await rig.tap(await rig.card("other")) is Feedback.GRANTED


@pytest.mark.system
@pytest.mark.parametrize("suite", ["gm", "intl"])
async def test_from_issuing_to_opening_with_the_commands_an_installer_has(
    tmp_path, mosquitto, suite
):
    rig = Rig(tmp_path, suite, mosquitto.port)
    chip, file, key = (tmp_path / name for name in ("esam.bin", "issued.json", "issuing.key"))
    with_it = ("--virtual", str(chip), "--suite", suite)
    sealed = ("--file", str(file), "--issuing-key", str(key))
    serial = (await run("esam", "issue", *with_it, *sealed)).strip()
    rig.config.write_text(
        rig.config.read_text()
        + f'[[esams]]\nkind = "virtual"\npath = "esam.bin"\nserial = "{serial}"\n'
        f'domains = ["{AGENTS_DOOR}"]\n'
    )
    load(chip, file, key)
    assert '"versions": {"1"' in await run("esam", "info", "--virtual", str(chip))
    card = rig.make_card(1)
    await rig.bind(card, options=("--issued", str(file), "--issuing-key", str(key)))
    async with standing(rig) as server:
        await rig.start()
        await server.applied(await server.put_policy())
        async with rig.doorway() as doorway:
            assert await doorway.tap(card) == "granted"
            chip.rename(tmp_path / "taken")
            assert await doorway.tap(card) == "error"
            await server.until(lambda: "esam.unavailable" in server.names)
            (tmp_path / "taken").rename(chip)
            assert await doorway.tap(card) == "granted"
            await server.until(lambda: "esam.unavailable.cleared" in server.names)
        assert await rig.end(signal.SIGTERM) == 0
    told = "\n".join(str(line) for line in rig.log)
    control = IssuedEsam.read(file.read_bytes()).control_key(key.read_bytes())
    assert control.key.hex() not in told + file.read_text()


async def run(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_agent.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


def load(chip, file, key) -> None:
    """What the key authority does: it has the issuing file, the key, and secrets of its own."""
    control = IssuedEsam.read(file.read_bytes()).control_key(key.read_bytes())
    desk = EsamDesk.__new__(EsamDesk)
    desk.suite, desk.serial, desk.control_key = control.suite, control.serial, control.key
    desk.secrets = {1: {purpose: token_bytes(16) for purpose in (1, 2, 3)}}
    desk.answers = []
    desk.chip = VirtualEsam.open(chip, token_bytes)
    desk.select()
    desk.load(1)
