from __future__ import annotations

import asyncio
import builtins
import sys

import pytest

from edge_agent.readers.pcsc import PcscReader
from edge_agent.readers.port import CardRemoved, Feedback, ReaderUnavailable
from edge_agent.readers.virtual import VirtualReader
from tests.card_desk import TickingClock


async def echo(apdu: bytes) -> bytes:
    return apdu


async def silent(_: bytes) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets that event")


async def test_a_presented_card_answers():
    reader = VirtualReader(TickingClock())
    waiting = asyncio.create_task(reader.next_card())
    await asyncio.sleep(0)
    reader.present(echo)
    card = await waiting
    assert await card.transmit(b"hello") == b"hello"
    assert card.entered == pytest.approx(0.001)


async def test_a_card_that_stays_is_given_once():
    reader = VirtualReader(TickingClock())
    reader.present(echo)
    await reader.next_card()
    again = asyncio.create_task(reader.next_card())
    await asyncio.sleep(0)
    assert not again.done()
    reader.present(echo)
    assert await (await again).transmit(b"x") == b"x"


async def test_a_card_taken_away_before_it_was_noticed_is_not_given():
    reader = VirtualReader(TickingClock())
    reader.present(silent)
    reader.remove()
    reader.present(echo)
    assert await (await reader.next_card()).transmit(b"x") == b"x"


async def test_a_card_taken_away_in_the_middle_of_an_answer_is_removed():
    reader = VirtualReader(TickingClock())
    reader.present(silent)
    card = await reader.next_card()
    answer = asyncio.create_task(card.transmit(b"x"))
    await asyncio.sleep(0)
    reader.remove()
    with pytest.raises(CardRemoved):
        await answer
    with pytest.raises(CardRemoved):
        await card.transmit(b"x")


async def test_a_cancelled_wait_loses_no_card():
    reader = VirtualReader(TickingClock())
    waiting = asyncio.create_task(reader.next_card())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    reader.present(echo)
    assert await (await reader.next_card()).transmit(b"x") == b"x"


async def test_a_cards_own_failure_reaches_the_caller():
    async def torn(_: bytes) -> bytes:
        raise CardRemoved("torn")

    reader = VirtualReader(TickingClock())
    reader.present(torn)
    with pytest.raises(CardRemoved, match="torn"):
        await (await reader.next_card()).transmit(b"x")


async def test_feedback_reaches_the_listener():
    heard: list[Feedback] = []
    reader = VirtualReader(TickingClock(), heard.append)
    assert await reader.feedback(Feedback.GRANTED), "it was shown"
    await reader.close()
    assert heard == [Feedback.GRANTED]


async def test_a_pcsc_reader_says_that_it_shows_nothing():
    pytest.importorskip("smartcard.scard")
    reader = PcscReader("none", TickingClock())
    assert not await reader.feedback(Feedback.IDENTIFY)
    await reader.close()


def test_without_pyscard_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("smartcard"):
            raise ImportError(name)
        return real(name, *rest)

    for name in [n for n in sys.modules if n.startswith("smartcard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "smartcard", None)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ReaderUnavailable, match=r"ostiary\[pcsc\]"):
        PcscReader("ACS", TickingClock())
