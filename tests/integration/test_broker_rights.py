"""A broker lets a device do its own and nothing else, for as long as it is admitted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from server.broker.bare import PATIENCE_S, TurnedAway, Will
from server.broker.check import CheckImpossible, check_broker
from server.broker.grants import PROBE, VICTIM, checker_id, server_id
from tests.broker_rig import SITE, SecuredBroker, SecuredMosquitto, wrong

DOWN = f"ostiary/{SITE}/down/front"
UP = f"ostiary/{SITE}/up/front"


async def may_nothing(broker: SecuredBroker, agent: str) -> bool:
    """Whether a client with that agent's certificate is not let in, or has no rights."""
    async with broker.enter(server_id(SITE)) as server:
        await server.subscribe(f"ostiary/{SITE}/up/#")
        try:
            async with broker.enter(agent) as device:
                await device.subscribe(f"ostiary/{SITE}/down/{agent}/#")
                await device.publish(f"ostiary/{SITE}/up/{agent}/events", b"said")
                await server.publish(f"ostiary/{SITE}/down/{agent}/ack", b"told")
                return not await device.hears(b"told", 0.3) and not server.has(b"said")
        except TurnedAway:
            return True


async def may_its_own(broker: SecuredBroker, agent: str) -> bool:
    """Whether a client with that agent's certificate is heard by the server, and hears it."""
    async with broker.enter(server_id(SITE)) as server, broker.enter(agent) as device:
        await server.subscribe(f"ostiary/{SITE}/up/#")
        await device.subscribe(f"ostiary/{SITE}/down/{agent}/#")
        await device.publish(f"ostiary/{SITE}/up/{agent}/events", b"said")
        await server.publish(f"ostiary/{SITE}/down/{agent}/ack", b"told")
        return await device.hears(b"told") and await server.hears(b"said")


async def test_nothing_forbidden_works_and_the_check_leaves_nobody_behind_with_rights(
    secured, monkeypatch
):
    monkeypatch.setattr("server.broker.attempts.CUT_OFF_S", PATIENCE_S)
    findings = await check_broker(secured.target)
    assert not wrong(findings)
    assert len(findings) > 80
    assert await may_nothing(secured, PROBE)
    assert await may_nothing(secured, VICTIM)


async def test_a_check_that_fails_leaves_nobody_behind_either(secured):
    target = secured.target
    broken = replace(target, stranger=lambda name: target.tls("nobody")._no_such_thing)
    with pytest.raises(AttributeError):
        await check_broker(broken)
    assert await may_nothing(secured, PROBE)


async def test_a_check_of_a_broker_that_is_not_there_says_so(secured):
    await secured.stop()
    with pytest.raises(CheckImpossible, match="see that it runs"):
        await check_broker(secured.target)
    await secured.start()


async def test_an_agent_has_its_rights_as_soon_as_it_is_admitted(secured):
    assert await may_nothing(secured, "front")
    async with secured.server() as (server, rights):
        await rights.admit("front")
        async with secured.enter("front") as front:
            await front.subscribe(f"{DOWN}/#")
            await front.publish(f"{UP}/events", b"said")
            assert await server.hears(b"said")
            await server.publish(f"{DOWN}/ack", b"told")
            assert await front.hears(b"told")


async def test_an_agent_that_is_expelled_is_cut_off_at_once_and_for_good(secured):
    async with (
        secured.server("front", "back") as (server, rights),
        secured.enter("front") as front,
        secured.enter("back") as back,
    ):
        await front.subscribe(f"{DOWN}/#")
        await rights.expel("front")
        assert await front.ends()
        await back.publish(f"ostiary/{SITE}/up/back/events", b"still here")
        assert await server.hears(b"still here")
    assert await may_nothing(secured, "front")


async def test_rights_outlive_a_restart_of_the_broker(secured):
    async with secured.server("front", "gone") as (_, rights):
        await rights.expel("gone")
    await secured.stop()
    await secured.start()
    assert await may_nothing(secured, "gone")
    async with secured.enter(server_id(SITE)) as server, secured.enter("front") as front:
        await front.subscribe(f"{DOWN}/#")
        await server.publish(f"{DOWN}/ack", b"told")
        assert await front.hears(b"told")


async def test_reconciling_lets_in_exactly_who_is_named(secured):
    async with secured.server("front", "gone") as (_, rights):
        await rights.reconcile(["front", "new"])
        await rights.reconcile(["front", "new"])
    assert await may_its_own(secured, "new")
    assert await may_nothing(secured, "gone")
    assert await may_its_own(secured, "front")


async def test_admitting_and_expelling_twice_changes_nothing(secured):
    async with secured.server() as (_, rights):
        await rights.admit("front")
        await rights.admit("front")
    assert await may_its_own(secured, "front")
    async with secured.server("front") as (_, rights):
        await rights.expel("front")
        await rights.expel("front")
    assert await may_nothing(secured, "front")


@pytest.mark.parametrize("name", [server_id(SITE), checker_id(SITE)])
async def test_no_agent_gets_a_name_of_the_servers_own(secured, name):
    async with secured.server("front") as (server, rights):
        with pytest.raises(ValueError, match="name of the server's own"):
            await rights.admit(name)
        with pytest.raises(ValueError, match="name of the server's own"):
            await rights.reconcile([name])
        await server.publish(f"{DOWN}/ack", b"still the server")


async def test_an_agent_that_comes_again_takes_the_place_of_its_older_connection(secured):
    async with (
        secured.server("front") as (server, _),
        secured.enter("front") as older,
        secured.enter("front") as newer,
    ):
        assert await older.ends()
        await newer.subscribe(f"{DOWN}/#")
        await server.publish(f"{DOWN}/ack", b"told")
        assert await newer.hears(b"told")


async def test_a_last_will_comes_when_the_connection_breaks(secured):
    async with secured.server("front") as (server, _):
        async with secured.enter("front", will=Will(f"{UP}/will", b"last")) as front:
            front.abort()
            await front.gone.wait()
        assert await server.hears(b"last")


async def test_who_comes_later_is_told_what_the_server_retained(secured):
    async with secured.server("front") as (server, _):
        await server.publish(f"{DOWN}/heartbeat", b"newest", retain=True)
        async with secured.enter("front") as front:
            await front.subscribe(f"{DOWN}/#")
            assert await front.hears(b"newest")
            assert front.heard[0].retained


@pytest.mark.system
async def test_reconciling_takes_back_rights_that_were_slipped_in(
    secured_mosquitto: SecuredMosquitto,
):
    await secured_mosquitto.stop()
    file = secured_mosquitto.process.file("rights.json")
    document = json.loads(file.read_text())
    document["defaultACLAccess"] = dict.fromkeys(document["defaultACLAccess"], True)
    everything = [
        {"acltype": kind, "topic": "#", "allow": True, "priority": 0}
        for kind in ("publishClientSend", "publishClientReceive", "subscribePattern")
    ]
    document["roles"].append({"rolename": "everything", "acls": everything})
    document["groups"].append({"groupname": "g", "roles": [{"rolename": "everything"}]})
    for name in ("slipped-in", "front"):
        document["clients"].append(
            {"username": name, "roles": [{"rolename": "everything"}], "groups": []}
        )
    file.write_text(json.dumps(document))
    await secured_mosquitto.start()
    assert await may_its_own(secured_mosquitto, "slipped-in")
    async with (
        secured_mosquitto.server("front") as (server, _),
        secured_mosquitto.enter("front") as front,
    ):
        await front.subscribe("#")
        await front.publish(f"ostiary/{SITE}/up/other/events", b"forged")
        await front.publish(f"{UP}/events", b"honest")
        assert await server.hears(b"honest")
        assert not server.has(b"forged")
        assert not front.heard
    assert await may_nothing(secured_mosquitto, "slipped-in")


@pytest.mark.system
async def test_orders_to_a_broker_that_heeds_none_end_in_a_connection_error(
    secured_mosquitto: SecuredMosquitto, monkeypatch
):
    async with secured_mosquitto.server("front") as (server, rights):
        monkeypatch.setattr("server.broker.dynamic_security.ANSWER_S", 0.05)
        server.on_message = None
        with pytest.raises(ConnectionError, match=r"did not answer on \$CONTROL"):
            await rights.expel("front")
