"""Domain secrets from their making to their end, and who is given what of them."""

from __future__ import annotations

import asyncio
import json
import secrets

import pytest
from sqlalchemy import insert

from schemas.keys import Item
from server.keys.home import HomeUnavailable, KeysError
from server.keys.sealed import SealedHome
from server.model.bindings import bind
from server.store import keys as rows
from server.store.model_tables import doors
from server.store.rotations import Versions, put_versions
from tests.agent_pen import MOMENT
from tests.esam_desk import EsamDesk
from tests.key_rig import AGENT, DOMAIN, key_desk, request


@pytest.fixture(params=["gm", "intl"])
async def desk(request, tmp_path):
    async with key_desk(tmp_path / "site", request.param) as opened:
        yield opened


@pytest.fixture
def esam(desk):
    return EsamDesk(desk.site.suite.name).issue()


async def test_a_new_domain_has_one_version_and_its_check_values(desk):
    made = await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    (domain,) = await desk.authority.domains()
    assert (domain.name, domain.floor, domain.newest) == (DOMAIN, 1, 1)
    assert await desk.authority.check_values(DOMAIN, 1) == made
    assert len({made.auth, made.admit, made.maintain}) == 3
    ((name, data),) = await desk.news()
    assert (name, json.loads(data)["check_values"]) == ("keys.version_made", made.model_dump())


async def test_a_domain_is_made_once_and_its_name_is_a_name(desk):
    await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    for name, why in [(DOMAIN, "there already"), ("Zone A", "not a name"), ("", "not a name")]:
        with pytest.raises(KeysError, match=why):
            await desk.authority.create_domain(name, desk.suite, "test")
    assert len(await desk.news()) == 1


async def test_versions_count_up_and_no_two_have_the_same_keys(desk):
    made = [await desk.authority.create_domain(DOMAIN, desk.suite, "test")]
    for number in (2, 3):
        version, checks = await desk.authority.new_version(DOMAIN, "test")
        assert version == number
        made.append(checks)
    assert len({checks.auth for checks in made}) == 3
    with pytest.raises(KeysError, match="no key domain zone-b"):
        await desk.authority.new_version("zone-b", "test")
    with pytest.raises(KeysError, match="no version 4"):
        await desk.authority.check_values(DOMAIN, 4)


async def test_two_who_make_a_version_at_once_never_write_over_each_others_keys(desk, tmp_path):
    """Two commands are two processes: no lock of ours is between them."""
    await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    async with key_desk(tmp_path / "site") as other:
        made = await asyncio.gather(
            *(each.authority.new_version(DOMAIN, "test") for each in (desk, other) * 4),
            *(each.authority.create_domain("zone-b", each.suite, "test") for each in (desk, other)),
            return_exceptions=True,
        )
    refusals = [each for each in made if isinstance(each, Exception)]
    assert all(isinstance(each, KeysError) for each in refusals), refusals
    domain, second = await desk.authority.domains()
    versions = dict(each for each in made[:-2] if not isinstance(each, Exception))
    assert {v.version: v.check_values for v in domain.versions[1:]} == versions
    assert [v.check_values for v in second.versions] == [
        each for each in made[-2:] if not isinstance(each, Exception)
    ]
    announced = [name for name, _ in await desk.news()].count("keys.version_made")
    assert announced == len(domain.versions) + len(second.versions)


async def test_a_floor_that_another_process_raised_higher_stays(desk):
    await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    async with desk.engine.begin() as connection:
        await rows.raise_floor(connection, DOMAIN, 3)
        await rows.raise_floor(connection, DOMAIN, 2)
    assert (await desk.authority.domains())[0].floor == 3


async def test_an_esam_takes_the_keys_and_shows_the_authoritys_check_values(desk, esam):
    made = await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    await desk.know(esam)
    assert await desk.write(esam, Item.KEYS, 1)
    assert esam.table() == {1: made}


async def test_every_package_is_announced_before_it_is_given(desk, esam):
    made = await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    await desk.know(esam)
    await desk.write(esam, Item.KEYS, 1)
    name, data = (await desk.news())[-1]
    assert name == "keys.package_made"
    assert json.loads(data) == {
        "by": f"agent {AGENT}",
        "domain": DOMAIN,
        "version": 1,
        "item": "keys",
        "esam": esam.serial.hex(),
        "agent": AGENT,
        "check_values": made.model_dump(),
    }


async def test_a_package_answers_its_request_and_no_other(desk, esam):
    await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    await desk.know(esam)
    asked = request(esam, Item.KEYS, 1, challenge=esam.challenge())
    first, second = [await desk.issuer.package(asked, AGENT) for _ in range(2)]
    for package in (first, second):
        assert package.audience == AGENT
        for field in ("site", "session", "esam", "domain", "index", "version", "challenge"):
            assert getattr(package, field) == getattr(asked, field)
    assert second.counter > first.counter
    assert second.body == first.body, "the same challenge, the same key: nothing more to learn"


async def refused(desk, asked, why, agent=AGENT):
    """It is, and nothing is written down as given."""
    before = await desk.news()
    with pytest.raises(KeysError, match=why):
        await desk.issuer.package(asked, agent)
    assert await desk.news() == before


async def test_keys_go_to_the_agents_own_esam_and_the_domains_it_is_for_alone(desk, esam):
    for domain in (DOMAIN, "zone-b"):
        await desk.authority.create_domain(domain, desk.suite, "test")
    challenge = esam.challenge()
    asked = request(esam, Item.KEYS, 1, challenge=challenge)
    await refused(desk, asked, "not known")
    await desk.know(esam)
    await refused(desk, asked, "of front-agent", agent="back-agent")
    other = request(esam, Item.KEYS, 1, challenge=challenge, domain="zone-b", index=2)
    await refused(desk, other, "not for")
    gone = request(esam, Item.KEYS, 1, challenge=challenge, domain="zone-c", index=2)
    await refused(desk, gone, "no key domain")
    await refused(desk, request(esam, Item.KEYS, 2, challenge=challenge), "no version 2")
    await desk.esams.withdraw(esam.serial.hex(), "test")
    await refused(desk, asked, "withdrawn")
    await desk.esams.withdraw(esam.serial.hex(), "test")
    assert [name for name, _ in await desk.news()].count("keys.esam_changed") == 2


async def test_a_domain_stays_at_the_place_where_it_was_first_put(desk, esam):
    for domain in (DOMAIN, "zone-b"):
        await desk.authority.create_domain(domain, desk.suite, "test")
    await desk.know(esam, DOMAIN, "zone-b")
    challenge = esam.challenge()
    assert await desk.write(esam, Item.KEYS, 1, index=2)
    moved = request(esam, Item.KEYS, 1, challenge=challenge, index=3)
    await refused(desk, moved, "at place 3")
    shared = request(esam, Item.KEYS, 1, challenge=challenge, index=2, domain="zone-b")
    await refused(desk, shared, "at place 2")
    await desk.know(esam, "zone-b", DOMAIN)
    await refused(desk, moved, "at place 3")
    (known,) = await desk.esams.listed()
    assert known.domains == {DOMAIN: 2, "zone-b": None}


async def test_an_esam_is_imported_for_domains_that_are_there(desk, esam):
    with pytest.raises(KeysError, match="no key domain zone-a"):
        await desk.know(esam)
    assert await desk.esams.listed() == []
    with pytest.raises(KeysError, match="not known"):
        await desk.esams.withdraw(esam.serial.hex(), "test")


async def test_what_is_below_the_floor_is_given_to_nobody(desk, esam):
    await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    await desk.authority.new_version(DOMAIN, "test")
    await desk.know(esam)
    for version in (1, 2):
        assert await desk.write(esam, Item.KEYS, version)
    early = request(esam, Item.FLOOR, 2, challenge=esam.challenge())
    await refused(desk, early, "whose floor is 1")
    await desk.authority.raise_floor(DOMAIN, 2, "test")
    await desk.authority.raise_floor(DOMAIN, 2, "test")
    assert [name for name, _ in await desk.news()].count("keys.floor_raised") == 1
    await refused(desk, request(esam, Item.KEYS, 1, challenge=esam.challenge()), "retired")
    assert await desk.write(esam, Item.FLOOR, 2)
    assert set(esam.table()) == {2}
    with pytest.raises(KeysError, match="never goes down"):
        await desk.authority.raise_floor(DOMAIN, 1, "test")
    with pytest.raises(KeysError, match="no version 3"):
        await desk.authority.raise_floor(DOMAIN, 3, "test")


async def test_a_retired_version_can_be_destroyed_and_no_other(desk):
    checks = await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    await desk.authority.new_version(DOMAIN, "test")
    with pytest.raises(KeysError, match="may be in use"):
        await desk.authority.destroy(DOMAIN, 1, "test")
    await desk.authority.raise_floor(DOMAIN, 2, "test")
    for _ in range(2):
        await desk.authority.destroy(DOMAIN, 1, "test")
    (domain,) = await desk.authority.domains()
    gone, kept = domain.versions
    assert gone.destroyed is not None
    assert gone.stored == b""
    assert gone.check_values == checks, "what it was can still be told apart"
    assert kept.stored
    assert [name for name, _ in await desk.news()].count("keys.version_destroyed") == 1
    assert (await desk.authority.new_version(DOMAIN, "test"))[0] == 3, "no number comes again"


async def test_another_key_encryption_key_opens_nothing_and_the_error_says_what_to_do(
    desk, esam, tmp_path
):
    await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    await desk.know(esam)
    other = SealedHome("demo", b"\x01" * 32, secrets.token_bytes)
    async with key_desk(tmp_path / "site", homes=[other]) as wrong:
        before = await wrong.news()
        with pytest.raises(HomeUnavailable, match=r"key-encryption key.*ostiary keys restore"):
            await wrong.write(esam, Item.KEYS, 1)
        assert await wrong.news() == before


async def test_a_sealed_key_put_in_anothers_place_opens_nothing(desk, esam):
    for domain in (DOMAIN, "zone-b"):
        await desk.authority.create_domain(domain, desk.suite, "test")
    await desk.authority.new_version(DOMAIN, "test")
    await desk.know(esam)
    async with desk.engine.begin() as connection:
        one, two, other = await rows.read_versions(connection)
        for source, target in ((two, one), (other, two)):
            await connection.exec_driver_sql(
                "UPDATE key_versions SET stored = ? WHERE domain = ? AND version = ?",
                (source.stored, target.domain, target.version),
            )
    for version in (1, 2):
        asked = request(esam, Item.KEYS, version, challenge=esam.challenge())
        await refused(desk, asked, "sealed")


@pytest.mark.parametrize("key", ["auth", "admit", "maintain"])
async def test_a_key_that_is_not_the_one_that_was_made_is_not_sent(desk, esam, key):
    await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    await desk.know(esam)
    async with desk.engine.begin() as connection:
        await connection.exec_driver_sql(f"UPDATE key_versions SET {key}_check = '000000'")
    asked = request(esam, Item.KEYS, 1, challenge=esam.challenge())
    await refused(desk, asked, "not what it was made as")


async def test_versions_end_at_255(desk):
    await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    async with desk.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE key_versions SET version = 255")
    with pytest.raises(KeysError, match="used up its 255 versions"):
        await desk.authority.new_version(DOMAIN, "test")


async def door_of(desk, domain):
    async with desk.engine.begin() as connection:
        row = {"name": "front", "readers": "in", "behaviour": "{}", "revision": 1}
        await connection.execute(insert(doors).values(id="front", domain=domain, **row))


async def test_no_floor_is_raised_above_what_doors_ask_for(desk):
    await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    await desk.authority.new_version(DOMAIN, "test")
    await door_of(desk, DOMAIN)
    for asked in (Versions(), Versions(2, (1,))):
        async with desk.engine.begin() as connection:
            await put_versions(connection, DOMAIN, asked)
        with pytest.raises(KeysError, match="doors of zone-a take version 1"):
            await desk.authority.raise_floor(DOMAIN, 2, "test")
    async with desk.engine.begin() as connection:
        await put_versions(connection, DOMAIN, Versions(2))
    await desk.authority.raise_floor(DOMAIN, 2, "test")
    assert (await desk.authority.domains())[0].floor == 2


async def test_the_secrets_that_cards_are_bound_by_are_not_replaced_unasked(desk):
    await door_of(desk, DOMAIN)
    async with desk.engine.begin() as connection:
        await bind(connection, "0102030405060708", DOMAIN, 1, f"{'00' * 8}-1", MOMENT)
    with pytest.raises(KeysError, match="cards are bound in zone-a"):
        await desk.authority.create_domain(DOMAIN, desk.suite, "test")
    assert await desk.authority.domains() == []
