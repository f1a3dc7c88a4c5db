"""Keys copied to a file and back: by one person with the site's own key, or by several together."""

from __future__ import annotations

import json
import secrets
import shutil

import pytest

from schemas.keys import Item
from server.keys.backup import BackupKey, read_heading
from server.keys.home import HomeUnavailable, KeysError
from server.keys.shares import TooFewShares
from tests.esam_desk import EsamDesk
from tests.key_rig import DOMAIN, bytes_of, key_desk, request, token_home


@pytest.fixture(params=["gm", "intl"])
async def desk(request, tmp_path):
    async with key_desk(tmp_path / "site", request.param) as opened:
        await opened.authority.create_domain(DOMAIN, opened.suite, "test")
        await opened.authority.new_version(DOMAIN, "test")
        yield opened


@pytest.fixture
async def esam(desk):
    esam = EsamDesk(desk.site.suite.name).issue()
    await desk.know(esam)
    assert await desk.write(esam, Item.KEYS, 1)
    return esam


def people():
    return BackupKey.for_people(3, 2, secrets.token_bytes)


async def lose(desk):
    """The database's keys are gone."""
    async with desk.engine.begin() as connection:
        for table in ("esam_domains", "esams", "key_versions", "key_domains"):
            await connection.exec_driver_sql(f"DELETE FROM {table}")


@pytest.mark.parametrize("shared", [False, True])
async def test_what_was_lost_comes_back_as_it_was(desk, esam, shared):
    await desk.authority.raise_floor(DOMAIN, 2, "test")
    key = people() if shared else None
    before, known = await desk.authority.domains(), await desk.esams.listed()
    data = await desk.copying.copy_out(key, "test")
    await lose(desk)
    restored = await desk.copying.copy_in(data, key.shares[1:] if key else [], "test")
    assert (restored.versions, restored.esams, restored.destroyed) == (2, 1, ())
    after = await desk.authority.domains()
    assert [(d.name, d.floor) for d in after] == [(d.name, d.floor) for d in before]
    for old, new in zip(before[0].versions, after[0].versions, strict=True):
        assert (old.check_values, old.created) == (new.check_values, new.created)
    assert [(e.serial, e.domains, e.added) for e in await desk.esams.listed()] == [
        (e.serial, e.domains, e.added) for e in known
    ]
    assert await desk.write(esam, Item.KEYS, 2)
    assert await desk.write(esam, Item.FLOOR, 2)
    names = [name for name, _ in await desk.news()]
    assert (names.count("keys.backed_up"), names.count("keys.restored")) == (1, 1)


async def test_people_restore_on_another_machine_without_the_sites_key(desk, esam, tmp_path):
    """Its key-encryption key burnt with it; that of the new machine is another."""
    key = people()
    data = await desk.copying.copy_out(key, "test")
    mine = await desk.copying.copy_out(None, "test")
    kek = desk.site.path / "kek"
    kek.write_text(secrets.token_hex(32))
    async with key_desk(desk.site.path) as new:
        with pytest.raises(HomeUnavailable):
            await new.write(esam, Item.KEYS, 1)
        with pytest.raises(KeysError, match="another key-encryption key"):
            await new.copying.copy_in(mine, [], "test")
        await new.copying.copy_in(data, key.shares[:2], "test")
        assert await new.write(esam, Item.KEYS, 1)


async def test_too_few_people_restore_nothing(desk, esam):
    key = people()
    data = await desk.copying.copy_out(key, "test")
    await lose(desk)
    before = await desk.news()
    for shares in ([], key.shares[:1], [key.shares[0]] * 2):
        with pytest.raises(TooFewShares):
            await desk.copying.copy_in(data, shares, "test")
    with pytest.raises(KeysError, match="other shares"):
        await desk.copying.copy_in(data, people().shares[:2], "test")
    with pytest.raises(KeysError, match="different backups"):
        await desk.copying.copy_in(data, [key.shares[0], people().shares[1]], "test")
    assert await desk.authority.domains() == []
    assert await desk.news() == before


async def test_every_changed_byte_is_noticed(desk):
    data = await desk.copying.copy_out(None, "test")
    before = await desk.authority.domains()
    line = data.index(b"\n")
    for place in [*range(0, line + 40, 7), *range(line, len(data), 97), len(data) - 1]:
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(KeysError):
            await desk.copying.copy_in(bytes(changed), [], "test")
    for cut in (b"", data[:line], data[: line + 1], data[:-1], b"\x00" * 100):
        with pytest.raises(KeysError):
            await desk.copying.copy_in(cut, [], "test")
    assert await desk.authority.domains() == before


async def test_a_heading_that_asks_for_fewer_people_opens_nothing(desk):
    """Who writes `shares: 0` over it does not make it the site's own."""
    key = people()
    data = await desk.copying.copy_out(key, "test")
    assert (read_heading(data).shares, read_heading(data).needed) == (3, 2)
    line, _, rest = data.partition(b"\n")
    forged = line.replace(b'"shares":3', b'"shares":0') + b"\n" + rest
    with pytest.raises(KeysError, match="can't be opened"):
        await desk.copying.copy_in(forged, [], "test")


async def test_a_backup_of_another_site_or_a_domain_of_another_suite_is_refused(desk, tmp_path):
    data = await desk.copying.copy_out(None, "test")
    other = "gm" if desk.site.suite.name == "intl" else "intl"
    async with key_desk(tmp_path / "other", other) as elsewhere:
        shutil.copy(desk.site.path / "kek", elsewhere.site.path / "kek")
    async with key_desk(tmp_path / "other") as elsewhere:
        await elsewhere.authority.create_domain(DOMAIN, other, "test")
        with pytest.raises(KeysError, match="of suite"):
            await elsewhere.copying.copy_in(data, [], "test")
    renamed = data.replace(b'"site":"demo"', b'"site":"else"', 1)
    with pytest.raises(KeysError, match="of site else"):
        await desk.copying.copy_in(renamed, [], "test")


async def test_what_was_destroyed_stays_destroyed_and_floors_stay_up(desk, esam):
    data = await desk.copying.copy_out(None, "test")
    await desk.authority.raise_floor(DOMAIN, 2, "test")
    await desk.authority.destroy(DOMAIN, 1, "test")
    await desk.esams.withdraw(esam.serial.hex(), "test")
    restored = await desk.copying.copy_in(data, [], "test")
    assert restored.destroyed == (f"{DOMAIN}/1",)
    (domain,) = await desk.authority.domains()
    assert domain.floor == 2
    assert domain.versions[0].destroyed is not None
    assert domain.versions[0].stored == b""
    assert [each.state for each in await desk.esams.listed()] == ["withdrawn"]


async def test_a_version_that_differs_stops_the_whole_restore(desk):
    data = await desk.copying.copy_out(None, "test")
    await lose(desk)
    await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    before = await desk.authority.domains()
    with pytest.raises(KeysError, match=r"zone-a/1 is not this site's.*Nothing was restored"):
        await desk.copying.copy_in(data, [], "test")
    assert await desk.authority.domains() == before


async def test_a_backup_holds_no_key_that_was_destroyed(desk):
    await desk.authority.raise_floor(DOMAIN, 2, "test")
    await desk.authority.destroy(DOMAIN, 1, "test")
    data = await desk.copying.copy_out(None, "test")
    await lose(desk)
    await desk.copying.copy_in(data, [], "test")
    (domain,) = await desk.authority.domains()
    assert [bool(version.stored) for version in domain.versions] == [False, True]
    assert [version.destroyed is None for version in domain.versions] == [False, True]


@pytest.mark.system
async def test_of_keys_in_a_token_a_backup_has_the_names(tmp_path):
    home = token_home(f"t{secrets.token_hex(6)}")
    esam = EsamDesk("intl").issue()
    async with key_desk(tmp_path / "site", homes=[home]) as desk:
        await desk.authority.create_domain(DOMAIN, desk.suite, "test")
        await desk.know(esam)
        key = people()
        data = await desk.copying.copy_out(key, "test")
        await lose(desk)
        await desk.copying.copy_in(data, key.shares[:2], "test")
        assert await desk.write(esam, Item.KEYS, 1)


async def test_the_audit_log_says_for_how_many_it_was_copied(desk):
    await desk.copying.copy_out(people(), "test")
    name, data = (await desk.news())[-1]
    said = json.loads(data)
    assert (name, said["shares"], said["needed"], said["versions"]) == ("keys.backed_up", 3, 2, 2)


async def test_the_next_package_after_a_restore_is_announced_too(desk, esam, tmp_path):
    data = await desk.copying.copy_out(None, "test")
    await desk.copying.copy_in(data, [], "test")
    asked = request(esam, Item.KEYS, 2, challenge=esam.challenge())
    await desk.issuer.package(asked, "front-agent")
    assert (await desk.news())[-1][0] == "keys.package_made"
    assert esam.control_key not in bytes_of(tmp_path)
