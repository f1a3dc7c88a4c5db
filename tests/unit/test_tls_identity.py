"""The agent's TLS key and certificate on its disk, and the next ones."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.clock import SystemClock
from edge_agent.renewal import Renewals
from edge_agent.tls import TlsIdentity
from schemas.enrolment import Certificate, Renewal
from schemas.envelope import TrustedKey
from schemas.errors import BadSignature, MalformedKey, Replayed, UnknownKey, WrongAudience
from schemas.root import AGENT_PURPOSES, Root
from schemas.statement import open_statement
from server.pki import Authority, pem_of
from tests.site_keys import SiteKeys

KEK = bytes(range(32))
NOW = datetime.now(UTC)


class Issuer:
    """A site that issues what an identity asks for."""

    def __init__(self) -> None:
        self.authority, _ = Authority.make("demo", os.urandom, NOW)
        self.keys = SiteKeys(authorities=(self.authority.pem,))

    @property
    def root(self) -> Root:
        return self.keys.root

    def answer(self, identity: TlsIdentity, agent: str = "front", at: datetime = NOW) -> str:
        return pem_of(self.authority.client(identity.request(agent), agent, at))


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def identity(tmp_path: Path) -> TlsIdentity:
    return TlsIdentity(tmp_path, KEK)


def test_a_certificate_is_taken_for_the_key_it_was_asked_for(issuer, identity):
    assert identity.certificate() is None
    until = identity.take(issuer.answer(identity), "front", issuer.root)
    assert identity.until == until
    assert identity.context(issuer.root).get_ca_certs()
    assert not (identity.file.parent / "tls-next.pem").exists()


def test_asked_again_it_is_for_the_same_key(identity):
    first, second = identity.request("front"), identity.request("front")
    assert key_of(first) == key_of(second)


def key_of(csr: str) -> object:
    from server.pki import requested_key

    return requested_key(csr, "front")


def test_what_is_not_for_this_key_name_and_site_is_refused(issuer, identity, tmp_path):
    (tmp_path / "other").mkdir()
    other = TlsIdentity(tmp_path / "other", KEK)
    identity.request("front")
    with pytest.raises(UnknownKey, match="another key"):
        identity.take(issuer.answer(other), "front", issuer.root)
    with pytest.raises(WrongAudience):
        identity.take(issuer.answer(other, "vault"), "front", issuer.root)
    with pytest.raises(UnknownKey, match="not by an authority"):
        identity.take(Issuer().answer(identity), "front", issuer.root)
    with pytest.raises(MalformedKey):
        identity.take("-----BEGIN x", "front", issuer.root)
    assert identity.certificate() is None


def test_a_kill_between_the_two_steps_of_taking_it_leaves_the_next_renewal_a_new_key(
    issuer, identity
):
    asked = identity.request("front")
    waiting = identity.file.parent / "tls-next.pem"
    kept = waiting.read_bytes()
    identity.take(issuer.answer(identity), "front", issuer.root)
    waiting.write_bytes(kept)  # as if the power had failed before it was removed
    assert key_of(identity.request("front")) != key_of(asked)


def test_another_sealing_key_opens_nothing(issuer, identity, tmp_path):
    identity.take(issuer.answer(identity), "front", issuer.root)
    identity.request("front")
    stranger = TlsIdentity(tmp_path, bytes(32))
    with pytest.raises(BadSignature, match="can't be opened"):
        stranger.context(issuer.root)
    with pytest.raises(BadSignature, match="can't be opened"):
        stranger.request("front")


class Later(SystemClock):
    def __init__(self, ahead: timedelta) -> None:
        self.ahead = ahead

    def now(self) -> datetime:
        return NOW + self.ahead


def renewals(issuer: Issuer, identity: TlsIdentity, days: int = 0) -> Renewals:
    signer = issuer.keys.new_signer()
    clock = Later(timedelta(days=days))
    return Renewals(identity, "front", signer, lambda: issuer.root, clock)


@pytest.mark.parametrize(("days", "due"), [(0, False), (59, False), (61, True), (100, True)])
def test_it_asks_when_two_thirds_of_the_time_are_over(issuer, identity, days, due):
    identity.take(issuer.answer(identity), "front", issuer.root)
    assert renewals(issuer, identity).due(NOW + timedelta(days=days)) is due


def test_without_a_certificate_there_is_nothing_to_renew(issuer, identity):
    kept = renewals(issuer, identity)
    assert kept.certificate_until is None
    assert not kept.due(NOW + timedelta(days=999))


def statement(pem: str, until: datetime) -> Certificate:
    return Certificate(
        site="demo", audience="front", issued=NOW, counter=1, certificate=pem, until=until
    )


async def test_a_renewed_certificate_is_in_use_at_once_and_an_old_one_is_not_taken(
    issuer, identity
):
    first = issuer.answer(identity)
    until = identity.take(first, "front", issuer.root)
    kept = renewals(issuer, identity, 61)
    later = NOW + timedelta(days=61)
    second = issuer.answer(identity, at=later)
    await kept.renewed(statement(second, later + timedelta(days=90)))
    assert kept.certificate_until == later.replace(microsecond=0) + timedelta(days=90)
    with pytest.raises(Replayed):
        await kept.renewed(statement(first, until))
    assert identity.holds(second)


async def test_a_claimed_end_that_the_certificate_does_not_have_changes_nothing(issuer, identity):
    """The statement says more than the certificate: what counts is the certificate."""
    pem = issuer.answer(identity)
    identity.take(pem, "front", issuer.root)
    kept = renewals(issuer, identity)
    with pytest.raises(UnknownKey):
        await kept.renewed(statement(pem, NOW + timedelta(days=999)))


async def test_the_request_is_signed_by_the_agents_own_key(issuer, identity, monkeypatch):
    identity.take(issuer.answer(identity), "front", issuer.root)
    kept = renewals(issuer, identity, 61)
    signer = kept._signer
    ring = {signer.keyid: TrustedKey(signer.key.public, "front", AGENT_PURPOSES)}
    now = NOW + timedelta(days=61)
    asked = open_statement(kept.request(), Renewal, ring, site="demo", audience="server", now=now)
    assert key_of(asked.csr) != identity.certificate().public_key()
