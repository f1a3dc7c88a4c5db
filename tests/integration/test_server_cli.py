"""The command line, as an operator meets it."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from schemas.chain import EVENTS_TYPE
from schemas.envelope import open_envelope
from schemas.errors import BadSignature
from server.cli.root import app
from server.site import SiteError, create_site, only_server, open_site
from tests.agent_pen import SITE, Pen
from tests.schema_cast import verify_chain
from tests.server_rig import agent, make_site, running


def ostiary(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=input)


@pytest.fixture
def site_dir(tmp_path: Path) -> str:
    path = tmp_path / "site"
    assert ostiary("init", "--site", SITE, "--suite", "intl", "--dir", str(path)).exit_code == 0
    return str(path)


def test_init_makes_secrets_that_only_the_owner_reads(site_dir):
    for name in ("kek", "keys/policy.sealed", "keys/online.sealed"):
        assert stat.S_IMODE(os.stat(Path(site_dir, name)).st_mode) == 0o600
    site = open_site(Path(site_dir))
    scalar = site.signer("online", {}).key.scalar
    on_disk = b"".join(p.read_bytes() for p in Path(site_dir).rglob("*") if p.is_file())
    assert scalar not in on_disk
    assert scalar.hex().encode() not in on_disk
    assert site.signer("policy", {}).keyid != site.signer("online", {}).keyid


def test_nobody_else_reads_who_went_where(tmp_path):
    new = create_site(tmp_path / "new", SITE, "intl", os.urandom, {}).path
    (tmp_path / "empty").mkdir(mode=0o755)
    empty = create_site(tmp_path / "empty", SITE, "intl", os.urandom, {}).path
    for path in (new, empty):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def change(site_dir: str, statement: str, *values: object) -> None:
    """As who can write into the database would."""
    connection = sqlite3.connect(Path(site_dir, "ostiary.db"))
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def test_who_writes_into_the_database_writes_nothing_onto_the_auditors_screen(site_dir):
    evil = "\x1b[2J[green]all good[/]\x1b]0;"
    change(site_dir, "INSERT INTO chains VALUES (?, ?, 1, 1, ?)", evil, "\x1b[8m", "0" * 64)
    change(site_dir, "INSERT INTO agents VALUES (?, 'gm', ?, ?, 1)", evil, bytes(65), "0" * 64)
    result = ostiary("events", "verify", "--site-dir", site_dir)
    assert "\x1b" not in result.stdout + result.stderr
    assert "[green]all" in result.stdout.replace("\n", "")


@pytest.mark.parametrize("name", ["server", "all", "front", "../x"])
def test_a_key_that_nobody_registered_is_not_trusted_for_being_in_the_database(site_dir, name):
    # under the name `server` it could sign away the alarms; under another's fingerprint, anything
    key = Pen("thief").signer.key.public
    other = Pen("honest").signer.keyid
    keyid = other if name == "front" else Pen("thief").signer.keyid
    change(site_dir, "INSERT INTO agents VALUES (?, 'intl', ?, ?, 1)", name, key.point, keyid)
    result = ostiary("events", "verify", "--site-dir", site_dir)
    assert result.exit_code == 1
    assert "not as it was registered" in result.stderr


def test_init_never_overwrites(site_dir):
    before = Path(site_dir, "root.json").read_bytes()
    result = ostiary("init", "--site", "other", "--dir", site_dir)
    assert result.exit_code == 1
    assert "not empty" in result.stderr
    assert Path(site_dir, "root.json").read_bytes() == before


def test_a_kek_from_elsewhere_is_not_written_to_the_site(tmp_path):
    environ = {"OSTIARY_KEK": "ab" * 32}
    site = create_site(tmp_path / "s", SITE, "gm", os.urandom, environ)
    assert not (site.path / "kek").exists()
    assert site.signer("online", environ)
    with pytest.raises(SiteError, match="no key-encryption key"):
        site.signer("online", {})
    with pytest.raises(SiteError, match="can't be opened"):
        site.signer("online", {"OSTIARY_KEK": "cd" * 32})


def test_keys_of_two_roles_can_not_be_swapped(site_dir):
    keys = Path(site_dir, "keys")
    (keys / "policy.sealed").write_bytes((keys / "online.sealed").read_bytes())
    with pytest.raises(SiteError, match="can't be opened"):
        open_site(Path(site_dir)).signer("policy", {})


def test_an_init_that_broke_off_leaves_no_site(tmp_path):
    calls = 0

    def random(count: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return os.urandom(count)

    with pytest.raises(KeyboardInterrupt):
        create_site(tmp_path / "s", SITE, "intl", random, {})
    with pytest.raises(SiteError, match="not a site directory"):
        open_site(tmp_path / "s")


def test_serve_refuses_the_network(site_dir):
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        result = ostiary("serve", "--host", host, "-d", site_dir)
        assert result.exit_code == 1
        assert "only loopback" in result.stderr


async def test_a_second_server_on_a_site_is_refused(tmp_path):
    site = await make_site(tmp_path / "site")
    async with running(site):
        with pytest.raises(SiteError, match="another `ostiary serve`"), only_server(site.path):
            pass
    with only_server(site.path):  # the first one let go
        pass


@pytest.mark.parametrize("text", ["port = 'x'", "prot = 1", "= 1", "broker = 'tcp://x'"])
def test_a_wrong_setting_is_named(site_dir, text):
    Path(site_dir, "server.toml").write_text(text)
    result = ostiary("events", "verify", "-d", site_dir)
    assert result.exit_code == 1
    assert "server.toml" in result.stderr


async def test_an_export_is_proof_for_someone_who_has_only_the_keys(tmp_path):
    pen = Pen()
    pen.write_many(9)
    site = await make_site(tmp_path / "site", pen)
    async with running(site) as serving, agent(serving, pen, site) as front:
        await front.send(pen.message(1), pen.message(2, 5), pen.message(6, 9))
        await front.acknowledged(9)
    result = await in_thread("events", "export", "-d", str(site.path))
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(r["from"], r["to"], r["events"]) for r in rows] == [(1, 1, 1), (2, 5, 4), (6, 9, 4)]
    lines: list[bytes] = []
    for row in rows:
        opened = open_envelope(json.dumps(row["envelope"]).encode(), pen.ring, EVENTS_TYPE)
        lines += opened.payload.split(b"\n")
    assert verify_chain(lines, pen.suite.digest, Pen().head) == pen.head
    rest = await in_thread("events", "export", "-d", str(site.path), "--since", rows[0]["cursor"])
    assert [json.loads(line)["from"] for line in rest.stdout.splitlines()] == [2, 6]
    bad = await in_thread("events", "export", "-d", str(site.path), "--since", "rubbish")
    assert bad.exit_code == 1


async def test_a_proof_stands_without_us(tmp_path):
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    pen = Pen()
    pen.write_many(4)
    site = await make_site(tmp_path / "site", pen)
    async with running(site) as serving, agent(serving, pen, site) as front:
        await front.send(pen.message(1, 4))
        await front.acknowledged(4)
    out = tmp_path / "proof"
    event = f"{pen.head.chain}-3"
    result = await in_thread("events", "proof", event, "--out", str(out), "-d", str(site.path))
    assert result.exit_code == 0, result.stderr
    files = {p.name: p.read_bytes() for p in out.iterdir()}
    assert set(files) == {
        *("line", "payload.bin", "pae.bin", "signature.der", "public_key.pem", "envelope.json")
    }
    key = load_pem_public_key(files["public_key.pem"])
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(files["signature.der"], files["pae.bin"], ec.ECDSA(hashes.SHA256()))
    assert files["payload.bin"].split(b"\n")[2] == files["line"] == pen.lines[2]
    envelope = json.loads(files["envelope.json"])
    assert base64.b64decode(envelope["payload"]) == files["payload.bin"]
    with pytest.raises(BadSignature):
        pen.signer.key.public.verify(files["pae.bin"] + b" ", files["signature.der"])
    missing = await in_thread("events", "proof", "x", "--out", str(out), "-d", str(site.path))
    assert missing.exit_code == 1


async def test_tail_shows_events_and_passes_no_control_characters_on(tmp_path):
    pen = Pen()
    pen.write("access.denied", {"door": "front", "reason": "no_rule", "detail": "\x1b[2J\u009b"})
    site = await make_site(tmp_path / "site", pen)
    async with running(site) as serving, agent(serving, pen, site) as front:
        await front.send(pen.message(1))
        await front.acknowledged(1)
    tail = ("events", "tail", "--no-follow", "-d", str(site.path))
    words = (await in_thread(*tail)).stdout
    assert "access.denied" in words
    assert "reason=no_rule" in words
    assert "\x1b" not in words
    assert "\u009b" not in words
    event = json.loads((await in_thread(*tail, "--json")).stdout)
    assert event["id"] == f"{pen.head.chain}-1"
    assert (await in_thread(*tail, "--since", event["cursor"])).stdout == ""
    assert (await in_thread(*tail, "--type", "door.opened")).stdout == ""


async def in_thread(*arguments: str) -> Result:
    """A command runs its own event loop."""
    import asyncio

    return await asyncio.to_thread(ostiary, *arguments)
