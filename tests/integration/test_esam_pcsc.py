"""Card in one reader, ESAM in another, both through a real pcscd."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from edge_agent.card.application import unlock
from edge_agent.card.binding import BindOutcome, bind
from edge_agent.card.session import listed, perform
from edge_agent.clock import SystemClock
from edge_agent.core.proof import ProofOutcome
from edge_agent.readers.pcsc import PcscReader
from edge_agent.secure_element.esam import EsamElement
from edge_agent.secure_element.esam_chip import Esam, EsamUnavailable, Loan
from edge_agent.secure_element.esam_slots import PcscSlot
from edge_agent.virtual.chip import Chip
from edge_agent.virtual.vpcd import VPCD_PORT, hold_in_reader
from schemas.keys import Item
from tests.card_desk import Desk
from tests.esam_desk import ESAM_SERIAL, EsamDesk
from tests.integration.test_pcsc import (
    PATIENCE_S,
    READER,
    await_presence,
    inserted,
    pcscd_to_ourselves,
    running_pcscd,
)
from tests.system import require_module

__all__ = ["pcscd_to_ourselves"]  # a fixture of this module too
pytestmark = pytest.mark.system
SLOT = "Virtual PCD 00 01"


@contextlib.asynccontextmanager
async def in_the_slot(chip: Chip) -> AsyncIterator[None]:
    holding = asyncio.create_task(hold_in_reader(chip, port=VPCD_PORT + 1))
    await asyncio.to_thread(await_presence, True, SLOT)
    try:
        yield
    finally:
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        await asyncio.to_thread(await_presence, False, SLOT)


@pytest_asyncio.fixture
async def reader() -> AsyncIterator[PcscReader]:
    require_module("smartcard.scard", "pip install 'ostiary[pcsc]'")
    async with running_pcscd():
        reader = PcscReader(READER, SystemClock())
        yield reader
        await reader.close()


@pytest_asyncio.fixture
async def esam(reader: PcscReader) -> AsyncIterator[Esam]:
    esam = Esam(PcscSlot(SLOT, SystemClock()), ESAM_SERIAL, ["front"])
    yield esam
    await esam.close()


async def held_up(reader: PcscReader, esam: Esam, desk: Desk, script):
    element, keys = EsamElement(esam, "front", desk.suite_name), listed(desk.transport_keys)
    async with asyncio.timeout(PATIENCE_S):
        return await perform(script, await reader.next_card(), element, SystemClock(), keys)


@pytest.mark.parametrize("suite", ["gm", "intl"])
async def test_keys_are_written_a_card_is_bound_and_it_opens(reader, esam, suite):
    desk, authority = Desk(suite), EsamDesk(suite).issue()
    card = desk.card()

    async def lend(serial: bytes, challenge: bytes, loan: Loan) -> bytes:
        assert serial == ESAM_SERIAL
        return authority.control.lend(
            challenge,
            index=loan.index,
            version=loan.version,
            card_id=loan.card_id,
            transport_key=loan.transport_key,
        )

    esam.lend = lend
    async with in_the_slot(authority.chip):
        challenge = await esam.challenge()
        package = authority.package(Item.KEYS, 1, challenge=challenge)
        await esam.write(package[:4], package[5:], challenge)
        assert set((await esam.table("front")).versions) == {1}
        async with inserted(card):
            script = bind(desk.question, desk.random)
            bound = await held_up(reader, esam, desk, script)
            assert bound.outcome is BindOutcome.BOUND
        async with inserted(card):
            proof = await held_up(reader, esam, desk, unlock(desk.question, desk.random))
            assert proof.outcome is ProofOutcome.PROVED


async def test_an_esam_that_is_taken_out_is_noticed_and_works_again_when_it_is_back(reader, esam):
    desk, authority = Desk("gm"), EsamDesk("gm").issue().load(1)
    with pytest.raises(EsamUnavailable, match="put the ESAM into it"):
        await esam.state()
    assert esam.trouble is not None
    assert esam.trouble.reason == "missing"
    for _ in range(2):
        async with in_the_slot(authority.chip):
            assert (await esam.state()).serial == ESAM_SERIAL
            assert esam.trouble is None
        async with inserted(desk.card()):
            with pytest.raises(EsamUnavailable):
                await esam.state()
        assert esam.trouble is not None
        assert esam.trouble.reason == "removed"


async def test_another_chip_in_the_slot_is_told_apart(reader, esam):
    for chip, reason in (
        (EsamDesk("gm", serial=bytes(8)).chip, "wrong_serial"),
        (Desk("gm").card(), "unfit"),
    ):
        async with in_the_slot(chip):
            with pytest.raises(EsamUnavailable) as refused:
                await esam.state()
            assert refused.value.reason == reason


async def test_a_pcscd_that_ends_and_comes_back_is_survived():
    require_module("smartcard.scard", "pip install 'ostiary[pcsc]'")
    authority = EsamDesk("intl").issue()
    esam = Esam(PcscSlot(SLOT, SystemClock()), ESAM_SERIAL, ["front"])
    with pytest.raises(EsamUnavailable, match="Is pcscd installed and running"):
        await esam.state()
    for _ in range(2):
        async with running_pcscd(), in_the_slot(authority.chip):
            assert (await esam.state()).control_version == 1
        with pytest.raises(EsamUnavailable, match="Is pcscd installed and running"):
            await esam.state()
    await esam.close()
