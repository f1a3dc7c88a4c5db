"""The built-in broker against strangers: what amqtt alone leaves open is closed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from cryptography import x509

from server.broker.bare import TurnedAway, Will, bare
from server.broker.builtin import BrokerUnavailable, guarded_broker, insecure_broker
from server.broker.grants import server_id
from server.broker.guarded import GuardedBroker
from server.broker.limits import MOST_FILTERS, MOST_IN_FLIGHT, MOST_PACKET_BYTES
from server.broker.rights import admitted_file
from server.pki import Revoked
from server.site import SiteError
from server.tls import listener_files
from tests.broker_rig import HOST, SITE, SecuredBuiltin

DOWN, UP = f"ostiary/{SITE}/down/front", f"ostiary/{SITE}/up/front"


async def alive(broker: SecuredBuiltin) -> bool:
    """Whether it serves an agent as if nothing had happened."""
    async with broker.server("front") as (server, _), broker.enter("front") as front:
        await front.publish(f"{UP}/events", b"alive")
        return await server.hears(b"alive")


async def test_whoever_names_anothers_client_id_does_not_end_its_session(secured_builtin):
    async with (
        secured_builtin.server("front", "back") as (server, _),
        secured_builtin.enter("front") as front,
    ):
        for name, other in (("back", "front"), ("stranger", "front"), ("back", server_id(SITE))):
            with pytest.raises(TurnedAway):
                async with secured_builtin.enter(name, other):
                    pass
        await front.publish(f"{UP}/events", b"still here")
        assert await server.hears(b"still here")


async def test_a_will_where_one_may_not_speak_is_no_way_in(secured_builtin):
    async with secured_builtin.server("front"):
        with pytest.raises(TurnedAway, match="refused"):
            async with secured_builtin.enter("front", will=Will(f"{DOWN}/command", b"x")):
                pass


async def test_an_empty_last_will_and_an_empty_message_are_passed_on(secured_builtin):
    async with secured_builtin.server("front") as (server, _):
        async with secured_builtin.enter("front", will=Will(f"{UP}/will", b"")) as front:
            await front.publish(f"{UP}/events", b"")
            assert await server.hears(b"")
            server.heard.clear()
            front.abort()
        assert await server.hears(b"")
        assert [each.topic for each in server.heard] == [f"{UP}/will"]


async def test_who_is_expelled_says_no_last_word(secured_builtin):
    async with secured_builtin.server("front") as (server, rights):
        async with secured_builtin.enter("front", will=Will(f"{UP}/will", b"last")) as front:
            await rights.expel("front")
            assert await front.ends()
        await rights.admit("front")
        async with secured_builtin.enter("front") as front:
            await front.publish(f"{UP}/events", b"later")
            assert await server.hears(b"later")
        assert not server.has(b"last")


async def test_what_an_agent_wants_kept_is_passed_on_but_not_kept(secured_builtin):
    async with secured_builtin.server("front") as (server, _):
        async with secured_builtin.enter("front") as front:
            await front.publish(f"{UP}/report", b"poison", retain=True)
            assert await server.hears(b"poison")
        server.heard.clear()
        await server.subscribe(f"{UP}/report")
        async with secured_builtin.enter("front") as front:
            await front.publish(f"{UP}/report", b"fence")
            assert await server.hears(b"fence")
        assert not server.has(b"poison")


async def test_a_certificate_that_was_taken_back_counts_no_more(secured_builtin):
    async with secured_builtin.server("front"):
        async with secured_builtin.enter("front") as front:
            shown = secured_builtin.who._files(secured_builtin.authority, "front").certificate
            serial = x509.load_pem_x509_certificate(shown.read_bytes()).serial_number
            now = datetime.now(UTC)
            crl = secured_builtin.authority.crl([Revoked(serial, now)], now)
            (secured_builtin.site.path / "crl.pem").write_bytes(crl)
            assert await front.ends()
        with pytest.raises(TurnedAway):
            async with secured_builtin.enter("front"):
                pass


async def test_files_that_can_not_be_read_let_nobody_in_and_nobody_down(secured_builtin):
    async with secured_builtin.server("front") as (server, _):
        async with secured_builtin.enter("front"):
            pass
        admitted_file(secured_builtin.site.path).write_text('["front", "Back!"]')
        with pytest.raises(TurnedAway):
            async with secured_builtin.enter("back"):
                pass
        async with secured_builtin.enter("front") as front:
            await front.publish(f"{UP}/events", b"still here")
            assert await server.hears(b"still here")


async def test_it_does_not_start_with_a_file_that_can_not_be_read(secured_builtin):
    site = secured_builtin.site
    admitted_file(site.path).parent.mkdir(exist_ok=True)
    admitted_file(site.path).write_text("{")
    files = listener_files(site.path, secured_builtin.authority, HOST, datetime.now(UTC))
    with pytest.raises(SiteError, match="not a list of agents"):
        async with guarded_broker(site, files, 0):
            pass


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00",
        bytes(range(64)),
        b"\xff" * 64,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x10\xff\xff\xff\xff",
        b"\x10\xff\xff\xff\x7f",
        bytes.fromhex("101000044d5154540402003c000566726f6e") + b"\xff",
        bytes.fromhex("100f00044d5154540402003c000366726f"),
    ],
)
async def test_no_first_packet_stops_it(secured_builtin, raw):
    async with secured_builtin.server("front"):
        reader, writer = await asyncio.open_connection(
            HOST, secured_builtin.port, ssl=secured_builtin.who.tls("front"), server_hostname=HOST
        )
        writer.write(raw)
        writer.write_eof() if writer.can_write_eof() else writer.transport.abort()
        del reader
    assert await alive(secured_builtin)


@pytest.mark.parametrize(
    "raw",
    [
        bytes([0x30]) + b"\xff\xff\xff\x7f",  # PUBLISH of 256 MiB
        bytes([0x82]) + b"\xff\xff\xff\x7f" + b"\x00" * 64,  # SUBSCRIBE of as much
        bytes([0x30, 5, 0xFF, 0xFF]) + b"abc",  # a topic longer than its packet
        bytes([0xF0, 0]),
        bytes.fromhex("101100044d5154540402003c000566726f6e74"),  # CONNECT again
        bytes([0x30, 3, 0, 9]) + b"a" + bytes([0x30, 0]),
        bytes([0x34, 8, 0, 3]) + b"a/b" + b"\x00\x01x",  # QoS 2
    ],
)
async def test_a_client_that_sends_what_it_must_not_is_cut_off(secured_builtin, raw):
    async with secured_builtin.server("front"), secured_builtin.enter("front") as front:
        front._writer.write(raw)
        assert await front.ends()
    assert await alive(secured_builtin)


async def test_the_longest_packet_that_fits_is_passed_on(secured_builtin):
    topic = f"{UP}/events"
    payload = b"x" * (MOST_PACKET_BYTES - len(topic) - 4)
    async with secured_builtin.server("front") as (server, _), secured_builtin.enter("front") as it:
        await it.publish(topic, payload)
        assert await server.hears(payload)


async def test_no_client_holds_more_filters_than_it_needs(secured_builtin):
    async with secured_builtin.server("front") as (server, _), secured_builtin.enter("front") as it:
        for number in range(MOST_FILTERS + 1):
            await it.subscribe(f"{DOWN}/{number}")
        await server.publish(f"{DOWN}/{MOST_FILTERS - 1}", b"in")
        assert await it.hears(b"in")
        await server.publish(f"{DOWN}/{MOST_FILTERS}", b"beyond")
        await server.publish(f"{DOWN}/0", b"fence")
        assert await it.hears(b"fence")
        assert not it.has(b"beyond")


async def test_who_sends_on_while_nothing_is_taken_in_is_cut_off(secured_builtin, monkeypatch):
    async def never(*args: object) -> None:
        await asyncio.Event().wait()

    async with secured_builtin.server("front"), secured_builtin.enter("front") as front:
        monkeypatch.setattr(GuardedBroker, "_broadcast_message", never)
        topic = f"{UP}/events".encode()
        body = len(topic).to_bytes(2) + topic
        for number in range(1, 3 * MOST_IN_FLIGHT):
            packet = body + number.to_bytes(2) + b"flood"
            front._writer.write(bytes([0x32, len(packet)]) + packet)
        assert await front.ends()
        monkeypatch.undo()
    assert await alive(secured_builtin)


async def test_who_takes_nothing_is_cut_off_before_the_broker_is_full(secured_builtin, monkeypatch):
    monkeypatch.setattr("server.broker.guarded.MOST_QUEUED", MOST_IN_FLIGHT + 5)
    async with secured_builtin.server("front") as (server, _), secured_builtin.enter("front") as it:
        await it.subscribe(f"{DOWN}/#")
        it.mute = True
        for number in range(MOST_IN_FLIGHT + 10):
            await server.publish(f"{DOWN}/chunk", b"%d" % number)
        assert await it.ends()
    assert await alive(secured_builtin)


async def test_a_client_that_says_nothing_for_too_long_is_hung_up_on(secured_builtin, monkeypatch):
    async with secured_builtin.server("front") as (server, _):
        monkeypatch.setattr("server.broker.bare.KEEPALIVE_S", 1)
        async with secured_builtin.enter("front", will=Will(f"{UP}/will", b"gone")) as front:
            assert await front.ends()
        assert await server.hears(b"gone")


async def test_without_certificates_it_listens_on_loopback_alone():
    async with insecure_broker(0) as port, bare(HOST, port, "anyone", None) as client:
        await client.subscribe("#")
        await client.publish("ostiary/demo/down/front/ack", b"forged")
        await client.publish("ostiary/demo/up/front/events", b"fence")
        assert await client.hears(b"fence")
        assert not client.has(b"forged")


async def test_an_address_that_is_not_this_machines_is_named(secured_builtin):
    site = secured_builtin.site
    files = listener_files(site.path, secured_builtin.authority, HOST, datetime.now(UTC))
    with pytest.raises(BrokerUnavailable, match=r"can't listen on 192\.0\.2\.1"):
        async with guarded_broker(site, files, 0, "192.0.2.1"):
            pass
