"""A policy from the model to an agent's own store: published, pulled, applied, changed."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from edge_agent.core.applied import Applied
from edge_agent.trust_store import TrustStore
from schemas.errors import PartialBundle
from schemas.report import Pull
from schemas.topics import CHUNK, POLICY, down
from schemas.versions import MAX_LEAP, Version
from server.distribution import compiling
from server.distribution import policies as policies_module
from server.distribution.policies import MARGIN, STRAY_S
from server.distribution.pulls import Pulls
from tests.model_rig import NOON, model_rig
from tests.site_keys import SiteKeys

AGENT, OTHER = "front-agent", "back-agent"
SESSION = "5e55104" + "0" * 9
CARDS = {f"{n:016x}": {"person": "ada"} for n in range(40)}
ALWAYS = [{"start": "00:00", "end": "24:00", "days": ["mon", "tue", "wed", "thu", "fri"]}]
LIMIT_S = 30


def document(**changes):
    return {
        "site": {"timezone": "Europe/Berlin"},
        "schedules": {"always": {"windows": ALWAYS}},
        "doors": {"front": {"agent": AGENT}, "back": {"agent": OTHER}},
        "groups": {"staff": {}, "cleaners": {}},
        "persons": {"ada": {"groups": ["staff"]}, "bo": {"groups": ["cleaners"]}},
        "cards": CARDS,
        "rules": {
            "r": {"group": "staff", "schedule": "always", "doors": ["front"]},
            "s": {"group": "cleaners", "schedule": "always", "doors": ["back"]},
        },
        **changes,
    }


@pytest.fixture(autouse=True)
def _without_delay(monkeypatch):
    monkeypatch.setattr(policies_module, "QUIET_S", 0.01)


@asynccontextmanager
async def running(rig, policies):
    await policies.load()
    task = asyncio.create_task(policies.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            yield policies
    finally:
        await ended(task)


async def ended(task):
    """Cancel, and wait: what still reads the database must not meet one that is closed."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def version(policies, agent, above=0):
    """The newest version, once it is above a number."""
    while (newest := policies.newest(agent)) is None or newest.version <= above:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return newest


class NoDenials:
    """The revocation log and the lockdowns of a site that has none."""

    envelope = None

    async def after(self, sequence, agent=""):
        return []

    def chunk(self, digest):
        return None


def pulls_of(rig, policies):
    return Pulls(
        site=rig.keys.site,
        root_after=lambda n: [],
        policies=policies,
        revocations=NoDenials(),
        lockdowns=NoDenials(),
        publish=rig.publish,
        metrics=CollectorRegistry(),
    )


def pull(counter, **lacks):
    return Pull(
        site="demo",
        audience="server",
        issued=NOON,
        counter=counter,
        session=SESSION,
        **lacks,
    )


async def fetch(rig, pulls, store, envelope):
    """Pull what the store lacks of a policy; the bytes that took, with the policy's own."""
    size, counter = len(envelope), 0
    missing = await store.offer_policy(envelope, NOON)
    while missing:
        asked, counter = missing[:32], counter + 1
        pulls.answer(AGENT, pull(counter, chunks=asked))
        for _ in asked:
            topic, body = await rig.told.get()
            assert topic == down("demo", AGENT, CHUNK)
            missing = await store.add_chunk(body)
            size += len(body)
    await store.apply_staged()
    return size


async def test_an_agent_gets_a_policy_and_then_only_what_a_changed_card_changes(tmp_path):
    async with model_rig(tmp_path) as rig:
        rig.live = {AGENT}
        for card in CARDS:
            await rig.bind(card, "front")
        await rig.apply(document())
        store = await TrustStore.open(tmp_path / "trust.db", rig.root, AGENT, rig.clock)
        try:
            async with running(rig, rig.policies()) as policies:
                pulls = pulls_of(rig, policies)
                answering = asyncio.create_task(pulls.run())
                topic, envelope = await rig.told.get()
                assert topic == down("demo", AGENT, POLICY)
                whole = await fetch(rig, pulls, store, envelope)
                card = next(iter(CARDS))
                found = store.find(card)
                assert isinstance(found.applied, Applied)
                assert (found.card.person, found.card.groups) == ("ada", ("staff",))
                assert found.card.domains == ("front",)
                changed = CARDS | {card: {"person": "ada", "state": "lost"}}
                await rig.apply(document(cards=changed))
                topic, envelope = await rig.told.get()
                assert topic == down("demo", AGENT, POLICY)
                again = await fetch(rig, pulls, store, envelope)
                assert store.find(card).card.state == "lost"
                assert len(await rig.chunks(AGENT)) == len(store.state.policy.cards)
                leaf = again - len(envelope)
                assert 0 < leaf < (whole - len(envelope)) / 8
                assert rig.beats == [AGENT, AGENT]
                await ended(answering)
        finally:
            await store.close()


async def test_an_agent_reads_no_other_agents_chunks(tmp_path):
    async with model_rig(tmp_path) as rig:
        await rig.bind("00" * 8, "front")
        await rig.apply(document())
        async with running(rig, rig.policies()) as policies:
            await version(policies, AGENT)
            await version(policies, OTHER)
            ours = await rig.chunks(AGENT)
            assert await policies.chunks(AGENT, ours) == ours
            assert await policies.chunks(OTHER, ours) == {}
            back = await rig.policy(OTHER)
            assert set(back.doors) == {"back"}
            assert {rule.group for rule in back.rules} == {"cleaners"}


async def test_what_changes_nothing_at_a_door_makes_no_new_version(tmp_path):
    async with model_rig(tmp_path) as rig:
        await rig.apply(document())
        async with running(rig, rig.policies()) as policies:
            first = await version(policies, AGENT)
            await version(policies, OTHER)
            more = {"ada": {"groups": ["staff"]}, "bo": {}}
            await rig.apply(
                document(persons=more, schedules={"always": {"windows": ALWAYS, "name": "any"}})
            )
            await rig.apply(
                document(
                    doors={
                        "front": {"agent": AGENT, "area": None},
                        "back": {"agent": OTHER, "settings": {"grace_s": 60}},
                    }
                )
            )
            await version(policies, OTHER, above=1)
            assert policies.newest(AGENT) == first


async def test_a_restart_makes_nothing_anew_and_takes_up_what_was_left(tmp_path):
    async with model_rig(tmp_path) as rig:
        await rig.apply(document())
        async with running(rig, rig.policies()) as policies:
            first = await version(policies, AGENT), await version(policies, OTHER)
        changed = document(
            doors={"front": {"agent": AGENT, "settings": {"grace_s": 60}}, "back": {"agent": OTHER}}
        )
        await rig.apply(changed)  # while nobody compiles
        async with running(rig, rig.policies()) as policies:
            second = await version(policies, AGENT, above=first[0].version)
            assert second.version == first[0].version + 1
            assert policies.newest(OTHER) == first[1]


async def test_an_agent_whose_last_door_is_taken_away_is_told_that_nothing_opens(tmp_path):
    async with model_rig(tmp_path) as rig:
        await rig.bind("00" * 8, "front")
        await rig.apply(document())
        async with running(rig, rig.policies()) as policies:
            first = await version(policies, AGENT)
            await rig.apply(document(doors={"front": {}, "back": {"agent": OTHER}}))
            await version(policies, AGENT, above=first.version)
            left = await rig.policy(AGENT)
            assert (left.doors, left.rules, left.cards) == ({}, (), {})
            assert await rig.chunks(AGENT) == {}


async def test_a_restored_server_goes_beyond_what_its_agents_have(tmp_path):
    async with model_rig(tmp_path) as rig:
        await rig.apply(document())
        async with running(rig, rig.policies()) as policies:
            first = await version(policies, AGENT)
            policies.reported(AGENT, first)
            policies.reported(AGENT, Version(version=first.version + 7, hash="ab" * 32))
            second = await version(policies, AGENT, above=first.version)
            assert second.version == first.version + 7 + MARGIN + 1
            rig.clock.seconds += STRAY_S
            policies.reported(AGENT, Version(version=second.version, hash="ab" * 32))
            third = await version(policies, AGENT, above=second.version)
            assert third.version == second.version + MARGIN + 1
            rig.clock.seconds += STRAY_S
            policies.reported(AGENT, Version(version=third.version + MAX_LEAP + 1, hash="ab" * 32))
            assert [alarm.kind for alarm in rig.alarms] == ["state_behind"] * 3
            assert "too far" in rig.alarms[-1].detail


async def test_what_an_agent_reports_makes_one_new_version_a_minute_at_most(tmp_path):
    async with model_rig(tmp_path) as rig:
        await rig.apply(document())
        async with running(rig, rig.policies()) as policies:
            first = await version(policies, AGENT)
            stray = Version(version=first.version + 7, hash="ab" * 32)
            policies.reported(AGENT, stray)
            second = await version(policies, AGENT, above=first.version)
            for step in range(1, 6):  # each a lie of its own, as a stolen key would tell
                lie = Version(version=second.version + step, hash="cd" * 32)
                policies.reported(AGENT, second)
                policies.reported(AGENT, lie)
            assert not policies._due
            assert len(rig.alarms) == 1
            rig.clock.seconds += STRAY_S
            policies.reported(AGENT, lie)  # as it does every 10 s
            third = await version(policies, AGENT, above=second.version)
            assert third.version == lie.version + MARGIN + 1
            assert len(rig.alarms) == 2


async def test_policies_of_an_earlier_key_are_signed_again(tmp_path):
    keys = SiteKeys()
    async with model_rig(tmp_path, keys) as rig:
        await rig.bind("00" * 8, "front")
        await rig.apply(document())
        async with running(rig, rig.policies()) as policies:
            first = await version(policies, AGENT)
            cards = (await rig.policy(AGENT)).cards
        keys.signers["policy"] = [keys.new_signer()]
        keys.version = 2
        rig.root = keys.root
        async with running(rig, rig.policies()) as policies:
            await version(policies, AGENT, above=first.version)
            assert (await rig.policy(AGENT)).cards == cards  # verified by the new key


def failing_once(monkeypatch, *, written):
    """The database fails the next policy that is stored; it may have been written all the same."""
    lay_down, failures = compiling.lay_down, iter([OSError("the connection was lost")])

    async def fail(*arguments):
        failure = next(failures, None)
        if failure is None or written:
            await lay_down(*arguments)
        if failure is not None:
            raise failure

    monkeypatch.setattr(compiling, "lay_down", fail)
    monkeypatch.setattr(policies_module, "RETRY_S", 0.01)


async def test_a_policy_is_signed_by_the_new_key_though_the_database_failed_at_it(
    tmp_path, monkeypatch
):
    keys = SiteKeys()
    async with model_rig(tmp_path, keys) as rig:
        await rig.apply(document())
        async with running(rig, rig.policies()) as policies:
            first = await version(policies, AGENT)
            await version(policies, OTHER)
        keys.signers["policy"] = [keys.new_signer()]
        keys.version = 2
        rig.root = keys.root
        failing_once(monkeypatch, written=False)
        async with running(rig, rig.policies()) as policies:
            await version(policies, AGENT, above=first.version)
            await version(policies, OTHER, above=first.version)
            assert (await rig.policy(AGENT)).counter == first.version + 1


async def test_a_policy_that_was_stored_though_the_database_failed_is_told(tmp_path, monkeypatch):
    async with model_rig(tmp_path) as rig:
        await rig.apply(document())
        async with running(rig, rig.policies()) as policies:
            first = await version(policies, AGENT)
            failing_once(monkeypatch, written=True)
            rig.live = {AGENT}
            doors = document()["doors"] | {"front": {"agent": AGENT, "settings": {"grace_s": 60}}}
            await rig.apply(document(doors=doors))
            newest = await version(policies, AGENT, above=first.version)
            assert newest.hash == (await rig.stored(AGENT)).hash
            topic, envelope = await rig.told.get()
            assert topic == down("demo", AGENT, POLICY)
            assert envelope == await policies.envelope(AGENT)


async def test_what_cannot_be_made_for_one_agent_holds_up_no_other(tmp_path):
    async with model_rig(tmp_path) as rig:
        groups = {f"{n:063d}": {} for n in range(700)}
        doors = {f"d{n}": {"agent": OTHER} for n in range(60)}
        rules = {
            f"r{n}": {"group": name, "schedule": "always", "doors": list(doors)}
            for n, name in enumerate(groups)
        }
        crowded = document(
            groups=groups | {"staff": {}},
            doors=doors | {"front": {"agent": AGENT}},
            persons={"ada": {"groups": ["staff"]}},
            rules=rules | {"r": {"group": "staff", "schedule": "always", "doors": ["front"]}},
        )
        await rig.apply(crowded)
        async with running(rig, rig.policies()) as policies:
            await version(policies, AGENT)
            while OTHER not in policies.failures:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            assert "spread its doors" in policies.failures[OTHER]
            assert policies.newest(OTHER) is None
        async with running(rig, rig.policies()) as policies:  # not forgotten
            await rig.apply(document())
            await version(policies, OTHER)
            assert policies.failures == {}


async def test_a_special_day_is_told_when_it_comes_within_the_horizon(tmp_path):
    far = (NOON + timedelta(days=401)).date()
    async with model_rig(tmp_path) as rig:
        days = {NOON.date().isoformat(): [], far.isoformat(): []}
        await rig.apply(document(schedules={"always": {"windows": ALWAYS, "special_days": days}}))
        async with running(rig, rig.policies()) as policies:
            first = await version(policies, AGENT)
            assert set((await rig.policy(AGENT)).schedules["always"].special_days) == {NOON.date()}
        rig.clock.at += timedelta(days=2)
        async with running(rig, rig.policies()) as policies:
            await version(policies, AGENT, above=first.version)
            assert set((await rig.policy(AGENT)).schedules["always"].special_days) == {far}


async def test_without_a_broker_policies_are_made_and_left_to_be_pulled(tmp_path):
    async with model_rig(tmp_path) as rig:
        rig.live, rig.broker = {AGENT}, False
        await rig.apply(document())
        async with running(rig, rig.policies()) as policies:
            await version(policies, AGENT)
            rig.broker = True
            answering = asyncio.create_task((pulls := pulls_of(rig, policies)).run())
            pulls.answer(AGENT, pull(1, policy=True))
            topic, envelope = await rig.told.get()
            assert topic == down("demo", AGENT, POLICY)
            assert envelope == await policies.envelope(AGENT)
            await ended(answering)


async def test_a_policy_with_a_chunk_missing_is_not_applied(tmp_path):
    async with model_rig(tmp_path) as rig:
        await rig.bind("00" * 8, "front")
        await rig.apply(document())
        store = await TrustStore.open(tmp_path / "trust.db", rig.root, AGENT, rig.clock)
        try:
            async with running(rig, rig.policies()) as policies:
                await version(policies, AGENT)
                assert await store.offer_policy(await policies.envelope(AGENT), NOON)
                with pytest.raises(PartialBundle):
                    await store.apply_staged()
        finally:
            await store.close()
