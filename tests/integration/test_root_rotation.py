"""The root document over its life: made, shown, rotated by one person or two, told to agents."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
from pathlib import Path

import aiomqtt
import pytest
from typer.testing import CliRunner, Result

from schemas.root import open_first_root, open_next_root
from schemas.topics import ROOT, everyone
from server.cli.root import app
from server.kek import SiteError, kek_of_passphrase, read_kek
from server.rotation import Proposal, accept
from server.site import open_site
from tests.agent_pen import SITE
from tests.server_rig import LIMIT_S, make_site, running

PASSPHRASE = "correct horse battery"


def ostiary(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=input)


def init(path: Path, *options: str, input: str | None = None) -> Path:
    made = ostiary(
        "init", "--site", SITE, "--suite", "intl", "--dir", str(path), *options, input=input
    )
    assert made.exit_code == 0, made.stderr
    return path


@pytest.fixture
def site_dir(tmp_path: Path) -> Path:
    return init(tmp_path / "site")


def rotate(site_dir: Path, *options: str, input: str | None = None) -> Result:
    return ostiary("root", "rotate", "-d", str(site_dir), *options, input=input)


def test_the_root_keys_lie_apart_and_the_server_does_without(site_dir, tmp_path):
    apart = tmp_path / "site-root-keys"
    assert stat.S_IMODE(apart.stat().st_mode) == 0o700
    for file in apart.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shutil.rmtree(apart)
    site = open_site(site_dir)
    for role in ("policy", "revoke", "keys", "online"):
        assert site.signer(role, {}).keyid in site.root.roles[role].keyids
    assert site.authority({}).pem in site.root.authorities


def test_init_says_to_move_the_root_keys_offline(tmp_path):
    made = ostiary("init", "--site", SITE, "--dir", str(tmp_path / "site"))
    assert "kept offline" in made.stderr


def test_init_never_overwrites_root_keys(site_dir, tmp_path):
    before = (tmp_path / "site-root-keys" / "root.sealed").read_bytes()
    shutil.rmtree(site_dir)
    again = ostiary("init", "--site", SITE, "--dir", str(site_dir))
    assert again.exit_code == 1
    assert "not empty" in again.stderr
    assert (tmp_path / "site-root-keys" / "root.sealed").read_bytes() == before
    assert not site_dir.exists()


def test_a_rotation_follows_the_old_root_and_changes_the_keys_it_names_alone(site_dir, tmp_path):
    before = open_site(site_dir)
    done = rotate(site_dir, "--role", "online", "--root-keys", str(tmp_path / "site-root-keys"))
    assert done.exit_code == 0, done.stderr
    after = open_site(site_dir)
    assert after.root == open_next_root(after.root_envelope, before.root)
    assert after.root.version == before.newest_root_version() == 2
    assert before.root_after(1) == [after.root_envelope]
    assert before.root_after(0) == [before.root_envelope, after.root_envelope]
    assert after.signer("online", {}).keyid != before.root.roles["online"].keyids[0]
    for role in ("root", "policy", "revoke", "keys"):
        assert after.root.roles[role] == before.root.roles[role]
    old = before.root.roles["online"].keyids[0]
    assert old not in after.root.keys
    assert old in after.keys_ever()  # what it signed stays verifiable


def test_new_root_keys_are_signed_by_the_old_and_the_new(site_dir, tmp_path):
    before, new = open_site(site_dir), tmp_path / "new-keys"
    options = ("--role", "root", "--root-keys", str(tmp_path / "site-root-keys"))
    assert "--new-root-keys" in rotate(site_dir, *options).stderr
    done = rotate(site_dir, *options, "--new-root-keys", str(new), "--root-count", "2")
    assert done.exit_code == 0, done.stderr
    after = open_site(site_dir)
    assert open_next_root(after.root_envelope, before.root) == after.root
    assert open_first_root(after.root_envelope) == after.root
    old = rotate(site_dir, "--role", "keys", "--root-keys", str(tmp_path / "site-root-keys"))
    assert old.exit_code == 1
    assert rotate(site_dir, "--role", "keys", "--root-keys", str(new / "2")).exit_code == 0


def test_two_people_sign_one_after_the_other_on_machines_of_their_own(tmp_path):
    site_dir = init(tmp_path / "site", "--root-count", "3", "--root-threshold", "2")
    for n in (1, 2, 3):
        (tmp_path / "site-root-keys" / str(n)).rename(tmp_path / f"medium-{n}")
    proposal = tmp_path / "root-2.json"
    asked = rotate(site_dir, "--role", "policy", "--role", "online", "--out", str(proposal))
    assert asked.exit_code == 0, asked.stderr
    accepting = ("root", "accept", str(proposal), "-d", str(site_dir))
    assert "nobody has signed" in ostiary(*accepting).stderr
    for n, verdict in ((1, 1), (3, 0)):
        medium = str(tmp_path / f"medium-{n}")
        shown = ostiary("root", "sign", str(proposal), "--root-keys", medium, input="y\n")
        assert shown.exit_code == 0, shown.stderr
        assert "root document 2" in shown.stdout
        accepted = ostiary(*accepting)
        assert accepted.exit_code == verdict, accepted.stderr
    assert ostiary(*accepting).exit_code == 0  # once more does no harm
    site = open_site(site_dir)
    assert site.root.version == 2
    assert site.signer("policy", {})
    assert not list((site_dir / "keys").glob("*.next.sealed"))


def test_who_looks_before_signing_sees_what_is_new(site_dir, tmp_path):
    proposal = tmp_path / "p.json"
    rotate(site_dir, "--role", "revoke", "--out", str(proposal))
    keys, current = str(tmp_path / "site-root-keys"), str(site_dir / "root.json")
    looking = ("root", "sign", str(proposal), "--root-keys", keys, "--current", current)
    shown = ostiary(*looking, input="n\n")
    assert shown.exit_code == 1
    changed = [
        line.split()[0] for line in shown.stdout.splitlines() if line.rstrip().endswith("new")
    ]
    assert changed == ["revoke"]
    assert not Proposal.parse(proposal.read_bytes()).signatures


def test_a_proposal_that_was_overtaken_is_refused(site_dir, tmp_path):
    keys = str(tmp_path / "site-root-keys")
    first = tmp_path / "first.json"
    rotate(site_dir, "--role", "online", "--root-keys", keys, "--out", str(first))
    rotate(site_dir, "--role", "online", "--out", str(tmp_path / "second.json"))
    overtaken = ostiary("root", "accept", str(first), "-d", str(site_dir))
    assert overtaken.exit_code == 1
    assert "a later" in overtaken.stderr
    assert open_site(site_dir).root.version == 1
    assert open_site(site_dir).signer("online", {})


@pytest.mark.parametrize("step", ["roots", "root.json", "keys"])
def test_a_power_cut_while_accepting_leaves_a_site_that_can_sign(
    site_dir, tmp_path, monkeypatch, step
):
    class PowerCut(BaseException):
        pass

    keys, proposal = tmp_path / "site-root-keys", tmp_path / "p.json"
    rotate(site_dir, "--role", "online", "--root-keys", str(keys), "--out", str(proposal))
    signed = Proposal.parse(proposal.read_bytes())
    site = open_site(site_dir)
    from server.site import write_durably

    def cut(file: Path, data: bytes, *, mode: int = 0o600) -> None:
        if step in (file.parent.name, file.name):
            raise PowerCut
        write_durably(file, data, mode=mode)

    def cut_keys(*_: object) -> None:
        raise PowerCut

    with monkeypatch.context() as patched:
        if step == "keys":
            patched.setattr("server.rotation.settle_keys", cut_keys)
        else:
            patched.setattr("server.site.write_durably", cut)
        with pytest.raises(PowerCut):
            accept(site, signed, {})
    reopened = open_site(site_dir)
    assert reopened.root.version == (1 if step == "roots" else 2)
    assert reopened.signer("online", {})
    done = accept(reopened, signed, {})
    assert done.root.version == 2
    assert open_site(site_dir).signer("online", {}).keyid in done.root.roles["online"].keyids
    assert not list((site_dir / "keys").glob("*.next.sealed"))


def test_a_root_document_of_another_site_is_not_accepted(site_dir, tmp_path):
    other = init(tmp_path / "other")
    proposal = tmp_path / "p.json"
    keys = str(tmp_path / "other-root-keys")
    rotate(other, "--role", "online", "--root-keys", keys, "--out", str(proposal))
    refused = ostiary("root", "accept", str(proposal), "-d", str(site_dir))
    assert refused.exit_code == 1
    assert open_site(site_dir).root.version == 1


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"payloadType": 1}', b"\xff", b"x" * 99999]
)
def test_what_is_no_proposal_is_refused_in_one_line(site_dir, tmp_path, content):
    file = tmp_path / "p.json"
    file.write_bytes(content)
    refused = ostiary("root", "accept", str(file), "-d", str(site_dir))
    assert refused.exit_code == 1
    assert "not a proposed root document" in refused.stderr


def test_root_keys_may_be_sealed_by_a_passphrase_each(tmp_path):
    words = f"{PASSPHRASE}\n{PASSPHRASE}\n"
    site_dir = init(tmp_path / "site", "--ask-root-passphrase", input=words)
    keys = tmp_path / "site-root-keys"
    assert not (keys / "kek").exists()
    options = ("--role", "keys", "--root-keys", str(keys))
    wrong = rotate(site_dir, *options, input="another passphrase\n")
    assert wrong.exit_code == 1
    assert "passphrase may be another" in wrong.stderr
    assert rotate(site_dir, *options, input=f"{PASSPHRASE}\n").exit_code == 0


def test_the_servers_keys_may_be_sealed_by_a_passphrase(tmp_path):
    words = f"{PASSPHRASE}\n{PASSPHRASE}\n"
    site_dir = init(tmp_path / "site", "--ask-kek", input=words)
    assert not (site_dir / "kek").exists()
    with pytest.raises(SiteError, match="--ask-kek"):
        open_site(site_dir).signer("online", {})
    kek = kek_of_passphrase(site_dir, PASSPHRASE)
    assert open_site(site_dir).signer("online", {"OSTIARY_KEK": kek.hex()})
    other = kek_of_passphrase(site_dir, "something else")
    with pytest.raises(SiteError, match="can't be opened"):
        open_site(site_dir).signer("online", {"OSTIARY_KEK": other.hex()})


def test_a_short_passphrase_makes_no_site(tmp_path):
    options = ("init", "--site", SITE, "--dir", str(tmp_path / "site"), "--ask-kek")
    made = ostiary(*options, input="short\nshort\n")
    assert made.exit_code == 1
    assert "at least 12" in made.stderr
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_kek_that_others_may_read_is_refused(site_dir, mode):
    (site_dir / "kek").chmod(mode)
    with pytest.raises(SiteError, match="others may read it"):
        read_kek(site_dir, {})
    elsewhere = site_dir / "elsewhere"
    elsewhere.write_text("ab" * 32)
    elsewhere.chmod(mode)
    with pytest.raises(SiteError, match="others may read it"):
        read_kek(site_dir, {"OSTIARY_KEK_FILE": str(elsewhere)})


def test_show_says_what_a_claim_code_carries(site_dir):
    shown = ostiary("root", "show", "-d", str(site_dir))
    found = json.loads(ostiary("root", "show", "--json", "-d", str(site_dir)).stdout)
    assert found["hash"] in shown.stdout
    assert found["counter"] == 1


async def test_a_running_server_tells_agents_of_a_new_root_and_signs_by_it(tmp_path):
    site = await make_site(tmp_path / "site")
    async with running(site) as serving:
        host, _, port = serving.broker.removeprefix("mqtt://").partition(":")
        async with aiomqtt.Client(host, int(port)) as client:
            await client.subscribe(everyone(SITE, ROOT), qos=1)
            keys = str(tmp_path / "site-root-keys")
            options = (site.path, "--role", "online", "--root-keys", keys)
            done = await asyncio.to_thread(rotate, *options)
            assert done.exit_code == 0, done.stderr
            async with asyncio.timeout(LIMIT_S):
                message = await anext(aiter(client.messages))
        assert not message.retain
        assert open_next_root(message.payload, site.root).version == 2
