import secrets
from datetime import UTC, datetime, timedelta

import pytest

from edge_agent import store as store_module
from edge_agent.store import PolicyEquivocation, PolicyFile, PolicyRollback, PolicyStore
from schemas.envelope import Signer
from schemas.errors import Expired, UnknownKey, WrongAudience
from schemas.policy import DoorSettings, Policy, PolicyCard, Rule, Schedule
from schemas.root import Root
from schemas.statement import sign_statement
from schemas.suites import INTL

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
SIGNER = Signer.of(INTL.generate(secrets.token_bytes))
ROOT = Root(
    site="demo",
    version=1,
    suite="intl",
    keys={SIGNER.keyid: SIGNER.key.public.point.hex()},
    roles={"policy": [SIGNER.keyid]},
)


def card(number: int) -> PolicyCard:
    return PolicyCard(card=f"{number:016x}", person=f"p{number}", domains=("front",))


def policy(counter: int, **changes) -> Policy:
    values = {
        "site": "demo",
        "audience": "front-agent",
        "issued": NOW,
        "counter": counter,
        "doors": {"front": DoorSettings(domain="front", suite="intl")},
        "schedules": {"never": Schedule()},
        "rules": (Rule(group="staff", doors=("front",), schedule="never"),),
        "cards": (card(1),),
        "revoked": ("00" * 7 + "02",),
    }
    return Policy(**{**values, **changes})


class Desk:
    def __init__(self, folder):
        self.folder = folder

    async def open(self):
        return await PolicyStore.open(self.folder / "policy.db")

    def file(self, statement, signer=SIGNER):
        path = self.folder / "policy.dsse"
        path.write_bytes(sign_statement(statement, signer))
        return PolicyFile(path, ROOT, "front-agent", NOW)


async def test_a_policy_is_found_again_after_a_restart(tmp_path):
    desk = Desk(tmp_path)
    store = await desk.open()
    assert store.applied is None
    assert store.find(card(1).card).card is None
    assert await store.apply(desk.file(policy(3)))
    await store.close()
    store = await desk.open()
    assert store.applied is not None
    assert store.applied.version == 3
    assert store.applied.doors["front"].rules == (("staff", Schedule()),)
    assert store.find(card(1).card).card == card(1)
    assert store.find("00" * 7 + "02").revoked
    assert store.find(None).card is None
    await store.close()


async def test_a_new_policy_takes_the_old_ones_place_whole(tmp_path):
    desk = Desk(tmp_path)
    store = await desk.open()
    await store.apply(desk.file(policy(1)))
    await store.apply(desk.file(policy(2, cards=(card(5),), revoked=())))
    assert store.find(card(1).card).card is None
    assert store.find(card(5).card).card == card(5)
    assert not store.find("00" * 7 + "02").revoked
    await store.close()


async def test_the_version_never_goes_back_and_never_means_two_things(tmp_path):
    desk = Desk(tmp_path)
    store = await desk.open()
    await store.apply(desk.file(policy(7)))
    await store.close()
    store = await desk.open()
    with pytest.raises(PolicyRollback):
        await store.apply(desk.file(policy(6)))
    with pytest.raises(PolicyEquivocation):
        await store.apply(desk.file(policy(7, cards=())))
    assert not await store.apply(desk.file(policy(7)))  # signed again, the same words
    assert store.find(card(1).card).card == card(1)
    await store.close()


@pytest.mark.parametrize(
    ("changes", "signer", "refusal"),
    [
        ({}, Signer.of(INTL.generate(secrets.token_bytes)), UnknownKey),
        ({"audience": "other-agent"}, SIGNER, WrongAudience),
        ({"site": "elsewhere"}, SIGNER, WrongAudience),
        ({"expires": NOW}, SIGNER, Expired),
        ({"issued": NOW + timedelta(hours=1)}, SIGNER, Expired),
    ],
)
async def test_what_is_not_for_this_agent_now_changes_nothing(tmp_path, changes, signer, refusal):
    desk = Desk(tmp_path)
    store = await desk.open()
    await store.apply(desk.file(policy(1)))
    with pytest.raises(refusal):
        await store.apply(desk.file(policy(2, **changes), signer))
    assert store.applied is not None
    assert store.applied.version == 1
    await store.close()


async def test_a_large_policy_is_applied_by_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "APART_BYTES", 0)
    desk = Desk(tmp_path)
    store = await desk.open()
    assert await store.apply(desk.file(policy(2)))
    with pytest.raises(PolicyRollback):  # a refusal comes back by name too
        await store.apply(desk.file(policy(1)))
    assert store.find(card(1).card).card == card(1)
    await store.close()


async def test_a_reader_sees_one_version_even_as_another_is_applied(tmp_path):
    desk = Desk(tmp_path)
    store, other = await desk.open(), await desk.open()
    await store.apply(desk.file(policy(1)))
    await other.apply(desk.file(policy(2, cards=(card(5),))))
    found = store.find(card(5).card)
    assert found.applied is not None
    assert (found.applied.version, found.card) == (2, card(5))
    await store.close()
    await other.close()
