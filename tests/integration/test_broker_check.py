"""The check sees each weakness of a broker that has one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from server.broker import admission, attempts, guarded
from server.broker.bare import Bare
from server.broker.check import CheckImpossible, check_broker
from server.broker.grants import agent_grant
from server.broker.guarded import GuardedBroker, Handler
from tests.broker_rig import SecuredBuiltin, SecuredMosquitto, wrong

UNBOUNDED = 10**9


def patient(patch):
    """For a weakness that shows in something that comes some time."""
    patch(attempts, "_A_WHILE_S", 3.0)


def hears_all(patch):
    patch(
        admission,
        "agent_grant",
        lambda site, agent: replace(agent_grant(site, agent), receive=("#", "$share/#")),
    )


def speaks_for_all(patch):
    patch(
        admission,
        "agent_grant",
        lambda site, agent: replace(agent_grant(site, agent), publish=("#",), retain=True),
    )


def believes_the_client_id(patch):
    rules = admission.Admission.rules

    def lax(self, who, client_id):
        return rules(self, replace(who, name=client_id), client_id)

    patch(admission.Admission, "rules", lax)


def takes_any_will(patch):
    patient(patch)
    patch(guarded, "_may_leave_its_will", lambda session, rules: True)


def takes_packets_of_any_size(patch):
    patch(guarded, "MOST_PACKET_BYTES", UNBOUNDED)


def sends_without_end(patch):
    patient(patch)
    start = Handler.__init__

    def lax(self, *args, **kwargs):
        start(self, *args, **kwargs)
        self._in_flight = guarded.asyncio.Semaphore(UNBOUNDED)

    patch(Handler, "__init__", lax)


def expels_nobody(patch):
    patient(patch)
    patch(admission.Admission, "refresh", lambda self: False)
    patch(
        admission.Admission,
        "admits",
        lambda self, who: who is not None and not who.name.startswith("nobody"),
    )


def keeps_connections_of_the_expelled(patch):
    def lax(self):
        self._entry.refresh()

    patch(GuardedBroker, "refresh", lax)


@pytest.mark.parametrize(
    ("weakness", "seen"),
    [
        (
            hears_all,
            (
                "listen to ostiary/demo/down/broker-victim/#",
                "listen to #",
                "listen to ostiary/+/#",
                "listen to ostiary/demo/up/+/will",
            ),
        ),
        (
            speaks_for_all,
            (
                "speak on ostiary/demo/up/broker-victim/events",
                "speak on ostiary/demo/down/broker-victim/command with QoS 0",
                "speak on ostiary/demo/all/revocation",
                "leave a retained message on ostiary/demo/all/lockdown",
            ),
        ),
        (believes_the_client_id, ("connect as broker-victim",)),
        (takes_any_will, ("leave a last will on ostiary/demo/down/broker-victim/command",)),
        (takes_packets_of_any_size, ("send a packet of more than",)),
        (sends_without_end, ("have messages sent that it does not acknowledge",)),
        (expels_nobody, ("come back once it is expelled",)),
        (keeps_connections_of_the_expelled, ("stay connected once it is expelled",)),
    ],
)
async def test_a_weak_broker_is_found_out(
    secured_builtin: SecuredBuiltin, monkeypatch, weakness, seen
):
    weakness(monkeypatch.setattr)
    findings = "\n".join(wrong(await check_broker(secured_builtin.target)))
    for each in seen:
        assert each in findings


@pytest.mark.system
async def test_a_mosquitto_that_grants_by_default_is_found_out(
    secured_mosquitto: SecuredMosquitto, monkeypatch
):
    patient(monkeypatch.setattr)
    await secured_mosquitto.stop()
    file = secured_mosquitto.process.file("rights.json")
    document = json.loads(file.read_text())
    document["defaultACLAccess"] = dict.fromkeys(document["defaultACLAccess"], True)
    file.write_text(json.dumps(document))
    await secured_mosquitto.start()
    findings = "\n".join(wrong(await check_broker(secured_mosquitto.target)))
    for seen in ("listen to #", "speak on ostiary/demo/all/root", "leave a last will on"):
        assert seen in findings


async def test_a_broker_that_passes_nothing_on_is_not_called_safe(
    secured_builtin: SecuredBuiltin, monkeypatch
):
    monkeypatch.setattr(admission, "agent_grant", lambda site, agent: agent_grant("nowhere", agent))
    monkeypatch.setattr(Bare.hears, "__defaults__", (0.5,))
    with pytest.raises(CheckImpossible, match="was let in, but does not hear"):
        await check_broker(secured_builtin.target)
