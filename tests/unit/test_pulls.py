"""Answers are bounded, fair, one at a time for each agent, and hold what it may read alone."""

import asyncio
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from schemas.report import Pull
from schemas.topics import CHUNK, LOCKDOWN, POLICY, REVOCATION, ROOT, SNAPSHOT, down
from server.distribution.pulls import ANSWERERS, MAX_ROOTS, MAX_WAITING, Pulls
from tests.model_rig import NOON

OURS, SNAPSHOT_CHUNK, THEIRS = "0a" * 32, "0b" * 32, "0c" * 32


class Centre:
    """All that is asked, in one."""

    envelope = b"lockdowns"

    def __init__(self):
        self.told = asyncio.Queue()
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.sending = []
        self.broken = set()
        self.behind = [b"r1", b"r2"]

    async def publish(self, topic, payload, retain):
        assert not retain
        agent, channel = topic.split("/")[-2:]
        self.sending.append(agent)
        await self.may_send.wait()
        self.sending.remove(agent)
        if agent in self.broken:
            raise ConnectionError("gone")
        self.told.put_nowait((agent, channel, payload))

    def roots(self, version):
        return [b"root %d" % n for n in range(version + 1, version + 40)]

    # policies
    async def policy(self, agent):
        if agent == "mad":
            raise RuntimeError("not whole")
        return b"policy of " + agent.encode()

    async def chunks(self, agent, digests):
        return {OURS: b"leaf"} if agent == "front" and OURS in digests else {}

    # revocations
    async def after(self, sequence, agent=""):
        return self.behind

    async def snapshot(self, above=-1):
        return b"snapshot", {}

    def chunk(self, digest):
        return b"denials" if digest == SNAPSHOT_CHUNK else None


class Policies:
    def __init__(self, centre):
        self.envelope, self.chunks = centre.policy, centre.chunks


@asynccontextmanager
async def answering(centre):
    pulls = Pulls(
        site="demo",
        root_after=centre.roots,
        policies=Policies(centre),
        revocations=centre,
        lockdowns=centre,
        publish=centre.publish,
        metrics=CollectorRegistry(),
    )
    task = asyncio.create_task(pulls.run())
    try:
        async with asyncio.timeout(30):
            yield pulls
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def pull(counter=1, **lacks):
    return Pull(
        site="demo", audience="server", issued=NOON, counter=counter, session="0" * 16, **lacks
    )


async def until(condition):
    while not condition():  # noqa: ASYNC110 there is no event for what does not happen
        await asyncio.sleep(0)


async def test_denials_come_before_the_policy_and_roots_before_all():
    centre = Centre()
    everything = pull(root_after=3, policy=True, revocation_after=7, lockdown=True, chunks=(OURS,))
    async with answering(centre) as pulls:
        pulls.answer("front", everything)
        told = [await centre.told.get() for _ in range(MAX_ROOTS + 5)]
    channels = [channel for _, channel, _ in told]
    assert channels == [ROOT] * MAX_ROOTS + [LOCKDOWN, REVOCATION, REVOCATION, POLICY, CHUNK]
    assert told[0] == ("front", ROOT, b"root 4")
    assert down("demo", "front", POLICY).endswith("front/policy")


async def test_who_is_far_behind_gets_a_snapshot():
    centre = Centre()
    centre.behind = None
    async with answering(centre) as pulls:
        pulls.answer("front", pull(revocation_after=7))
        assert await centre.told.get() == ("front", SNAPSHOT, b"snapshot")


async def test_an_agent_gets_its_own_chunks_and_those_of_snapshots_alone():
    centre = Centre()
    async with answering(centre) as pulls:
        pulls.answer("back", pull(chunks=(OURS, THEIRS, SNAPSHOT_CHUNK)))
        assert await centre.told.get() == ("back", CHUNK, b"denials")
        pulls.answer("front", pull(chunks=(OURS, THEIRS)))
        assert await centre.told.get() == ("front", CHUNK, b"leaf")
        assert centre.told.empty()


async def test_an_agent_is_sent_one_answer_at_a_time():
    centre = Centre()
    centre.may_send.clear()
    async with answering(centre) as pulls:
        for n in range(3):
            pulls.answer("front", pull(n, lockdown=True))
        pulls.answer("back", pull(lockdown=True))
        await until(lambda: len(centre.sending) == 2)
        assert sorted(centre.sending) == ["back", "front"]
        centre.may_send.set()
        told = [(await centre.told.get())[0] for _ in range(4)]
        assert told.count("front") == 3


async def test_who_keeps_asking_waits_behind_all_others():
    centre = Centre()
    centre.may_send.clear()
    async with answering(centre) as pulls:
        for n in range(ANSWERERS):  # nobody is free
            pulls.answer(f"busy{n}", pull(lockdown=True))
        await until(lambda: len(centre.sending) == ANSWERERS)
        for n in range(100):
            pulls.answer("greedy", pull(n, lockdown=True))
        for n in range(8):
            pulls.answer(f"modest{n}", pull(lockdown=True))
        centre.may_send.set()
        told = [(await centre.told.get())[0] for _ in range(ANSWERERS + 8 + MAX_WAITING)]
        assert told.count("greedy") == MAX_WAITING
        second = [n for n, agent in enumerate(told) if agent == "greedy"][1]
        assert second > max(n for n, agent in enumerate(told) if agent.startswith("modest"))
        assert centre.told.empty()


async def test_an_answer_that_fails_holds_up_nobody():
    centre = Centre()
    centre.broken = {"gone"}
    async with answering(centre) as pulls:
        for n in range(ANSWERERS):
            pulls.answer("gone", pull(n, lockdown=True, policy=True))
            pulls.answer("mad", pull(n, policy=True))
        pulls.answer("front", pull(policy=True))
        assert await centre.told.get() == ("front", POLICY, b"policy of front")
        pulls.answer("mad", pull(9, lockdown=True))
        assert await centre.told.get() == ("mad", LOCKDOWN, b"lockdowns")
