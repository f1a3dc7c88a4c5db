"""Whatever is done with keys, none is in a file, an event, a log, an error or a representation."""

from __future__ import annotations

import logging
import secrets
import traceback

import pytest
from pydantic import ValidationError

from schemas.keys import Item
from server.kek import read_kek
from server.keys.backup import BackupKey
from server.keys.esams import NewEsam
from server.keys.home import KeysError
from server.keys.sealed import SealedHome
from server.site import create_site
from tests.esam_desk import EsamDesk
from tests.key_rig import DOMAIN, bytes_of, key_desk, request, traces


class Recorder:
    """A random source that remembers the 16-byte keys and 32-byte secrets it gave."""

    def __init__(self):
        self.given = []

    def __call__(self, count):
        drawn = secrets.token_bytes(count)
        if count >= 16:
            self.given.append(drawn)
        return drawn


@pytest.fixture(params=["gm", "intl"])
async def scene(request, tmp_path, caplog):
    """A desk, the keys that it drew, and everything that was said meanwhile."""
    caplog.set_level(logging.DEBUG)
    path, random = tmp_path / "site", Recorder()
    create_site(path, "demo", request.param, secrets.token_bytes, {})
    home = SealedHome("demo", read_kek(path, {}), random)
    async with key_desk(path, homes=[home]) as desk:
        yield desk, random, []


async def refuse(said, work):
    """It is refused; keep all that the refusal says, with what it came from."""
    with pytest.raises(KeysError) as refusal:
        await work
    said.append("".join(traceback.format_exception(refusal.value)))


async def everything(desk, said, folder):
    """Use all that the authority can do, and much that it refuses."""
    esam = EsamDesk(desk.site.suite.name).issue()
    await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    await desk.authority.new_version(DOMAIN, "test")
    await desk.know(esam)
    for version in (1, 2):
        asked = request(esam, Item.KEYS, version, challenge=esam.challenge())
        package = await desk.issuer.package(asked, "front-agent")
        said += [repr(package), package.model_dump_json()]
    key = BackupKey.for_people(3, 2, desk.homes.first._random)
    for number, each in enumerate((key, None)):
        data = await desk.copying.copy_out(each, "test")
        (folder / f"backup-{number}").write_bytes(data)
    said.append(repr(key))
    await desk.copying.copy_in(data, [], "test")
    asked = request(esam, Item.KEYS, 9, challenge=esam.challenge())
    await refuse(said, desk.issuer.package(asked, "front-agent"))
    await refuse(said, desk.issuer.package(asked, "back-agent"))
    await refuse(said, desk.copying.copy_in(data[:-1], [], "test"))
    async with desk.engine.begin() as connection:
        await connection.exec_driver_sql(
            "UPDATE key_versions SET stored = (SELECT control FROM esams) WHERE version = 2"
        )
    asked = request(esam, Item.KEYS, 2, challenge=esam.challenge())
    await refuse(said, desk.issuer.package(asked, "front-agent"))
    await refuse(said, desk.copying.copy_out(None, "test"))
    said += [repr(each) for each in await desk.authority.domains()]
    said += [repr(each) for each in await desk.esams.listed()]
    said += [data for _, data in await desk.news()]
    return esam


async def test_no_key_is_anywhere(scene, tmp_path, caplog):
    desk, random, said = scene
    esam = await everything(desk, said, tmp_path)
    keys = [*random.given, esam.control_key, read_kek(desk.site.path, {})]
    assert len(random.given) == 2 * 3 + 1
    (desk.site.path / "kek").unlink()
    disk = bytes_of(tmp_path)
    words = "\n".join([*said, caplog.text]).encode()
    assert len(disk) > 50_000
    assert traces(disk, keys) == []
    assert traces(words, keys) == []
    assert traces(disk + keys[0], keys) == [keys[0]] * 2, "the search itself finds nothing"


async def test_what_was_destroyed_is_overwritten_on_the_disk(scene, tmp_path):
    desk, _, _ = scene
    await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    await desk.authority.new_version(DOMAIN, "test")
    (domain,) = await desk.authority.domains()
    old, new = (version.stored for version in domain.versions)
    assert old in bytes_of(tmp_path)
    await desk.authority.raise_floor(DOMAIN, 2, "test")
    await desk.authority.destroy(DOMAIN, 1, "test")
    assert old not in bytes_of(tmp_path)
    assert new in bytes_of(tmp_path)


@pytest.mark.parametrize("control_key", [b"\xaa" * 15, b"\xaa" * 17])
def test_a_control_key_that_is_malformed_is_not_repeated(control_key):
    with pytest.raises(ValidationError) as refusal:
        NewEsam(
            serial="00" * 8, suite="gm", control_key=control_key, agent="a", domains=("zone-a",)
        )
    assert "xaa" not in str(refusal.value)
    esam = NewEsam(
        serial="00" * 8, suite="gm", control_key=b"k" * 16, agent="a", domains=("zone-a",)
    )
    assert "kkk" not in repr(esam)
