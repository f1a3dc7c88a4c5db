"""The process may be gone at any moment: between the token and the database, before or after a
commit. What is there then is the old state or the new one, and doing it again ends well."""

from __future__ import annotations

import json
import secrets
from contextlib import asynccontextmanager, suppress

import pytest
from sqlalchemy import event

from schemas.keys import Item
from server.kek import read_kek
from server.keys.sealed import SealedHome
from tests.esam_desk import EsamDesk
from tests.key_rig import AGENT, DOMAIN, key_desk, request, token_home

TOKEN = pytest.param("pkcs11", marks=pytest.mark.system)


class Killed(BaseException):
    """The process is gone: nothing in it may catch this."""


class Fate:
    """Counts the moments at which the process may go, and ends it at one of them."""

    def __init__(self) -> None:
        self.left = 0

    def moment(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class MortalHome:
    """A home whose every call may be the last, before it is done or after."""

    def __init__(self, home, fate):
        self._home, self._fate, self.name = home, fate, home.name

    def __getattr__(self, name):
        def call(*args):
            self._fate.moment()
            result = getattr(self._home, name)(*args)
            self._fate.moment()
            return result

        return call


class Place:
    """A site and a home that outlive each process."""

    def __init__(self, path, home):
        self.path, self._home, self.fate = path, home, Fate()

    @asynccontextmanager
    async def process(self):
        """One life of the server."""
        async with key_desk(self.path, homes=[MortalHome(self._home, self.fate)]) as desk:
            event.listen(desk.engine.sync_engine, "commit", self.fate.moment)
            for part in (desk.authority, desk.issuer):
                part._announced = self.fate.moment  # after a commit
            await desk.authority.load()
            yield desk

    async def until_done(self, work):
        """Kill the work at its first moment, then at its second, until it gets through.

        After each death it is tried as the next process finds things.
        """
        for at in range(1, 100):
            async with self.process() as desk:
                self.fate.left = at
                try:
                    result = await work(desk)
                except Killed:
                    continue
                finally:
                    alive, self.fate.left = self.fate.left > 0, 0
                if alive:
                    return at - 1, result
        raise AssertionError("it never gets through")


@pytest.fixture(params=["sealed", TOKEN])
async def place(request, tmp_path):
    path = tmp_path / "site"
    async with key_desk(path):
        pass
    if request.param == "pkcs11":
        return Place(path, token_home(f"t{secrets.token_hex(6)}"))
    return Place(path, SealedHome("demo", read_kek(path, {}), secrets.token_bytes))


async def told(desk, name):
    return [json.loads(data) for event, data in await desk.news() if event == name]


async def test_making_versions(place):
    async def work(desk):
        (found,) = await desk.authority.domains() or [None]
        if found is None:
            await desk.authority.create_domain(DOMAIN, desk.suite, "test")
        while (await desk.authority.domains())[0].newest < 3:
            await desk.authority.new_version(DOMAIN, "test")

    deaths, _ = await place.until_done(work)
    assert deaths >= 3
    async with place.process() as desk:
        (domain,) = await desk.authority.domains()
        made = await told(desk, "keys.version_made")
        assert [each["version"] for each in made] == [1, 2, 3]
        assert [v.check_values.model_dump() for v in domain.versions] == [
            each["check_values"] for each in made
        ]


async def test_giving_a_key(place):
    esam = EsamDesk("intl").issue()
    async with place.process() as desk:
        made = await desk.authority.create_domain(DOMAIN, desk.suite, "test")
        await desk.know(esam)
    given = []

    async def work(desk):
        asked = request(esam, Item.KEYS, 1, challenge=esam.challenge())
        given.append(await desk.issuer.package(asked, AGENT))
        assert len(await told(desk, "keys.package_made")) >= len(given)

    deaths, _ = await place.until_done(work)
    assert deaths >= 3
    assert len(given) == 1
    async with place.process() as desk:
        assert await desk.write(esam, Item.KEYS, 1)
        (known,) = await desk.esams.listed()
        assert known.domains == {DOMAIN: 1}
    assert esam.table() == {1: made}


async def test_destroying(place):
    """Each version is destroyed by a process that dies one moment later than the one before."""
    esam, last = EsamDesk("intl").issue(), 7
    async with place.process() as desk:
        await desk.authority.create_domain(DOMAIN, desk.suite, "test")
        for _ in range(2, last + 1):
            await desk.authority.new_version(DOMAIN, "test")
        await desk.authority.raise_floor(DOMAIN, last, "test")
        await desk.know(esam)
        (domain,) = await desk.authority.domains()
    stored = [version.stored for version in domain.versions[:-1]]
    deaths = 0
    for version in range(1, last):
        async with place.process() as desk:
            place.fate.left = version
            try:
                await desk.authority.destroy(DOMAIN, version, "test")
            except Killed:
                deaths += 1
            finally:
                place.fate.left = 0
        async with place.process() as desk:
            await desk.authority.destroy(DOMAIN, version, "test")
            (domain,) = await desk.authority.domains()
            assert domain.versions[version - 1].stored == b""
            gone = await told(desk, "keys.version_destroyed")
            assert [each["version"] for each in gone] == list(range(1, version + 1))
    assert deaths == 5
    async with place.process() as desk:
        assert await desk.write(esam, Item.KEYS, last), "another version is as good as before"
    if place._home.name == "pkcs11":
        import pkcs11

        with place._home._session() as session:
            for name in stored:
                assert not list(session.get_objects({pkcs11.Attribute.ID: name}))


async def test_a_start_finishes_what_a_stop_left_half_destroyed(place):
    async with place.process() as desk:
        await desk.authority.create_domain(DOMAIN, desk.suite, "test")
        await desk.authority.new_version(DOMAIN, "test")
        await desk.authority.raise_floor(DOMAIN, 2, "test")
        place.fate.left = 2  # the commit that records it, and then nothing more
        with suppress(Killed):
            await desk.authority.destroy(DOMAIN, 1, "test")
        place.fate.left = 0
        (domain,) = await desk.authority.domains()
        assert domain.versions[0].destroyed
        assert domain.versions[0].stored
    async with place.process() as desk:
        (domain,) = await desk.authority.domains()
        assert domain.versions[0].stored == b""


async def test_importing_an_esam(place):
    esam = EsamDesk("intl").issue()
    async with place.process() as desk:
        await desk.authority.create_domain(DOMAIN, desk.suite, "test")

    async def work(desk):
        await desk.know(esam)

    deaths, _ = await place.until_done(work)
    assert deaths >= 3
    for moment in range(1, 8):  # again, as if nobody knew how far it came
        async with place.process() as desk:
            place.fate.left = moment
            with suppress(Killed):
                await desk.know(esam)
            place.fate.left = 0
            assert await desk.write(esam, Item.KEYS, 1)
