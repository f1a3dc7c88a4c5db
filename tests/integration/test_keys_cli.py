"""`ostiary keys`: from a new domain to its end, and keys lost and found."""

from __future__ import annotations

import asyncio
import json
import secrets

import pytest
from typer.testing import CliRunner

from schemas.esam_issue import ControlKey
from schemas.esam_issued import IssuedEsam
from schemas.suites import INTL
from server.cli.root import app
from server.site import create_site, open_site
from server.store.database import open_database
from tests.agent_pen import Pen
from tests.key_rig import MODULE, PIN, soft_token
from tests.server_rig import make_site, register, running, until_stored

CLI = CliRunner()
SERIAL = "45534d0000000001"
CONTROL_KEY = bytes(range(16))


@pytest.fixture
def site(tmp_path):
    return create_site(tmp_path / "site", "demo", "intl", secrets.token_bytes, {}).path


@pytest.fixture
def keys(site):
    """Run a command; the site needs its database first, which `init` makes otherwise."""

    async def make():
        await (await open_database(site / "ostiary.db")).dispose()

    asyncio.run(make())

    def run(*words, code=0, **options):
        result = CLI.invoke(app, ["keys", *map(str, words), "-d", str(site)], **options)
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def issued(tmp_path):
    """An issuing file and the rest of `import`'s words."""
    kek = secrets.token_bytes(32)
    control = ControlKey(INTL, bytes.fromhex(SERIAL), CONTROL_KEY)
    file, issuing_key = tmp_path / "issued.json", tmp_path / "issuing-key"
    file.write_text(IssuedEsam.of(kek, control, 1, secrets.token_bytes).model_dump_json())
    issuing_key.write_bytes(kek)
    issuing_key.chmod(0o600)
    return file, ("--issuing-key", issuing_key, "--agent", "front-agent", "--domain", "zone-a")


def domains(keys):
    return json.loads(keys("domains", "--json").stdout)


def test_a_domain_from_its_making_to_its_end(keys):
    assert "Version 1 of zone-a is made" in keys("create", "zone-a").stdout
    assert "there already" in keys("create", "zone-a", code=1).stderr
    assert "Version 2 of zone-a is made" in keys("new-version", "zone-a").stdout
    (domain,) = domains(keys)
    assert [each["version"] for each in domain["versions"]] == [1, 2]
    assert domain["versions"][0]["check_values"]["auth"] in keys("domains").stdout
    assert "may be in use" in keys("destroy", "zone-a", 1, "--yes", code=1).stderr
    keys("retire", "zone-a", "--below", 2, code=1, input="n\n")
    keys("retire", "zone-a", "--below", 2, "--yes")
    keys("destroy", "zone-a", 1, code=1, input="n\n")
    keys("destroy", "zone-a", 1, input="y\n")
    shown = keys("domains").stdout
    assert "destroyed" in shown
    assert "ready" in shown


def test_esams_are_imported_listed_and_withdrawn(keys, issued):
    file, words = issued
    keys("create", "zone-a")
    for _ in range(2):
        said = keys("esams", "import", file, *words).output
    (esam,) = json.loads(keys("esams", "list", "--json").stdout)
    assert (esam["serial"], esam["agent"]) == (SERIAL, "front-agent")
    assert esam["domains"] == {"zone-a": None}
    assert "No agent front-agent is enrolled yet" in said
    asked = keys("esams", "withdraw", SERIAL.upper(), code=1, input="n\n").stderr
    assert f"ESAM {SERIAL} is in service in the lock of front-agent, for zone-a" in asked
    assert "in-service" in keys("esams", "list").stdout
    keys("esams", "withdraw", SERIAL, input="y\n")
    keys("esams", "withdraw", SERIAL.upper())  # it is done: there is nothing to ask
    assert "is not known" in keys("esams", "withdraw", "00" * 8, code=1).stderr
    shown = keys("esams", "list").stdout
    assert "withdrawn" in shown
    assert CONTROL_KEY.hex() not in said + shown


def test_an_issuing_key_that_others_may_read_or_that_is_none_is_refused(keys, issued):
    file, words = issued
    words[1].chmod(0o640)
    assert "others may read it" in keys("esams", "import", file, *words, code=1).stderr
    words[1].chmod(0o600)
    words[1].write_bytes(bytes(31))
    assert "31 bytes" in keys("esams", "import", file, *words, code=1).stderr
    words[1].unlink()
    assert "No such file" in keys("esams", "import", file, *words, code=1).stderr


def test_another_issuing_key_is_named_as_that(keys, issued):
    file, words = issued
    words[1].write_bytes(bytes(32))
    said = keys("esams", "import", file, *words, code=1).stderr
    assert "the issuing key is another" in said
    assert "key-encryption" not in said


def test_an_agent_that_is_enrolled_is_not_warned_of(keys, issued, site):
    file, words = issued
    keys("create", "zone-a")

    asyncio.run(register(open_site(site), Pen("front-agent")))
    assert "enrolled" not in keys("esams", "import", file, *words).output


def test_what_is_not_there_yet_is_said_with_what_makes_it(keys):
    for words, makes in ((["domains"], "create"), (["esams", "list"], "esams import")):
        shown = keys(*words)
        assert shown.stdout == ""
        assert f"`ostiary keys {makes}" in shown.stderr


def test_an_esam_is_imported_whole_or_not_at_all(keys, issued, site):
    file, words = issued
    good = file.read_text()
    assert "ostiary keys create zone-a" in keys("esams", "import", file, *words, code=1).stderr
    keys("create", "zone-a")
    other = good.replace(SERIAL, "45534d0000000002")
    for text in ("", "[]", "{}", other, good.replace('"intl"', '"gm"')):
        file.write_text(text)
        assert "nothing was imported" in keys("esams", "import", file, *words, code=1).stderr
    file.write_text(good)
    for word, wrong in (("front-agent", "Front Agent"), ("zone-a", "Zone A")):
        changed = [wrong if each == word else each for each in words]
        assert "nothing was imported" in keys("esams", "import", file, *changed, code=1).stderr
    assert json.loads(keys("esams", "list", "--json").stdout) == []


def test_two_of_three_people_restore_what_was_lost(keys, site, tmp_path):
    keys("create", "zone-a")
    before = domains(keys)
    shares = [tmp_path / f"share-{n}" for n in range(3)]
    given = [word for share in shares for word in ("--share-file", share)]
    result = keys("backup", tmp_path / "backup", "--people", 3, "--needed", 2, *given)
    for file in (tmp_path / "backup", *shares):
        assert file.stat().st_mode & 0o777 == 0o600
    assert not [share for share in shares if share.read_text().strip() in result.output]
    (site / "kek").write_text(secrets.token_hex(32))
    one = keys("restore", tmp_path / "backup", "--share-file", shares[0], code=1)
    assert "2 different shares are needed" in one.stderr
    typed = "\n".join([shares[2].read_text().strip(), "a slip", shares[0].read_text().strip()])
    asked = keys("restore", tmp_path / "backup", input=typed + "\n")
    assert "1 key versions and 0 ESAMs were missing, or could not be opened" in asked.stdout
    assert "share 1 is not one" in asked.stderr
    assert shares[2].read_text().strip() not in asked.output
    assert domains(keys) == before


@pytest.mark.system
def test_keys_in_a_token(keys, site, monkeypatch):
    soft_token()
    with (site / "server.toml").open("a") as settings:
        settings.write(
            f'key_home = "pkcs11"\npkcs11_module = "{MODULE}"\npkcs11_token = "ostiary"\n'
        )
    assert "OSTIARY_PKCS11_PIN" in keys("domains", code=1).stderr
    monkeypatch.setenv("OSTIARY_PKCS11_PIN", PIN)
    keys("create", f"t{secrets.token_hex(4)}")
    assert domains(keys)[0]["versions"][0]["home"] == "pkcs11"


async def test_a_running_server_makes_an_event_of_what_the_command_did(tmp_path):
    """And what it says is signed, and in the chain that anyone can verify."""
    made = await make_site(tmp_path / "site")
    words = ["keys", "create", "zone-a", "-d", str(made.path)]
    async with running(made):
        result = await asyncio.to_thread(CLI.invoke, app, words)
        assert result.exit_code == 0, result.output
        await until_stored(made, lambda events: any("keys.version_made" in e.type for e in events))
    verified = await asyncio.to_thread(CLI.invoke, app, ["events", "verify", "-d", str(made.path)])
    assert verified.exit_code == 0, verified.output
