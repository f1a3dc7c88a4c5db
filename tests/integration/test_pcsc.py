"""The card conversation through a real pcscd, and foreign programs talking to the virtual card."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import pytest_asyncio

from edge_agent.card.application import unlock
from edge_agent.card.binding import BindOutcome, bind
from edge_agent.card.rekeying import RekeyOutcome, rekey
from edge_agent.card.session import listed, perform
from edge_agent.card.unbinding import unbind
from edge_agent.clock import SystemClock
from edge_agent.core.proof import ProofOutcome
from edge_agent.readers.pcsc import PcscReader
from edge_agent.readers.port import CardRemoved, ReaderUnavailable
from edge_agent.virtual.card_os import VirtualCard
from edge_agent.virtual.chip import Tear, TearMoment
from edge_agent.virtual.vpcd import VPCD_PORT, hold_in_reader
from tests.card_desk import SERIAL, Desk
from tests.system import alone_with, require_module, require_program

pytestmark = pytest.mark.system
READER = "Virtual PCD 00 00"
PATIENCE_S = 30
"""How long anything may take before the test gives up; nothing waits that long when it works."""


@pytest.fixture(scope="module", autouse=True)
def pcscd_to_ourselves() -> Iterator[None]:
    """There is one socket of pcscd in a machine, and one port for a virtual card."""
    with alone_with("pcscd"):
        yield


def pcscd_answers() -> bool:
    """Whether a pcscd listens. A killed one leaves its socket behind, so the file says nothing."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        return probe.connect_ex("/run/pcscd/pcscd.comm") == 0


@contextlib.asynccontextmanager
async def running_pcscd() -> AsyncIterator[None]:
    program = require_program("pcscd", "pcscd vsmartcard-vpcd")
    require_program("vpcd-config", "vsmartcard-vpcd")
    if os.geteuid() != 0:
        pytest.skip("pcscd needs root to make its socket in /run")
    if pcscd_answers():
        pytest.fail("a pcscd runs on this machine already: stop it, then run this test again")
    process = await asyncio.create_subprocess_exec(
        program, "--foreground", stdout=DEVNULL, stderr=DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not pcscd_answers():  # it tells nobody when it has begun to listen
                assert process.returncode is None, "pcscd ended at once: run it by hand to see why"
                await asyncio.sleep(0.02)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@pytest_asyncio.fixture
async def pcscd() -> AsyncIterator[None]:
    async with running_pcscd():
        yield


def await_presence(present: bool, reader: str = READER) -> None:
    """Wait inside pcscd until it has seen the card come, or go."""
    scard = require_module("smartcard.scard", "pip install 'ostiary[pcsc]'")
    code, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)
    assert code == scard.SCARD_S_SUCCESS
    state = scard.SCARD_STATE_UNAWARE
    wanted = scard.SCARD_STATE_PRESENT if present else scard.SCARD_STATE_EMPTY
    for _ in range(PATIENCE_S):
        code, states = scard.SCardGetStatusChange(context, 1000, [(reader, state)])
        if code == scard.SCARD_S_SUCCESS:
            state = states[0][1] & ~scard.SCARD_STATE_CHANGED
            if state & wanted:
                break
    else:
        pytest.fail(f"pcscd never saw that {reader} was {'taken' if present else 'empty'}")
    scard.SCardReleaseContext(context)


@contextlib.asynccontextmanager
async def inserted(card: VirtualCard) -> AsyncIterator[None]:
    """The card is in pcscd's reader; after that pcscd has seen it go."""
    holding = asyncio.create_task(hold_in_reader(card, port=VPCD_PORT))
    await asyncio.to_thread(await_presence, True)
    try:
        yield
    finally:
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        await asyncio.to_thread(await_presence, False)


@pytest_asyncio.fixture
async def reader(pcscd: None) -> AsyncIterator[PcscReader]:
    require_module("smartcard.scard", "pip install 'ostiary[pcsc]'")
    reader = PcscReader(READER, SystemClock())
    yield reader
    await reader.close()


async def tap(reader: PcscReader, desk: Desk):
    async with asyncio.timeout(PATIENCE_S):
        channel = await reader.next_card()
        script = unlock(desk.question, desk.random)
        return await perform(
            script, channel, desk.element, SystemClock(), listed(desk.transport_keys)
        )


async def bind_at(reader: PcscReader, desk: Desk):
    async with asyncio.timeout(PATIENCE_S):
        channel = await reader.next_card()
        script = bind(desk.question, desk.random)
        return await perform(
            script, channel, desk.element, SystemClock(), listed(desk.transport_keys)
        )


@pytest.mark.parametrize("suite", ["gm", "intl"])
async def test_a_card_is_bound_and_opens_through_a_real_pcscd(reader, suite):
    desk = Desk(suite)
    card = desk.card()
    async with inserted(card):
        assert (await bind_at(reader, desk)).outcome is BindOutcome.BOUND
    async with inserted(card):
        proof = await tap(reader, desk)
    assert (proof.outcome, proof.card_id) == (ProofOutcome.PROVED, SERIAL.hex())
    assert proof.response_ms is not None


async def test_a_card_is_rekeyed_after_it_opened_and_unbound_through_a_real_pcscd(reader):
    desk = Desk("intl")
    card = desk.card()
    await desk.bind(card)
    overlap = replace(desk.question, key_version=2, accepted_key_versions=(1,))
    keys = listed(desk.transport_keys)

    def tapped():
        proof = yield from unlock(overlap, desk.random)
        return (yield from rekey(SERIAL, overlap, proof.key_version, desk.random))

    async def held_up(script):
        async with inserted(card), asyncio.timeout(PATIENCE_S):
            channel = await reader.next_card()
            return await perform(script, channel, desk.element, SystemClock(), keys)

    assert await held_up(tapped()) is RekeyOutcome.REKEYED
    assert (await held_up(unlock(overlap, desk.random))).key_version == 2
    assert (await held_up(unbind(overlap))).outcome is BindOutcome.UNBOUND
    assert not card.image.applications


async def test_a_card_that_stays_in_the_field_is_given_once_and_again_when_it_comes_back(reader):
    desk = Desk("intl")
    card = desk.card()
    async with inserted(card):
        assert (await tap(reader, desk)).outcome is ProofOutcome.NO_APPLICATION
        again = asyncio.create_task(reader.next_card())
        await asyncio.to_thread(await_presence, True)
        assert not again.done()
    async with inserted(card), asyncio.timeout(PATIENCE_S):
        assert (await (await again).transmit(bytes.fromhex("00a4000000")))[-2:] == b"\x90\x00"


async def test_a_cancelled_wait_leaves_the_next_card_to_the_next_wait(reader):
    desk = Desk("intl")
    waiting = asyncio.create_task(reader.next_card())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with inserted(desk.card()):
        assert (await tap(reader, desk)).outcome is ProofOutcome.NO_APPLICATION


async def test_a_card_pulled_out_while_binding_is_removed_and_repaired(reader):
    desk = Desk("gm")
    card = desk.card()
    card.arm(Tear(TearMoment.AFTER_APDU, 12))
    async with inserted(card):
        with pytest.raises(CardRemoved):
            await bind_at(reader, desk)
    async with inserted(card):
        assert (await bind_at(reader, desk)).outcome is BindOutcome.BOUND
    async with inserted(card):
        assert (await tap(reader, desk)).outcome is ProofOutcome.PROVED


async def test_without_pcscd_the_error_says_so_and_the_next_try_works():
    require_module("smartcard.scard", "pip install 'ostiary[pcsc]'")
    require_program("pcscd", "pcscd vsmartcard-vpcd")
    desk = Desk("intl")
    reader = PcscReader(READER, SystemClock())
    with pytest.raises(ReaderUnavailable, match="Is pcscd installed and running"):
        await reader.next_card()
    for _ in range(2):  # pcscd comes, and comes back
        async with running_pcscd(), inserted(desk.card()):
            assert (await tap(reader, desk)).outcome is ProofOutcome.NO_APPLICATION
        with pytest.raises(ReaderUnavailable):
            async with asyncio.timeout(PATIENCE_S):
                await reader.next_card()
    await reader.close()


async def run(*command: str, given: str = "") -> str:
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    async with asyncio.timeout(PATIENCE_S):
        output, _ = await process.communicate(given.encode())
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_opensc_tool_reads_the_card(pcscd):
    require_module("smartcard.scard", "pip install 'ostiary[pcsc]'")
    opensc = require_program("opensc-tool", "opensc")
    async with inserted(Desk("gm").card()):
        apdus = ("-s", "00:A4:00:00:02:3F:00:00", "-s", "00:84:00:00:10")
        output = await run(opensc, "--reader", "0", *apdus)
    assert output.count("SW1=0x90, SW2=0x00") == 2, output
    assert "00 11 22 33 44 55 66 AA" in output, output


async def test_scriptor_reads_the_card(pcscd):
    require_module("smartcard.scard", "pip install 'ostiary[pcsc]'")
    scriptor = require_program("scriptor", "pcsc-tools")
    script = "00 a4 00 00 02 3f 00\n00 84 00 00 10\n00 84 00 00 03\n00 ca 01 02\n"
    async with inserted(Desk("gm").card()):
        output = await run(scriptor, "-r", READER, given=script)
    assert "00 11 22 33 44 55 66 AA" in output.replace("\n", " "), output
    assert "67 00" in output, output
    assert "6D 00" in output, output
