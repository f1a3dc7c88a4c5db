"""What a lock says of its keys, when, and what goes on meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent import keying
from edge_agent.card.application import UnlockQuestion
from tests.card_desk import SERIAL as CARD
from tests.esam_rig import CHALLENGE
from tests.keying_rig import DOMAIN, OTHER, honest, keying_rig, lost
from tests.link_rig import SITE


@pytest.fixture
async def rig(tmp_path):
    async with keying_rig(tmp_path) as rig:
        await rig.begin()
        yield rig


async def test_taps_go_on_while_a_package_is_waited_for(rig):
    answer = asyncio.Event()

    async def slow(rig, request):
        await answer.wait()
        await honest(rig, request)

    rig.answers = [slow]
    rig.order(2)
    await rig.asked.wait()
    element = rig.elements.get(DOMAIN, "intl")
    for _ in range(3):
        assert await element.admit(CARD, 1, CHALLENGE)
    answer.set()
    assert set((await rig.held())["held"]) == {1, 2}
    assert len(rig.requests) == 1, "a tap leaves the challenge as it is"


async def test_what_a_policy_asks_for_is_said_when_it_changes(rig):
    await rig.policy(key_version=2, accepted_key_versions=[1])
    held = await rig.held()
    assert (held["preferred"], held["accepted"]) == (2, [1])
    await rig.policy(key_version=2, accepted_key_versions=[1])
    await rig.nothing_more()


def asking(version: int, *accepted: int, domain: str = DOMAIN) -> UnlockQuestion:
    return UnlockQuestion(SITE, domain, "intl", version, accepted)


async def test_another_version_is_preferred_once_no_card_is_given_the_one_of_before(rig):
    first, second = rig.elements.giving.by(asking(1)), rig.elements.giving.by(asking(1))
    with first:
        with second:  # at another door, or another side of it
            await rig.policy(key_version=2, accepted_key_versions=[1])
            await rig.nothing_more()
        await rig.nothing_more()
    held = await rig.held()
    assert (held["preferred"], held["accepted"]) == (2, [1])
    with rig.elements.giving.by(asking(2, 1)):
        await rig.nothing_more()


async def test_a_card_that_is_given_keys_holds_up_nothing_but_its_own_domains_preference(rig):
    with rig.elements.giving.by(asking(1, domain=OTHER)), rig.elements.giving.by(asking(2, 1)):
        await rig.policy(key_version=2, accepted_key_versions=[1])
        assert (await rig.held())["preferred"] == 2
    with rig.elements.giving.by(asking(2, 1)):
        await rig.policy(key_version=3, accepted_key_versions=[2])
        rig.order(3)
        held = await rig.held()
        assert (set(held["held"]), held["preferred"], held["accepted"]) == ({1, 3}, 2, [1])
    while (held := await rig.held())["preferred"] == 2:
        pass
    assert (held["preferred"], held["accepted"]) == (3, [2])


async def test_a_lock_that_is_given_what_it_lacked_prefers_it_after_the_card_in_hand(rig):
    await rig.policy(key_version=2, accepted_key_versions=[1])
    assert (await rig.held())["preferred"] == 2
    with rig.elements.giving.by(asking(1)):  # it holds no other
        rig.order(2)
        held = await rig.held()
        assert (set(held["held"]), held["preferred"]) == ({1, 2}, 1)
    while (held := await rig.held())["preferred"] == 1:
        pass
    assert set(held["held"]) == {1, 2}


async def test_what_a_look_at_the_chip_finds_is_said(rig):
    rig.desk.load(2)
    await rig.esam.look()
    assert set((await rig.held())["held"]) == {1, 2}
    await rig.esam.look()
    await rig.nothing_more()


async def test_a_restart_says_what_is_news_and_nothing_else(rig):
    await rig.stop()
    rig.start()
    await rig.esam.look()
    await rig.nothing_more()
    await rig.stop()
    rig.desk.load(2)
    rig.start()
    await rig.esam.look()
    assert set((await rig.held())["held"]) == {1, 2}


async def test_what_could_not_be_stored_is_said_later(rig, monkeypatch):
    monkeypatch.setattr(keying, "AGAIN_S", 0.02)
    record, full = rig.recorder.record_soon, asyncio.Event()

    async def no_room(drafts):
        full.set()
        return []

    monkeypatch.setattr(rig.recorder, "record_soon", no_room)
    await rig.policy(key_version=2)
    await full.wait()
    monkeypatch.setattr(rig.recorder, "record_soon", record)
    assert (await rig.held())["preferred"] == 2


async def test_one_esam_that_waits_keeps_no_other_lock_waiting(tmp_path):
    async with keying_rig(tmp_path) as rig:
        await rig.policy(domain="own")
        rig.start()
        rig.answers = [lost]
        rig.order(2)
        await rig.asked.wait()
        rig.order(2, domain="own", check_values=None)
        assert (await rig.held())["domain"] == "own"


@pytest.mark.parametrize("suite", ["gm", "intl"])
async def test_a_lock_without_an_esam_draws_its_keys_and_erases_them(tmp_path, suite):
    async with keying_rig(tmp_path, suite, chip=False) as rig:
        rig.start()
        await rig.nothing_more()  # one secret of its own: that goes without saying
        rig.order(2)
        held = await rig.held()
        assert (held["esam"], set(held["held"]), held["floor"]) == (None, {1, 2}, 1)
        rig.order(2)
        assert (await rig.held())["held"] == held["held"], "what was drawn stays"
        await rig.nothing_more()
        await rig.stop()
        rig.start()  # what is on the disk is what was said
        await rig.nothing_more()
        rig.order(2, floor=2)
        after = await rig.held()
        assert (set(after["held"]), after["floor"]) == ({2}, 2)
        assert after["held"][2] == held["held"][2]
        assert rig.requests == []


async def test_a_lock_that_makes_its_keys_takes_none_and_an_order_must_be_for_its_doors(tmp_path):
    async with keying_rig(tmp_path, chip=False) as rig:
        rig.start()
        for changes in (
            {"check_values": rig.checks(2)},
            {"domain": "elsewhere"},
            {"suite": "gm"},
        ):
            rig.order(2, **changes)
            assert await rig.refused() == "failed"
        assert rig.elements.get(DOMAIN, "intl").held == {1}
        assert len(list(rig.folder.glob("element-*"))) == 1


async def test_a_disk_that_does_not_keep_what_was_drawn_is_said(tmp_path, monkeypatch):
    async with keying_rig(tmp_path, chip=False) as rig:
        rig.start()
        await rig.nothing_more()
        element = rig.elements.get(DOMAIN, "intl")
        keep = element._keep

        def full(_):
            raise OSError("no space left")

        element._keep = full
        rig.order(2)
        assert await rig.refused() == "failed"
        assert element.held == {1}
        element._keep = keep
        rig.order(2)
        assert set((await rig.held())["held"]) == {1, 2}


async def test_an_element_that_can_not_be_opened_is_said(tmp_path):
    async with keying_rig(tmp_path, chip=False) as rig:
        (tmp_path / f"element-{DOMAIN}-intl.sealed").write_bytes(b"damaged")
        rig.start()
        rig.order(2)
        assert await rig.refused() == "unavailable"


async def test_what_nobody_foresaw_is_said_and_ends_no_other_order(rig, monkeypatch):
    table, broken = rig.esam.table, True

    async def breaks(domain):
        if broken:
            raise RuntimeError("a fault of ours")
        return await table(domain)

    monkeypatch.setattr(rig.esam, "table", breaks)
    rig.order(2)
    assert await rig.refused() == "failed"
    broken = False
    rig.order(2)
    assert set((await rig.held())["held"]) == {1, 2}
