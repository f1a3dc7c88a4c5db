"""`ostiary keys`: from a new domain to its end, and keys lost and found."""

from __future__ import annotations

import asyncio
import json
import secrets

import pytest
from typer.testing import CliRunner

from server.cli.root import app
from server.site import create_site
from server.store.database import open_database
from tests.key_rig import MODULE, PIN, soft_token

CLI = CliRunner()
SERIAL = "45534d0000000001"
CONTROL_KEY = "000102030405060708090a0b0c0d0e0f"


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
def esam_file(tmp_path):
    file = tmp_path / "esams.json"
    entry = {
        "serial": SERIAL,
        "control_key": CONTROL_KEY,
        "agent": "front-agent",
        "domains": ["zone-a"],
    }
    file.write_text(json.dumps([entry]))
    file.chmod(0o600)
    return file


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
    keys("retire", "zone-a", "--below", 2)
    keys("destroy", "zone-a", 1, code=1, input="n\n")
    keys("destroy", "zone-a", 1, input="y\n")
    shown = keys("domains").stdout
    assert "destroyed" in shown
    assert "ready" in shown


def test_esams_are_imported_listed_and_withdrawn(keys, esam_file):
    keys("create", "zone-a")
    esam_file.chmod(0o644)
    assert "others may read the keys" in keys("esams", "import", esam_file, code=1).stderr
    esam_file.chmod(0o600)
    result = keys("esams", "import", esam_file)
    assert "destroy it" in result.stderr
    (esam,) = json.loads(keys("esams", "list", "--json").stdout)
    assert (esam["serial"], esam["domains"]) == (SERIAL, {"zone-a": None})
    keys("esams", "withdraw", SERIAL)
    shown = keys("esams", "list")
    assert "withdrawn" in shown.stdout
    assert CONTROL_KEY not in result.output + shown.output


@pytest.mark.parametrize(
    "text",
    ["", "[", "{}", '[{"serial":"x"}]', "null", f'[{{"serial":"{SERIAL}","control_key":"z"}}]'],
)
def test_a_file_of_esams_that_is_malformed_is_refused_whole(keys, esam_file, text):
    esam_file.write_text(text)
    assert "nothing was imported" in keys("esams", "import", esam_file, code=1).stderr


def test_an_esam_of_a_domain_that_is_not_there_is_refused(keys, esam_file):
    assert "ostiary keys create zone-a" in keys("esams", "import", esam_file, code=1).stderr


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
    assert "1 key versions" in asked.stdout
    assert "share 1 is not one" in asked.stderr
    assert shares[2].read_text().strip() not in asked.output
    assert domains(keys) == before


def test_a_backup_overwrites_nothing_and_shows_no_share_to_a_pipe(keys, tmp_path):
    keys("create", "zone-a")
    file = tmp_path / "backup"
    keys("backup", file)
    first = file.read_bytes()
    assert "there already" in keys("backup", file, code=1).stderr
    assert file.read_bytes() == first
    other, share = tmp_path / "other", tmp_path / "share"
    assert "on a terminal" in keys("backup", other, "--people", 3, code=1).stderr
    one_file = ("--people", 3, "--share-file", share)
    assert "name one each" in keys("backup", other, *one_file, code=1).stderr
    twice = ("--people", 2, "--share-file", share, "--share-file", share)
    assert "named twice" in keys("backup", other, *twice, code=1).stderr
    assert not other.exists()
    assert not share.exists()
    assert "ostiary keys backup" in keys("restore", "/etc/hostname", code=1).stderr


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
