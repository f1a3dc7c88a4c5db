"""The event stream over a real socket: no gap, no duplicate, whoever leaves or stops reading."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import httpx
import pytest

from server.feed import sse
from server.feed.reading import Feed, Filter
from server.store.events import last_position
from tests.sample_site import open_site, serving


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path / "ostiary.db") as opened:
        yield opened


@asynccontextmanager
async def subscribe(url, *, last_event_id=None, **query):
    """Yields an iterator of (name, id, data) messages."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    async with (
        httpx.AsyncClient(timeout=None) as client,
        client.stream(
            "GET", f"{url}/api/v1/events/stream", params=query, headers=headers
        ) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield messages(answer.aiter_lines())


async def messages(lines):
    fields: dict[str, str] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield fields.get("event", "message"), fields["id"], json.loads(fields["data"])
            fields = {}


async def test_a_subscriber_is_told_its_place_before_anything_happens(site):
    await site.add()
    async with serving(site) as url:
        async with subscribe(url) as stream:
            name, place, data = await anext(stream)
            assert name == "alive"
            assert data == {"cursor": place}
        # Cut off before the first event, yet nothing is missed.
        missed = await site.add()
        async with subscribe(url, last_event_id=place) as stream:
            await anext(stream)
            name, _, event = await anext(stream)
            assert (name, event["id"]) == ("message", missed)


async def test_a_subscriber_that_comes_back_again_and_again_sees_each_event_once(site):
    total = 300
    added: list[str] = []
    seen: list[str] = []

    async def write():
        for _ in range(total):
            added.append(await site.add())

    async with serving(site) as url, asyncio.TaskGroup() as group:
        place = await beginning(url)
        group.create_task(write())
        while len(seen) < total:
            async with subscribe(url, last_event_id=place) as stream:
                read = 0
                async for name, place, data in stream:
                    if name == "message":
                        assert data["cursor"] == place
                        seen.append(data["id"])
                        read += 1
                    # An odd number, so that cuts fall inside pages too.
                    if read >= 17 or len(seen) == total:
                        break
    assert seen == added


async def test_fifty_subscribers_see_the_same_and_one_that_does_not_read_holds_up_nobody(site):
    async with serving(site) as url, asyncio.TaskGroup() as group:
        start = await beginning(url)
        host, port = url.removeprefix("http://").split(":")
        idle = socket.create_connection((host, int(port)))
        idle.sendall(
            f"GET /api/v1/events/stream?after={start} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        total = 40
        ready = asyncio.Semaphore(0)

        async def listen():
            async with subscribe(url, after=start) as stream:
                await anext(stream)
                ready.release()
                return [(await anext(stream))[2]["id"] for _ in range(total)]

        listeners = [group.create_task(listen()) for _ in range(50)]
        for _ in listeners:
            await ready.acquire()
        added = [await site.add(data={"filler": "x" * 3000}) for _ in range(total)]
        for listener in listeners:
            assert await listener == added
        idle.close()


async def test_only_what_was_asked_for_is_streamed(site):
    async with (
        serving(site) as url,
        subscribe(url, type="access.denied", door="back") as stream,
    ):
        await anext(stream)
        await site.add("access.denied")
        await site.add("door.opened", door="back")
        wanted = await site.add("access.denied", door="back")
        assert (await anext(stream))[2]["id"] == wanted


async def test_shutdown_ends_a_stream_after_what_was_committed(site):
    async with serving(site) as url, subscribe(url) as stream:
        await anext(stream)
        added = await site.add()
        assert (await anext(stream))[2]["id"] == added
        site.hub.close()
        assert [message async for message in stream] == []


async def test_silence_is_broken_by_keep_alives_that_carry_the_cursor(site):
    feed = Feed(site.engine, site.hub)
    stream = sse.stream(feed, 0, Filter(["io.ostiary.access.denied.v1"]), keep_alive_s=0.01)
    first = await anext(stream)
    assert b"retry: 2000" in first
    await site.add("door.opened")
    seen = {first}
    # The filter matches nothing, yet the place moves on: resuming won't read all that again.
    while len(seen) < 2:
        seen.add((await anext(stream)).replace(b"retry: 2000\n", b""))
        seen.discard(first.replace(b"retry: 2000\n", b""))
    (moved,) = seen - {first}
    assert moved.startswith(b"id: ")
    assert b"event: alive" in moved
    await stream.aclose()


async def test_an_event_another_process_wrote_is_found_without_the_bell(site):
    feed = Feed(site.engine, site.hub)
    stream = sse.stream(feed, 0, Filter(), keep_alive_s=0.01)
    await anext(stream)
    added = await site.add(announce=False)
    while b"event: alive" in (message := await anext(stream)):
        pass
    assert added.encode() in message
    await stream.aclose()


async def test_clients_that_leave_in_the_middle_leave_nothing_behind(site):
    before = len(asyncio.all_tasks())
    async with serving(site) as url:
        start = await beginning(url)
        for _ in range(30):
            await site.add()
            async with subscribe(url, after=start) as stream:
                await anext(stream)
        assert await last_position(site.engine) == 30
    assert site.engine.pool.checkedout() == 0
    tasks = [task for task in asyncio.all_tasks() if "_shutdown_watcher" not in repr(task)]
    assert len(tasks) <= before


async def beginning(url):
    async with httpx.AsyncClient() as client:
        page = (await client.get(f"{url}/api/v1/events", params={"last": 0})).json()
        return page["next"]


async def test_a_client_that_takes_nothing_is_dropped_and_its_stream_closed(site, monkeypatch):
    monkeypatch.setattr(sse, "SEND_TIMEOUT_S", 0.01)
    stream = sse.stream(Feed(site.engine, site.hub), 0, Filter())

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # the client's window is full, and stays so

    scope = {"type": "http", "method": "GET"}
    await sse.EventStream(stream)(scope, receive, send)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
