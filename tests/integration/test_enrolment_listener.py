"""What strangers get from the listener that devices enrol with: as little as can be."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl

import pytest

from tests.enrolment_rig import LOOPBACK, House, house


@pytest.fixture
async def rig(tmp_path, monkeypatch):
    monkeypatch.setattr("server.enrolment.listener.BURST", 10_000.0)
    async with house(tmp_path) as opened:
        yield opened


def post(rig: House, body: bytes, path: str = "/enrol/v1/requests") -> tuple[int, bytes]:
    context = ssl.create_default_context(cadata="\n".join(rig.site.root.authorities))
    connection = http.client.HTTPSConnection(LOOPBACK, rig.port, timeout=30, context=context)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def posted(rig: House, body: bytes) -> tuple[int, bytes]:
    return await asyncio.to_thread(post, rig, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"secret": 1, "enrolment": ""}',
        json.dumps({"secret": "0" * 30, "enrolment": "x", "more": 1}).encode(),
        b"\xff" * 100,
        b"[" * 5000,
    ],
)
async def test_what_is_no_request_is_turned_away(rig, body):
    status, answer = await posted(rig, body)
    assert status == 400
    assert b"Traceback" not in answer


async def test_a_long_request_is_cut_short(rig):
    assert (await posted(rig, b"x" * 200_000))[0] == 413


async def test_who_keeps_guessing_must_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("server.enrolment.listener.BURST", 20.0)
    async with house(tmp_path) as rig:
        await _guess(rig)


async def _guess(rig: House) -> None:
    body = json.dumps({"secret": "0" * 30, "enrolment": "x"}).encode()
    statuses = [(await posted(rig, body))[0] for _ in range(12)]
    assert statuses[0] == 403
    assert statuses[-1] == 429


async def test_the_listener_says_nothing_of_itself(rig):
    for path in ("/", "/docs", "/openapi.json", "/api/v1/events"):
        status, body = await asyncio.to_thread(post, rig, b"", path)
        assert (status, json.loads(body)) == (404, {"detail": "not here"})


async def test_the_listener_speaks_tls_1_3_alone(rig):
    context = ssl.create_default_context(cadata="\n".join(rig.site.root.authorities))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(LOOPBACK, rig.port, ssl=context)


async def test_connections_that_ask_nothing_are_few_and_do_not_last(rig, monkeypatch):
    context = ssl.create_default_context(cadata="\n".join(rig.site.root.authorities))
    monkeypatch.setattr("server.enrolment.listener.MOST_CONNECTIONS", 4)
    with monkeypatch.context() as patch:
        patch.setattr("server.enrolment.listener.LIFE_S", 1.0)
        silent = [await asyncio.open_connection(LOOPBACK, rig.port) for _ in range(3)]
        silent += [await asyncio.open_connection(LOOPBACK, rig.port, ssl=context)]
        reader, writer = await asyncio.open_connection(LOOPBACK, rig.port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""  # turned away before it said anything
        writer.close()
        for reader, writer in silent:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
    assert (await posted(rig, b"{}"))[0] == 400
