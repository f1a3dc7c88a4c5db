"""From a claim code to an agent, over real HTTPS, with everyone in between who would like to be."""

from __future__ import annotations

import asyncio
import http.client
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from sqlalchemy import insert, select

from edge_agent import enrol
from edge_agent.config import load_config
from edge_agent.enrol import CannotEnrol
from edge_agent.enrolled import read_enrolled
from edge_agent.files import read_kek
from edge_agent.identity import open_identity
from edge_agent.tls import TlsIdentity
from schemas.enrolment import Claim, fingerprint
from schemas.errors import MalformedClaim
from server.enrolment.enrolments import NoSuchAgent, NotPossible
from server.ingest.receipts import Applied
from server.store.agents import list_agents, list_retired
from server.store.receipt_tables import applied
from tests.enrolment_rig import LOOPBACK, Device, House, enrolled, house, impatient


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    impatient(monkeypatch)


@pytest.fixture
async def rig(tmp_path, request):
    suite_name = getattr(request, "param", "intl")
    async with house(tmp_path, suite_name=suite_name) as opened:
        yield opened


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path)


async def names(rig: House) -> list[str]:
    return [said.name for said in await rig.announced()]


@pytest.mark.parametrize("rig", ["intl", "gm"], indirect=True)
async def test_a_claim_an_approval_and_a_device_is_an_agent(rig, device, capsys):
    claim = await rig.claim()
    task = asyncio.create_task(device.enrolling(claim.code))
    keyid = await rig.waiting_keyid()
    assert not rig.registry.agents  # asking alone makes nobody an agent
    await rig.desk.enrolments.approve("front", keyid, "mei")
    await task
    assert fingerprint(keyid) in capsys.readouterr().out
    assert rig.registry.agents == {"front"}
    assert rig.registry.ring[keyid].holder == "front"
    assert rig.broker.admitted == {"front"}
    assert rig.came == ["front"]
    assert await names(rig) == ["agent.claimed", "agent.enrolled"]
    config = load_config(device.config, {})
    assert (config.site, config.agent) == ("demo", "front")
    assert (config.broker.host, config.broker.port) == (LOOPBACK, 8883)
    assert config.root.read_bytes() == rig.site.root_envelope
    kek = read_kek(config.sealing_key, lambda _: b"")
    assert open_identity(device.state_dir, "front", kek, rig.site.suite, None).keyid == keyid
    certificate = TlsIdentity(device.state_dir, kek).certificate()
    assert certificate.subject.rfc4514_string() == "CN=front"
    certificate.verify_directly_issued_by(rig.authority.certificate)
    assert abs(certificate.not_valid_after_utc - rig.clock.now()) - timedelta(days=90) < timedelta(
        minutes=1
    )


async def test_the_device_keeps_its_secrets_to_itself(rig, device):
    await enrolled(rig, device)
    for file in ("identity.sealed", "tls.pem", "enrolment.json"):
        assert (device.state_dir / file).stat().st_mode & 0o777 == 0o600
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in (device.state_dir / "tls.pem").read_bytes()


async def test_a_chain_that_was_foretold_is_known_to_ingest(rig, device):
    await enrolled(rig, device)
    (_, chain) = next(iter(rig.registry.announced))
    assert {("front", chain)} == rig.registry.announced


async def test_a_refused_device_is_told(rig, device):
    claim = await rig.claim()
    task = asyncio.create_task(device.enrolling(claim.code))
    await rig.waiting_keyid()
    await rig.desk.enrolments.refuse("front", "mei")
    with pytest.raises(CannotEnrol, match="refused"):
        await task
    assert read_enrolled(device.state_dir) is None
    assert not rig.registry.agents


async def test_a_claim_is_good_for_ten_minutes(rig, device):
    claim = await rig.claim()
    rig.clock.ahead = timedelta(minutes=10)
    with pytest.raises(CannotEnrol, match="good for 10 minutes"):
        await device.enrolling(claim.code)


async def test_a_newer_claim_voids_the_one_before(rig, device):
    claim = await rig.claim()
    await rig.claim()
    with pytest.raises(CannotEnrol, match="no such claim"):
        await device.enrolling(claim.code)


async def test_who_does_not_know_the_secret_learns_nothing(rig, device):
    claim = await rig.claim()
    answers = set()
    for name in ("front", "nobody"):
        guess = claim.model_copy(update={"agent": name, "secret": bytes(15)})
        with pytest.raises(CannotEnrol) as refusal:
            await Device(device.folder, name).enrolling(guess.code)
        answers.add(str(refusal.value))
    assert len(answers) == 1


async def test_a_claim_for_one_agent_does_not_enrol_another(rig, device):
    claim = await rig.claim()
    with pytest.raises(CannotEnrol, match="the claim is for front"):
        await device.enrolling(claim.model_copy(update={"agent": "vault"}).code)


async def test_a_second_device_with_the_same_code_shows_to_the_operator(rig, device, tmp_path):
    claim = await rig.claim()
    thief = Device(tmp_path, "thief")
    stolen = asyncio.create_task(thief.enrolling(claim.code))
    first = await rig.waiting_keyid()
    with pytest.raises(CannotEnrol, match="another device used this claim"):
        await device.enrolling(claim.code)
    (standing,) = await rig.desk.enrolments.standings()
    assert standing.keyid == first
    assert standing.rival not in (None, first)
    assert await names(rig) == ["agent.claimed", "alarm.raised"]
    with pytest.raises(NotPossible, match="another fingerprint"):
        # the operator looks at the device in his hands, which is the second
        await rig.desk.enrolments.approve("front", standing.rival, "mei")
    await rig.desk.enrolments.refuse("front", "mei")
    with pytest.raises(CannotEnrol):
        await stolen


async def test_of_many_that_race_with_one_claim_one_is_taken(rig, tmp_path):
    claim = await rig.claim()
    devices = [Device(tmp_path, f"racer-{n}") for n in range(6)]
    tasks = [asyncio.create_task(each.enrolling(claim.code)) for each in devices]
    keyid = await rig.waiting_keyid()
    done, waits = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    while len(done) < len(devices) - 1:
        more, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        done |= more
    assert all("another device used" in str(task.exception()) for task in done)
    await rig.desk.enrolments.approve("front", keyid, "mei")
    await waits.pop()
    assert [agent.keyid for agent in await list_agents(rig.engine)] == [keyid]


async def test_another_site_in_between_is_found_out_before_anything_is_sent(
    rig, device, tmp_path, monkeypatch
):
    claim = await rig.claim()
    asked = []
    real = enrol._exchange
    monkeypatch.setattr(enrol, "_exchange", lambda *a: asked.append(a[2:4]) or real(*a))
    async with house(tmp_path / "evil") as evil:
        with pytest.raises(CannotEnrol, match="another root document"):
            await device.enrolling(claim.model_copy(update={"port": evil.port}).code)
    assert asked == [("GET", "/enrol/v1/root")]
    assert not device.state_dir.exists()


async def test_who_copies_the_root_still_lacks_the_certificate(rig, device, tmp_path):
    """In between with the right root document, but a CA of its own: the secret stays here."""
    claim = await rig.claim()
    async with house(tmp_path / "evil") as evil:
        evil.desk.reception.site = rig.site
        with pytest.raises(CannotEnrol, match="not vouched for") as refusal:
            await device.enrolling(claim.model_copy(update={"port": evil.port}).code)
    assert "secret was not sent" in str(refusal.value)


async def test_the_servers_name_must_be_the_one_in_the_claim(rig, device, monkeypatch):
    claim = await rig.claim()
    monkeypatch.setattr(
        "http.client.HTTPSConnection.connect", _connect_to(rig.port, http.client.HTTPSConnection)
    )
    with pytest.raises(CannotEnrol, match="not vouched for"):
        await device.enrolling(claim.model_copy(update={"host": "door.example"}).code)


def _connect_to(port: int, kind: type):
    """A resolver that sends every name here, as whoever holds the network can."""

    def connect(self) -> None:
        import socket

        self.sock = socket.create_connection((LOOPBACK, port), self.timeout)
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)

    assert kind
    return connect


async def test_a_rotation_after_the_claim_voids_it(rig, device):
    claim = await rig.claim()
    with pytest.raises(CannotEnrol, match="another root document"):
        await device.enrolling(claim.model_copy(update={"root": "0" * 64}).code)


@pytest.mark.parametrize("files", range(1, 7))
async def test_a_power_cut_between_any_two_steps_is_made_good_by_the_same_command(
    tmp_path, device, monkeypatch, files
):
    """Stops at each file that is written, before it and (the next round) after it."""
    async with house(tmp_path) as rig:
        claim = await rig.claim()

        class PowerCut(BaseException):
            pass

        written = 0

        def cut(path: Path, content: bytes, **how: bool) -> None:
            nonlocal written
            written += 1
            if written == files:
                raise PowerCut
            real(path, content, **how)

        from edge_agent.files import write_private as real

        for module in ("files", "identity", "tls", "enrol"):
            monkeypatch.setattr(f"edge_agent.{module}.write_private", cut)

        async def approve() -> None:
            keyid = await rig.waiting_keyid()
            await rig.desk.enrolments.approve("front", keyid, "mei")

        approving = asyncio.create_task(approve())
        with pytest.raises(PowerCut):
            await device.enrolling(claim.code)
        await device.enrolling(claim.code)
        await approving
        assert read_enrolled(device.state_dir).agent == "front"
        (agent,) = await list_agents(rig.engine)
        kek = read_kek(device.folder / "sealing.key", lambda _: b"")
        signer = open_identity(device.state_dir, "front", kek, rig.site.suite, None)
        assert signer.keyid == agent.keyid
        TlsIdentity(device.state_dir, kek).context(rig.site.root)  # key and certificate agree


async def test_an_enrolled_device_is_not_enrolled_by_mistake(rig, device):
    await enrolled(rig, device)
    with pytest.raises(NotPossible, match="--re-enrol"):
        await rig.claim()
    claim = await rig.claim(again=True)
    with pytest.raises(CannotEnrol, match="already"):
        await device.enrolling(claim.code)


async def test_enrolled_again_a_device_has_new_keys_and_the_old_ones_count_no_more(rig, device):
    await enrolled(rig, device)
    (before,) = await list_agents(rig.engine)
    chain = next(iter(rig.registry.announced))
    serial = serial_of(device)
    await enrolled(rig, device, again=True)
    (after,) = await list_agents(rig.engine)
    assert before.keyid != after.keyid
    assert set(rig.registry.ring) == {after.keyid}
    assert len(rig.registry.announced - {chain}) == 1
    assert [agent.keyid for agent in await list_retired(rig.engine)] == [before.keyid]
    assert revoked(rig) == {serial}
    assert rig.broker.admitted == {"front"}
    assert rig.went == ["front"]


async def test_until_the_new_device_is_approved_the_old_one_counts(rig, device, tmp_path):
    await enrolled(rig, device)
    ring = dict(rig.registry.ring)
    claim = await rig.claim(again=True)
    task = asyncio.create_task(Device(tmp_path, "spare").enrolling(claim.code))
    await rig.waiting_keyid()
    assert rig.registry.ring == ring
    await rig.desk.enrolments.refuse("front", "mei")
    with pytest.raises(CannotEnrol):
        await task
    assert rig.registry.ring == ring


async def test_a_removed_agent_is_cut_off_at_once(rig, device):
    await enrolled(rig, device)
    serial = serial_of(device)
    await rig.desk.enrolments.remove("front", "mei")
    assert not rig.registry.ring
    assert not rig.registry.agents
    assert not rig.broker.admitted
    assert revoked(rig) == {serial}
    assert (await names(rig))[-1] == "agent.removed"
    with pytest.raises(NoSuchAgent):
        await rig.desk.enrolments.remove("front", "mei")


async def test_what_a_device_confirmed_is_not_taken_for_its_successors_word(rig, device):
    await enrolled(rig, device)
    async with rig.engine.begin() as connection:
        await connection.execute(
            insert(applied), [asdict(Applied(each)) for each in ("front", "back")]
        )
    await rig.desk.enrolments.remove("front", "mei")
    async with rig.engine.connect() as connection:
        assert (await connection.scalars(select(applied.c.agent))).all() == ["back"]


async def test_a_broker_that_is_away_does_not_keep_an_agent_in(rig, device):
    await enrolled(rig, device)
    rig.broker.away = True
    await rig.desk.enrolments.remove("front", "mei")
    assert not rig.registry.ring
    assert revoked(rig)


async def test_a_retired_key_never_counts_again(rig, device):
    await enrolled(rig, device)
    await rig.desk.enrolments.remove("front", "mei")
    (device.state_dir / "enrolment.json").unlink()  # the device tries with its old keys
    claim = await rig.claim()
    task = asyncio.create_task(device.enrolling(claim.code))
    keyid = await rig.waiting_keyid()
    with pytest.raises(NotPossible, match="already registered"):
        await rig.desk.enrolments.approve("front", keyid, "mei")
    await rig.desk.enrolments.refuse("front", "mei")
    with pytest.raises(CannotEnrol):
        await task


async def test_a_request_that_nobody_approved_within_a_day_is_void(rig, device):
    claim = await rig.claim()
    task = asyncio.create_task(device.enrolling(claim.code))
    keyid = await rig.waiting_keyid()
    rig.clock.ahead = timedelta(hours=25)
    with pytest.raises(CannotEnrol, match="24 hours"):
        await task
    with pytest.raises(NotPossible, match="24 hours"):
        await rig.desk.enrolments.approve("front", keyid, "mei")


@pytest.mark.parametrize("name", ["server", "all", "server-demo", "Front", "", "a" * 64, "../x"])
async def test_names_that_are_not_for_agents_are_not_claimed(rig, name):
    with pytest.raises(NotPossible, match="can't be an agent's name"):
        await rig.claim(name)


async def test_a_server_that_is_not_there_is_said_so(rig, device):
    claim = await rig.claim()
    with pytest.raises(CannotEnrol, match="does not answer"):
        await device.enrolling(claim.model_copy(update={"port": 1}).code)


@pytest.mark.parametrize("code", ["", "ostiary://", "http://x", "ostiary://a:1/front/AAAA?root=AA"])
async def test_a_mistyped_code_is_said_so(device, code):
    with pytest.raises(MalformedClaim, match="not a claim code"):
        await device.enrolling(code)


def test_a_code_may_name_an_address_of_either_kind():
    for host in ("10.0.0.5", "::1", "doors.example.org"):
        claim = Claim(host=host, port=8443, agent="front", secret=bytes(15), root="ab" * 32)
        assert Claim.parse(claim.code) == claim


def serial_of(device: Device) -> int:
    return x509.load_pem_x509_certificate((device.state_dir / "tls.pem").read_bytes()).serial_number


def revoked(rig: House) -> set[int]:
    crl = x509.load_pem_x509_crl((rig.site.path / "crl.pem").read_bytes())
    assert crl.is_signature_valid(rig.authority.certificate.public_key())
    return {entry.serial_number for entry in crl}
