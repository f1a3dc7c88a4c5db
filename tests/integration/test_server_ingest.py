"""The running server: events in, durable, then visible, then acknowledged."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import ExitStack, closing

import aiomqtt
import httpx
import pytest
from sqlalchemy.exc import OperationalError

from schemas.topics import ACKNOWLEDGEMENT, down
from server.app import MOST_CONNECTIONS, Serving, database
from server.assembly import Assembly, Where
from server.broker.builtin import insecure_broker
from server.config import ServerConfig
from server.enrolment.reception import Reached
from server.feed.hub import Hub
from server.ingest.intake import Intake, Message
from server.ingest.ledger import Ledger
from server.link_status import LinkStatus
from server.site import Site
from server.state import ServerState
from server.store.events import StoredEvent
from tests.agent_pen import SITE, Pen
from tests.broker import Mosquitto, mosquitto
from tests.server_rig import (
    LIMIT_S,
    agent,
    make_site,
    register,
    running,
    stored,
    until_stored,
)

__all__ = ["mosquitto"]


@pytest.fixture(params=["builtin", "mosquitto"])
def broker_url(request: pytest.FixtureRequest) -> str:
    if request.param == "builtin":
        return "builtin"
    broker: Mosquitto = request.getfixturevalue("mosquitto")
    return f"mqtt://127.0.0.1:{broker.port}"


@pytest.mark.parametrize("suite_name", ["gm", "intl"])
async def test_events_are_committed_shown_and_acknowledged(tmp_path, broker_url, suite_name):
    pen = Pen(suite_name=suite_name)
    pen.write_many(20)
    site = await make_site(tmp_path / "site", pen, suite_name=suite_name)
    async with running(site, broker_url) as serving, agent(serving, pen, site) as front:
        await front.send(*(pen.message(n) for n in range(1, 6)), pen.message(6, 20))
        await front.acknowledged(20)
        async with httpx.AsyncClient(base_url=serving.url) as http:
            page = (await http.get("/api/v1/events")).json()
            assert [event["id"] for event in page["events"]] == [
                f"{pen.head.chain}-{n}" for n in range(1, 21)
            ]
            metrics = (await http.get("/metrics")).text
            assert "ostiary_events_committed_total 20.0" in metrics
    assert [event.line for event in await stored(site)] == pen.lines


async def test_a_missing_line_is_asked_for_and_duplicates_are_acknowledged(tmp_path):
    pen = Pen()
    pen.write_many(6)
    site = await make_site(tmp_path / "site", pen)
    async with running(site) as serving, agent(serving, pen, site) as front:
        await front.send(pen.message(1, 2))
        await front.acknowledged(2)
        await front.send(pen.message(5), pen.message(6))
        word = await front.acknowledged(2, resend=True)
        assert word.sequence == 2
        await front.send(pen.message(2, 6))
        await front.acknowledged(6)
        await front.send(pen.message(3))
        assert (await front.acknowledged(6)).sequence == 6
    assert [event.line for event in await stored(site)] == pen.lines


def under(payload_of: bytes, signature_of: bytes) -> bytes:
    """One message's payload under another's signature."""
    envelope = json.loads(payload_of)
    envelope["signatures"] = json.loads(signature_of)["signatures"]
    return json.dumps(envelope).encode()


async def test_each_attack_is_an_alarm_in_the_servers_own_chain(tmp_path):
    front, back, stranger = Pen("front"), Pen("back"), Pen("stranger")
    for pen in (front, back, stranger):
        pen.write_many(3)
    other = Pen("front")
    other.write("door.opened")
    site = await make_site(tmp_path / "site", front, back)
    async with running(site) as serving, agent(serving, front, site) as link:
        await link.send(front.message(1))
        await link.acknowledged(1)
        await link.send(
            other.message(1),
            stranger.message(1),
            b"rubbish",
            back.message(1),
            under(front.message(2), front.message(3)),
            front.seal(b"\n".join([front.lines[2], front.lines[1]])),
        )
        front.begin("f" * 16)
        front.write()
        await link.send(front.message(1))
        await link.acknowledged(1)
        expected = {
            "fork",
            "unknown_key",
            "malformed",
            "wrong_topic",
            "bad_signature",
            "broken_chain",
            "new_chain",
        }

        def named(events: list[StoredEvent]) -> bool:
            lines = [e.line.decode() for e in events if e.source == "server"]
            return all(any(f'"kind":"{kind}"' in line for line in lines) for kind in expected)

        await until_stored(site, named)
    from_agents = [e.line for e in await stored(site) if e.source != "server"]
    assert len(from_agents) == 2


async def test_an_agent_added_while_the_server_runs_is_believed_at_once(tmp_path):
    pen = Pen()
    pen.write()
    site = await make_site(tmp_path / "site")
    async with running(site) as serving, agent(serving, pen, site) as front:
        await register(site, pen)
        async with asyncio.timeout(LIMIT_S):
            while not await stored_lines(site):
                await front.send(pen.message(1))  # as agents do until they are acknowledged
                await asyncio.sleep(0.1)
        await front.acknowledged(1)


async def stored_lines(site: Site) -> list[bytes]:
    return [event.line for event in await stored(site) if event.source != "server"]


async def test_on_connecting_the_server_tells_each_agent_where_it_stands(tmp_path, mosquitto):
    pen = Pen()
    pen.write_many(3)
    site = await make_site(tmp_path / "site", pen)
    url = f"mqtt://127.0.0.1:{mosquitto.port}"
    async with running(site, url) as serving, agent(serving, pen, site) as front:
        await front.send(pen.message(1, 3))
        await front.acknowledged(3)
    async with agent(Serving("", url, ""), pen, site) as front, running(site, url):
        word = await front.acknowledged(3, resend=True)
        assert word.sequence == 3


async def test_the_link_comes_back_after_the_broker_was_killed(tmp_path, mosquitto):
    pen = Pen()
    pen.write_many(2)
    site = await make_site(tmp_path / "site", pen)
    url = f"mqtt://127.0.0.1:{mosquitto.port}"
    async with running(site, url) as serving:
        async with agent(serving, pen, site) as front:
            await front.send(pen.message(1))
            await front.acknowledged(1)
        mosquitto.kill()
        mosquitto.start()
        async with agent(serving, pen, site) as front:
            await front.acknowledged(1, resend=True)
            await front.send(pen.message(2))
            await front.acknowledged(2)


async def test_what_was_taken_in_before_the_stop_is_committed(tmp_path):
    pen = Pen()
    pen.write_many(1200)
    site = await make_site(tmp_path / "site", pen)
    url, config = "mqtt://127.0.0.1:1", ServerConfig()
    async with database(site, config) as engine:
        state = ServerState(engine, Hub(), SITE, site.suite, LinkStatus(url))
        with ExitStack() as stack:
            parts = Assembly(
                site=site,
                authority=site.authority({}),
                config=config,
                environ={},
                state=state,
                where=Where(url, "server", Reached("127.0.0.1", 1, url)),
                stack=stack,
            )
            await parts.load()
            for n in range(1, 1201):
                assert parts.intake.offer(Message(pen.topic, pen.message(n)))
            parts.intake.close()
            assert not parts.intake.offer(Message(pen.topic, b"too late"))
            await parts.pipeline.run()
        assert state.hub.position == 1200
    assert [event.line for event in await stored(site)] == pen.lines


async def test_a_full_intake_drops_and_the_dropped_come_again(tmp_path):
    intake = Intake(max_messages=2, max_bytes=12)  # each topic is a byte too
    assert intake.offer(Message("t", b"12345"))
    assert not intake.offer(Message("t", b"123456"))
    assert intake.offer(Message("t", b"12345"))
    assert not intake.offer(Message("t", b""))
    assert len(await intake.take(5, 1)) == 1  # at least one, whatever its size
    assert intake.offer(Message("t", b"1"))


class Failing:
    """The next commit fails once armed, just before it would be durable."""

    def __init__(self) -> None:
        self.armed = False
        self.failed = asyncio.Event()


@pytest.fixture
def failing_commits(monkeypatch: pytest.MonkeyPatch) -> Failing:
    failing = Failing()
    real = Ledger._change_doors

    async def change_doors(self: Ledger, *args: object) -> None:
        await real(self, *args)
        if failing.armed:
            failing.armed = False
            failing.failed.set()
            raise OperationalError("commit", {}, OSError("disk full"))

    monkeypatch.setattr(Ledger, "_change_doors", change_doors)
    monkeypatch.setattr("server.ingest.pipeline.FIRST_BACKOFF_S", 0.01)
    return failing


async def test_a_stranger_does_not_end_the_server_though_the_agents_cannot_be_read(
    tmp_path, monkeypatch: pytest.MonkeyPatch
):
    pen, stranger = Pen(), Pen("stranger")
    pen.write()
    stranger.write()
    site = await make_site(tmp_path / "site", pen)
    asked = asyncio.Event()

    async def registry_stamp(*_: object) -> tuple[int, int]:
        asked.set()
        raise OperationalError("select", {}, OSError("EIO"))

    async with running(site) as serving, agent(serving, pen, site) as front:
        monkeypatch.setattr("server.ingest.registry.registry_stamp", registry_stamp)
        monkeypatch.setattr("server.ingest.registry.REFRESH_INTERVAL_S", 0)
        await front.send(stranger.message(1), topic=stranger.topic)
        async with asyncio.timeout(LIMIT_S):
            await asked.wait()
        await front.send(pen.message(1))
        await front.acknowledged(1)


async def test_a_failed_commit_acknowledges_nothing_and_shows_nothing(
    tmp_path, failing_commits: Failing
):
    pen = Pen()
    pen.write_many(4)
    site = await make_site(tmp_path / "site", pen)
    async with running(site) as serving, agent(serving, pen, site) as front:
        await front.send(pen.message(1))
        await front.acknowledged(1)
        failing_commits.armed = True
        await front.send(pen.message(2))
        async with asyncio.timeout(LIMIT_S):
            await failing_commits.failed.wait()
        assert [event.line for event in await stored(site)] == pen.lines[:1]
        await front.send(pen.message(3))  # beyond what the database has: asked for again
        word = await front.acknowledged(1, resend=True)
        assert word.sequence == 1
        await front.send(pen.message(2, 4))
        await front.acknowledged(4)
    assert [event.line for event in await stored(site)] == pen.lines


def take_position(site: Site, position: int) -> None:
    """On another thread: the server, in this one, may be in the middle of a transaction."""
    with closing(sqlite3.connect(site.database)) as db, db:
        db.execute(
            "insert into events (position, source, chain, sequence, line, type, subject,"
            " time_us, recorded_us) values (?, 'x', 'x', 1, x'00', 't', 's', 0, 0)",
            [position],
        )


async def test_a_writer_from_outside_makes_the_commit_fail_and_the_server_read_again(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("server.ingest.pipeline.FIRST_BACKOFF_S", 0.01)
    pen = Pen()
    pen.write_many(2)
    site = await make_site(tmp_path / "site", pen)
    async with running(site) as serving, agent(serving, pen, site) as front:
        await front.send(pen.message(1))
        await front.acknowledged(1)
        await asyncio.to_thread(take_position, site, 2)
        async with asyncio.timeout(LIMIT_S):
            while len(await stored(site)) < 3:
                await front.send(pen.message(2))  # as agents do until they are acknowledged
                await asyncio.sleep(0.1)
        await front.acknowledged(2)


async def test_an_alarm_whose_commit_failed_is_said_by_the_next_one(
    tmp_path, failing_commits: Failing
):
    pen = Pen()
    pen.write()
    site = await make_site(tmp_path / "site", pen)
    async with running(site) as serving, agent(serving, pen, site) as front:
        failing_commits.armed = True
        await front.send(b"rubbish")
        async with asyncio.timeout(LIMIT_S):
            await failing_commits.failed.wait()
        await front.send(pen.message(1))
        await front.acknowledged(1)
    assert any(b'"kind":"malformed"' in event.line for event in await stored(site))


async def test_neither_bad_packets_nor_dead_clients_stop_the_builtin_broker(tmp_path):
    pen = Pen()
    pen.write_many(2)
    site = await make_site(tmp_path / "site", pen)
    async with running(site) as serving, agent(serving, pen, site) as front:
        port = int(serving.broker.rpartition(":")[2])
        connect = bytes.fromhex("101000044d5154540402003c000478787878")
        for raw in (b"", b"\x00", b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\xff",
                    connect, connect + b"\x32\x05\x00\x01a", connect + b"\xf0\x00",
                    connect + b"\x82\x03\x00\x01\x00", connect + b"\x30\x02\x00\x09"):  # fmt: skip
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(raw)
            await writer.drain()
            writer.transport.abort()
        await front.send(pen.message(1))
        await front.acknowledged(1)


async def test_the_builtin_broker_alone_serves_a_server_in_another_process(tmp_path):
    pen = Pen()
    pen.write()
    site = await make_site(tmp_path / "site", pen)
    async with (
        insecure_broker(0) as port,
        running(site, f"mqtt://127.0.0.1:{port}") as serving,
        agent(serving, pen, site) as front,
    ):
        await front.send(pen.message(1))
        await front.acknowledged(1)


async def test_only_the_server_may_speak_downwards_on_the_builtin_broker(tmp_path):
    pen = Pen()
    site = await make_site(tmp_path / "site", pen)
    async with running(site) as serving, agent(serving, pen, site) as front:
        pen.write()
        port = int(serving.broker.rpartition(":")[2])
        async with aiomqtt.Client("127.0.0.1", port, identifier="server-demo") as impostor:
            await impostor.publish(down(SITE, pen.agent, ACKNOWLEDGEMENT), b"forged", qos=0)
            await impostor.publish("ostiary/demo/all/x", b"", qos=0)
        await front.send(pen.message(1))
        await front.acknowledged(1)  # the forged word did not come before it


async def test_any_number_of_web_clients_is_refused_beyond_a_bound_and_events_go_on(tmp_path):
    pen = Pen()
    site = await make_site(tmp_path / "site", pen)
    async with running(site) as serving, agent(serving, pen, site) as front:
        port = int(serving.url.rpartition(":")[2])
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST_CONNECTIONS)]
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{serving.url}/livez")).status_code == 503
        pen.write()
        await front.send(pen.message(1))
        await front.acknowledged(1)
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{serving.url}/livez")).status_code == 200
