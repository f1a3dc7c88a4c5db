"""The next TLS certificate, from both sides of the link, without the link."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from edge_agent.config import load_config
from edge_agent.files import read_kek
from edge_agent.identity import open_identity
from edge_agent.renewal import Renewals
from edge_agent.tls import TlsIdentity
from schemas.enrolment import Certificate, Renewal
from schemas.names import SERVER
from schemas.root import AGENT_PURPOSES
from schemas.statement import open_statement
from server.pki import BadRequest
from server.store.enrolments import newest_certificate
from tests.enrolment_rig import Device, House, enrolled, house, impatient

MUCH_LATER = timedelta(days=61)


class Lock:
    """An enrolled agent, and the server that it asks."""

    def __init__(self, rig: House, device: Device) -> None:
        self.rig = rig
        config = load_config(device.config, {})
        kek = read_kek(config.sealing_key, lambda _: b"")
        self.identity = TlsIdentity(config.state_dir, kek)
        signer = open_identity(config.state_dir, "front", kek, rig.site.suite, lambda _: b"")
        clock = rig.clock
        self.renewals = Renewals(self.identity, "front", signer, lambda: rig.site.root, clock)

    def asked(self) -> Renewal:
        """What the server reads of the agent's request."""
        return open_statement(
            self.renewals.request(),
            Renewal,
            self.rig.registry.ring,
            site="demo",
            audience=SERVER,
            now=self.rig.clock.now(),
        )

    async def ask(self) -> None:
        await self.rig.desk.renewals.grant("front", self.asked())

    def answer(self) -> Certificate:
        """What the agent reads of the newest answer."""
        topic, payload = self.rig.broker.published[-1]
        assert topic == "ostiary/demo/down/front/certificate"
        return open_statement(
            payload,
            Certificate,
            self.rig.site.root.key_ring(),
            site="demo",
            audience="front",
            now=self.rig.clock.now(),
        )


@pytest.fixture
async def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lock]:
    impatient(monkeypatch)
    async with house(tmp_path) as rig:
        device = Device(tmp_path)
        await enrolled(rig, device)
        yield Lock(rig, device)


async def test_a_certificate_that_gets_old_is_renewed(lock):
    first = lock.identity.certificate()
    lock.rig.clock.ahead = MUCH_LATER
    assert lock.renewals.due(lock.rig.clock.now())
    await lock.ask()
    await lock.renewals.renewed(lock.answer())
    second = lock.identity.certificate()
    assert second.public_key() != first.public_key()
    assert second.not_valid_after_utc - first.not_valid_after_utc > timedelta(days=60)
    assert not lock.renewals.due(lock.rig.clock.now())
    second.verify_directly_issued_by(lock.rig.authority.certificate)


async def test_an_answer_that_was_lost_is_given_again(lock):
    lock.rig.clock.ahead = MUCH_LATER
    await lock.ask()
    lost = lock.answer()
    await lock.ask()
    again = lock.answer()
    assert again.certificate == lost.certificate
    assert again.counter > lost.counter
    await lock.renewals.renewed(again)


async def test_whatever_it_asks_an_agent_gets_one_certificate_in_ten_minutes(lock):
    lock.rig.clock.ahead = MUCH_LATER
    await lock.ask()
    given = await newest_certificate(lock.rig.engine, "front")
    (lock.identity.file.parent / "tls-next.pem").unlink()  # it asks with another key
    await lock.ask()
    assert await newest_certificate(lock.rig.engine, "front") == given
    assert len(lock.rig.broker.published) == 1
    lock.rig.clock.ahead += timedelta(minutes=11)
    await lock.ask()
    assert await newest_certificate(lock.rig.engine, "front") != given


async def test_nobody_renews_for_another(lock):
    with pytest.raises(BadRequest, match="subject is not"):
        await lock.rig.desk.renewals.grant("vault", lock.asked())


async def test_who_was_removed_gets_no_certificate(lock):
    asked = lock.asked()
    await lock.rig.desk.enrolments.remove("front", "mei")
    with pytest.raises(BadRequest, match="no certificate that counts"):
        await lock.rig.desk.renewals.grant("front", asked)


async def test_who_is_removed_while_it_asks_gets_no_certificate(lock, monkeypatch):
    asked = lock.asked()
    lock.rig.clock.ahead = MUCH_LATER
    removals = []

    async def meanwhile(engine, agent):
        found = await newest_certificate(engine, agent)
        if not removals:
            removals.append(agent)
            await lock.rig.desk.enrolments.remove(agent, "mei")
        return found

    monkeypatch.setattr("server.enrolment.renewals.newest_certificate", meanwhile)
    with pytest.raises(BadRequest):
        await lock.rig.desk.renewals.grant("front", asked)
    assert await newest_certificate(lock.rig.engine, "front") is None


async def test_what_can_not_be_granted_ends_nothing(lock):
    asked = lock.asked()
    lock.rig.broker.away = True
    for agent in ("vault", "front"):
        await lock.rig.desk.renewals.answer(agent, asked)


async def test_an_agent_may_sign_renewals_and_no_orders(lock):
    (trust,) = lock.rig.registry.ring.values()
    assert trust.payload_types == AGENT_PURPOSES


async def test_a_broker_that_is_away_loses_no_certificate(lock):
    lock.rig.clock.ahead = MUCH_LATER
    lock.rig.broker.away = True
    with pytest.raises(ConnectionError):
        await lock.ask()
    lock.rig.broker.away = False
    await lock.ask()
    await lock.renewals.renewed(lock.answer())
