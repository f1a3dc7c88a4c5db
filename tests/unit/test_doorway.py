import asyncio
import json
import secrets
import stat

import pytest

from edge_agent.clock import SystemClock
from edge_agent.core.door_input import ContactOpened, RexPressed
from edge_agent.readers.port import CardRemoved, Feedback
from edge_agent.virtual.card_os import VirtualCard
from edge_agent.virtual.doorway import MAX_LINE_BYTES, Doorway
from edge_agent.virtual.people import Doorway as Street


@pytest.fixture
def doorway(tmp_path):
    return Doorway(tmp_path / "doorway.sock", SystemClock())


async def lines(reader, count):
    return [json.loads(await reader.readline()) for _ in range(count)]


async def test_a_card_in_the_street_answers_the_reader_inside(tmp_path, doorway):
    reader = doorway.reader("front", "in")
    doorway.door_io("front")
    card = VirtualCard(None, "intl", bytes(8), bytes(16), secrets.token_bytes)

    async def serve():
        channel = await reader.next_card()
        answer = await channel.transmit(bytes.fromhex("00a4000c023f00"))
        await reader.feedback(Feedback.GRANTED)
        return answer

    async with doorway, Street(tmp_path / "doorway.sock", "front") as street:
        serving = asyncio.create_task(serve())
        assert await street.tap(card) == "granted"
        assert len(await serving) >= 2


async def test_a_reader_that_blinks_is_seen_and_answers_no_card(tmp_path, doorway):
    reader = doorway.reader("front", "in")
    doorway.door_io("front")
    card = VirtualCard(None, "intl", bytes(8), bytes(16), secrets.token_bytes)
    async with doorway, Street(tmp_path / "doorway.sock", "front") as street:
        tapping = asyncio.create_task(street.tap(card))
        await reader.next_card()
        await reader.feedback(Feedback.IDENTIFY)
        await street.identified.wait()
        assert not tapping.done()
        await reader.feedback(Feedback.DENIED)
        assert await tapping == "denied"


async def test_the_socket_is_private_and_goes_with_the_agent(tmp_path, doorway):
    doorway.door_io("front")
    path = tmp_path / "doorway.sock"
    async with doorway:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_door_is_moved_and_its_strike_watched(tmp_path, doorway):
    io = doorway.door_io("front")
    async with doorway, Street(tmp_path / "doorway.sock", "front") as street:
        await street.contact("open")
        assert await io.next_input() == ContactOpened()
        await street.press_rex()
        assert await io.next_input() == RexPressed()
        await io.set_strike(True)
        await street.strike(released=True)


async def test_a_card_goes_when_its_holder_goes(tmp_path, doorway):
    reader = doorway.reader("front", "in")
    async with doorway:
        _, writer = await asyncio.open_unix_connection(tmp_path / "doorway.sock")
        writer.write(b'{"present": {"door": "front", "direction": "in"}}\n')
        channel = await reader.next_card()
        transmitting = asyncio.create_task(channel.transmit(b"\x00\xa4\x00\x00"))
        writer.close()
        with pytest.raises(CardRemoved):
            await transmitting


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"[" * 5000 + b"\n",
        b"\xff\xfe\n",
        b"{}\n",
        b'{"response": "00"}\n',
        b'{"response": "zz"}\n',
        b'{"present": {"door": "other", "direction": "in"}}\n',
        b'{"door": "other", "contact": "open"}\n',
        b'{"door": "front", "contact": "ajar"}\n',
        b"x" * (MAX_LINE_BYTES * 2) + b"\n",
    ],
)
async def test_a_line_that_makes_no_sense_ends_the_connection_and_nothing_else(
    tmp_path, doorway, line
):
    doorway.door_io("front")
    async with doorway:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "doorway.sock")
        writer.write(line)
        ready, error = await lines(reader, 2)
        assert ready == {"ready": ["front"]}
        assert "error" in error
        assert await reader.read() == b""
        writer.close()
        async with Street(tmp_path / "doorway.sock", "front") as street:
            await street.press_rex()


async def test_an_agent_that_is_gone_is_noticed(tmp_path, doorway):
    doorway.reader("front", "in")
    street = Street(tmp_path / "doorway.sock", "front")
    assert not await street.is_open()
    card = VirtualCard(None, "intl", bytes(8), bytes(16), secrets.token_bytes)
    async with doorway:
        assert await street.is_open()
        assert not await Street(tmp_path / "doorway.sock", "back").is_open()
        await street.__aenter__()
        tap = asyncio.create_task(street.tap(card))
        await asyncio.sleep(0)
    with pytest.raises(EOFError):
        await tap
    await street.__aexit__(None, None, None)


async def test_a_card_stays_while_the_reader_goes_on_asking(tmp_path, doorway):
    reader = doorway.reader("front", "in")
    doorway.door_io("front")
    card = VirtualCard(None, "intl", bytes(8), bytes(16), secrets.token_bytes)
    select = bytes.fromhex("00a40000023f0000")

    async def serve():
        channel = await reader.next_card()
        await reader.feedback(Feedback.GRANTED)
        return [await channel.transmit(select) for _ in range(3)]

    async with doorway, Street(tmp_path / "doorway.sock", "front") as street:
        serving = asyncio.create_task(serve())
        assert await street.tap(card, stays_s=0.2) == "granted"
        assert len(await serving) == 3


async def test_the_answer_of_a_card_that_is_gone_is_not_taken_for_that_of_the_next(
    tmp_path, doorway
):
    reader = doorway.reader("front", "in")
    doorway.door_io("front")
    async with doorway:
        street, writer = await asyncio.open_unix_connection(str(tmp_path / "doorway.sock"))
        await lines(street, 1)

        def say(message):
            writer.write(json.dumps(message).encode() + b"\n")

        say({"present": {"door": "front", "card": 1}})
        first = await reader.next_card()
        asking = asyncio.create_task(first.transmit(b"\x00\xa4\x00\x00"))
        assert (await lines(street, 1))[0]["card"] == 1
        say({"present": {"door": "front", "card": 2}})
        second = await reader.next_card()
        with pytest.raises(CardRemoved):
            await asking
        answering = asyncio.create_task(second.transmit(b"\x00\xa4\x00\x00"))
        assert (await lines(street, 1))[0]["card"] == 2
        say({"response": "6985", "card": 1})
        say({"response": "9000", "card": 2})
        assert await answering == b"\x90\x00"
        writer.close()
