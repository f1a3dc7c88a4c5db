"""What agents say is verified, handed over in order, and bounded for each of them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from secrets import token_bytes

import pytest
from prometheus_client import CollectorRegistry

from schemas.envelope import Signer, TrustedKey
from schemas.report import Pull
from schemas.root import AGENT_PURPOSES
from schemas.statement import sign_statement
from schemas.suites import INTL
from schemas.topics import PULL, REPORT, WILL, up
from server.core.hearing import hear
from server.distribution.inbox import BURST, MAX_WAITING, RATE_PER_S, Inbox
from server.ingest.verify import AlarmKind
from tests import reports
from tests.model_rig import NOON, HandClock

SITE, FRONT, BACK = "demo", "front-agent", "back-agent"
SESSION = "0123456789abcdef"
KEYS = {name: Signer.of(INTL.generate(token_bytes)) for name in (FRONT, BACK, "stranger")}


def trusted(*names):
    return {KEYS[n].keyid: TrustedKey(KEYS[n].key.public, n, AGENT_PURPOSES) for n in names}


@dataclass
class Known:
    """The registry, as the inbox uses it."""

    ring: dict = field(default_factory=lambda: trusted(FRONT, BACK))
    agents: frozenset = frozenset({FRONT, BACK})
    added: tuple = ()

    async def refresh(self):
        new, self.added = self.added, ()
        self.ring, self.agents = self.ring | trusted(*new), self.agents | {*new}
        return bool(new)


class Ears:
    """Notes what is handed over."""

    def __init__(self):
        self.all = asyncio.Queue()

    def heard(self, agent, report):
        self.all.put_nowait((agent, report.counter))

    def pulled(self, agent, pull):
        self.all.put_nowait((agent, pull))

    def broken(self, agent):
        self.all.put_nowait((agent, "broken"))

    def refused(self, refusal):
        self.all.put_nowait(refusal)

    async def renewed(self, agent, renewal):
        self.all.put_nowait((agent, renewal))


@asynccontextmanager
async def inbox(known=None, *, run=True):
    ears, clock = Ears(), HandClock()
    with ThreadPoolExecutor(2) as executor:
        box = Inbox(
            site=SITE,
            registry=known or Known(),
            executor=executor,
            threads=2,
            clock=clock,
            metrics=CollectorRegistry(),
            refused=ears.refused,
            handlers=ears,
        )
        box.clock, box.ears = clock, ears
        task = asyncio.create_task(box.run()) if run else None
        try:
            async with asyncio.timeout(30):
                yield box
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


def report(counter=1, agent=FRONT, signer=None, **changes):
    values = {"issued": NOON, "session": SESSION} | changes
    return sign_statement(reports.report(counter, **values), KEYS[signer or agent])


def pull(counter=1):
    statement = Pull(
        site=SITE, audience="server", issued=NOON, counter=counter, session=SESSION, policy=True
    )
    return sign_statement(statement, KEYS[FRONT])


def topic(agent=FRONT, channel=REPORT, site=SITE):
    return up(site, agent, channel)


async def test_the_reports_of_an_agent_come_in_the_order_it_sent_them():
    async with inbox() as box:
        for n in range(1, 31):
            assert box.offer(topic(), report(n))
        assert [await box.ears.all.get() for _ in range(30)] == [(FRONT, n) for n in range(1, 31)]


@pytest.mark.parametrize(
    ("where", "what", "kind"),
    [
        (topic(), report()[:-1], AlarmKind.MALFORMED),
        (topic(), b"{" * 100_000, AlarmKind.MALFORMED),
        (topic(), pull(), AlarmKind.MALFORMED),
        (topic(channel=PULL), report(), AlarmKind.MALFORMED),
        (topic(), report(signer="stranger"), AlarmKind.UNKNOWN_KEY),
        (topic(), report(signer=BACK), AlarmKind.WRONG_TOPIC),
        (topic(), report(site="elsewhere"), AlarmKind.WRONG_TOPIC),
        (topic(), report(audience="front-agent"), AlarmKind.WRONG_TOPIC),
        (topic(site="elsewhere"), report(), AlarmKind.WRONG_TOPIC),
        (topic(channel="else"), report(), AlarmKind.WRONG_TOPIC),
        ("nonsense", report(), AlarmKind.WRONG_TOPIC),
    ],
)
async def test_what_is_not_what_it_claims_is_refused_by_name(where, what, kind):
    async with inbox() as box:
        box.offer(where, what)
        box.offer(topic(BACK), report(9, BACK))
        refusal = await box.ears.all.get()
        assert refusal.kind is kind
        assert await box.ears.all.get() == (BACK, 9)


async def test_a_signature_with_one_bit_turned_is_refused():
    async with inbox() as box:
        good = report()
        bad = good.replace(b'"sig":"ME', b'"sig":"MF', 1)
        assert bad != good
        box.offer(topic(), bad)
        assert (await box.ears.all.get()).kind is AlarmKind.BAD_SIGNATURE


async def test_a_pull_that_comes_again_is_not_answered():
    async with inbox() as box:
        for _ in range(2):
            box.offer(topic(channel=PULL), pull(3))
        assert (await box.ears.all.get())[1].counter == 3
        assert (await box.ears.all.get()).kind is AlarmKind.REPLAYED
        box.offer(topic(channel=PULL), pull(2))
        assert (await box.ears.all.get()).kind is AlarmKind.REPLAYED
        box.offer(topic(channel=PULL), pull(4))
        assert (await box.ears.all.get())[1].counter == 4


async def test_a_broken_connection_is_told_of_agents_alone():
    async with inbox() as box:
        box.offer(topic("nobody", WILL), b"")
        box.offer(topic(FRONT, WILL), b"")
        assert await box.ears.all.get() == (FRONT, "broken")
        assert box.ears.all.empty()


async def test_an_agent_that_was_enrolled_a_moment_ago_is_heard():
    async with inbox(Known(added=("stranger",))) as box:
        box.offer(topic("stranger"), report(agent="stranger"))
        assert await box.ears.all.get() == ("stranger", 1)


async def test_a_flood_by_one_agent_is_cut_and_leaves_the_others_their_turn():
    async with inbox(run=False) as box:
        taken = [box.offer(topic(), b"junk") for _ in range(10 * MAX_WAITING)]
        assert sum(taken) == MAX_WAITING
        assert box.offer(topic(BACK), report(1, BACK))
        task = asyncio.create_task(box.run())
        first_two = [await box.ears.all.get() for _ in range(2)]
        assert (BACK, 1) in first_two
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_no_agent_is_heard_more_often_than_its_rate():
    async with inbox() as box:
        sent = 0
        while sent < 2 * BURST and box.offer(topic(), report(sent + 1)):
            sent += 1
            await box.ears.all.get()
        assert sent == BURST
        assert box.offer(topic(BACK), report(1, BACK))
        box.clock.seconds += 1
        allowed = 0
        while box.offer(topic(), b"junk"):
            allowed += 1
        assert allowed == RATE_PER_S


async def test_names_that_no_agent_has_share_one_queue():
    async with inbox(run=False) as box:
        taken = sum(box.offer(topic(f"n{n}"), b"junk") for n in range(4000))
        assert taken < 1000
        assert box.offer(topic(), report())


async def test_a_message_that_our_own_fault_lets_fail_stops_nobody_else(monkeypatch):
    failing = report(7)

    def checked(topic, payload, *more):
        if payload == failing:
            raise TypeError("a fault of ours")
        return hear(topic, payload, *more)

    monkeypatch.setattr("server.distribution.inbox.hear", checked)
    async with inbox() as box:
        monkeypatch.setattr(box.ears, "pulled", None)  # to take a pull fails too
        box.offer(up(SITE, FRONT, REPORT), failing)
        refusal = await box.ears.all.get()
        assert (refusal.kind, refusal.agent) == (AlarmKind.MALFORMED, None)
        assert "TypeError" in refusal.detail
        box.offer(up(SITE, FRONT, PULL), pull())
        box.offer(up(SITE, BACK, REPORT), report(8, BACK))
        assert await box.ears.all.get() == (BACK, 8)
