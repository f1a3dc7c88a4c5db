"""Keys in a running server: a home that is away is an alarm, and a PIN is tried once."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import pytest

from schemas.keys import Item
from server.distribution import key_work
from server.distribution.key_work import KeyWork
from server.keys.authority import KeyAuthority
from server.keys.home import HomeLocked, HomeUnavailable, KeysError
from server.keys.homes import PAUSE_S, Homes, LateHome
from server.keys.issuing import Asked, Issuer
from server.keys.sealed import SealedHome
from tests.esam_desk import EsamDesk
from tests.key_rig import AGENT, DOMAIN, key_desk, request


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


class Slot:
    """Where a home is put in, and pulled out."""

    def __init__(self, home) -> None:
        self.home, self.refusal, self.opened = home, None, 0

    def open(self):
        self.opened += 1
        if self.refusal is not None:
            raise self.refusal
        return self.home


def only(desk, homes, authority, alarm) -> KeyWork:
    """Key work that watches its homes, and does no more."""
    parts = dict.fromkeys(field.name for field in fields(KeyWork))
    given = {"engine": desk.engine, "homes": homes, "authority": authority, "alarm": alarm}
    return KeyWork(**(parts | given))


@pytest.fixture
async def desk(tmp_path):
    async with key_desk(tmp_path / "site") as opened:
        await opened.authority.create_domain(DOMAIN, "intl", "test")
        yield opened


@pytest.fixture
def slot(desk):
    return Slot(desk.homes.first)


@pytest.fixture
def late(slot):
    clock = Clock()
    return LateHome("sealed", slot.open, clock), clock


def test_a_home_is_opened_when_it_is_needed_and_after_a_pause_again(slot, late):
    home, clock = late
    assert not slot.opened
    slot.refusal = HomeUnavailable("no token")
    for _ in range(3):
        with pytest.raises(HomeUnavailable, match="no token"):
            home.open()
    assert slot.opened == 1
    slot.refusal, clock.now_s = None, PAUSE_S
    home.open()
    home.open()
    assert slot.opened == 2


def test_a_pin_that_was_refused_is_not_tried_again(slot, late):
    home, clock = late
    slot.refusal = HomeLocked("the PIN is wrong")
    for _ in range(3):
        with pytest.raises(HomeLocked):
            home.open()
        clock.now_s += PAUSE_S
    assert slot.opened == 1


def test_a_pin_that_is_refused_later_is_not_tried_again_either(slot, late):
    home, _ = late

    class Changed(SealedHome):
        def open(self):
            raise HomeLocked("the PIN is wrong")

    slot.home = Changed("demo", bytes(32), bytes)
    for _ in range(3):
        with pytest.raises(HomeLocked):
            home.open()
    assert slot.opened == 1


def test_a_home_that_stops_to_answer_is_opened_anew(slot, late):
    home, _ = late

    class Gone(SealedHome):
        def open(self):
            raise HomeUnavailable("pulled out")

    present, slot.home = slot.home, Gone("demo", bytes(32), bytes)
    with pytest.raises(HomeUnavailable, match="pulled out"):
        home.open()
    slot.home = present
    home.open()
    assert slot.opened == 2


async def test_keys_that_are_away_are_one_alarm_and_no_agents_fault(desk, slot, late, monkeypatch):
    monkeypatch.setattr(key_work, "LOOK_S", 0.0)
    home, clock = late
    slot.refusal = HomeUnavailable("no token")
    alarms: asyncio.Queue = asyncio.Queue()
    with ThreadPoolExecutor(1) as executor:
        homes = Homes([home], executor)
        common = {"engine": desk.engine, "homes": homes, "clock": desk.authority._clock}
        issuer = Issuer(**common, announced=lambda: None)
        esam = EsamDesk("intl").issue()
        await desk.know(esam)
        asked = request(esam, Item.KEYS, 1, challenge=esam.challenge())
        with pytest.raises(HomeUnavailable):
            await issuer.package(asked, AGENT)
        authority = KeyAuthority(**common, announced=lambda: None)
        work = only(desk, homes, authority, alarms.put_nowait)
        watching = asyncio.create_task(work._watch())
        alarm = await alarms.get()
        assert (alarm.kind, alarm.agent, alarm.detail) == ("key_refused", None, "no token")
        slot.refusal, clock.now_s = None, PAUSE_S
        while home._home is None:  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0)
        assert (await issuer.package(asked, AGENT)).check_values
        watching.cancel()
        # the database is closed next: who still reads from it would wait for ever
        await asyncio.gather(watching, return_exceptions=True)
    assert alarms.empty()


async def test_no_home_is_opened_where_there_is_no_key(tmp_path, slot):
    slot.refusal = HomeUnavailable("no token")
    async with key_desk(tmp_path / "empty") as desk:
        with ThreadPoolExecutor(1) as executor:
            homes = Homes([LateHome("sealed", slot.open, Clock())], executor)
            authority = KeyAuthority(
                engine=desk.engine, homes=homes, clock=desk.authority._clock, announced=lambda: None
            )
            await only(desk, homes, authority, None)._look()
    assert not slot.opened


async def test_of_a_batch_each_gets_its_own_answer(desk):
    esams = [EsamDesk("intl", serial=f"ESAM{n:04}".encode()).issue() for n in range(5)]
    for number, esam in enumerate(esams):
        await desk.know(esam, agent=f"agent-{number}")
    asked = [
        Asked(f"agent-{n}", request(e, Item.KEYS, 1, challenge=e.challenge()))
        for n, e in enumerate(esams)
    ]
    asked[1] = Asked("agent-0", asked[1].request)
    asked[3] = Asked("agent-3", asked[3].request.model_copy(update={"version": 7}))
    made = await desk.issuer.packages(asked)
    assert "of agent-1" in str(made[1])
    assert "no version 7" in str(made[3])
    good = [made[0], made[2], made[4]]
    assert [package.audience for package in good] == ["agent-0", "agent-2", "agent-4"]
    assert len({package.counter for package in good}) == 3
    assert [name for name, _ in await desk.news()].count("keys.package_made") == 3


async def test_what_is_withdrawn_or_retired_while_a_package_is_made_is_not_given(desk):
    esam = EsamDesk("intl").issue()
    await desk.know(esam)
    await desk.authority.new_version(DOMAIN, "test")
    loop = asyncio.get_running_loop()
    home = desk.homes.first
    make, serial = home.package, esam.serial.hex()
    for meanwhile in (
        lambda: desk.authority.raise_floor(DOMAIN, 2, "another"),
        lambda: desk.esams.withdraw(serial, "another"),
    ):
        version = 1 if (await desk.authority.domains())[0].floor == 1 else 2

        def package(*args, during=meanwhile):
            asyncio.run_coroutine_threadsafe(during(), loop).result()
            return make(*args)

        home.package = package
        asked = request(esam, Item.KEYS, version, challenge=esam.challenge())
        with pytest.raises(KeysError, match="was changed as agent"):
            await desk.issuer.package(asked, AGENT)
        home.package = make
    assert "keys.package_made" not in [name for name, _ in await desk.news()]
