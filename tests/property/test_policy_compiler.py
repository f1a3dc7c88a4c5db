"""What a door decides by its compiled policy is what the model says, and nothing else is in it."""

import asyncio
import datetime as dt
from itertools import product
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from edge_agent.core.applied import Applied
from edge_agent.core.decision import Circumstances, decide
from edge_agent.core.proof import Proof, ProofOutcome
from schemas.card_chunks import find_card, read_index, slots
from schemas.policy import WEEKDAYS
from server.distribution.drafts import WHOLE, Task
from server.model.document import SiteDocument
from server.model.kinds import KINDS
from server.model.reading import forget_touched, touched_since
from server.store.announcements import announcements
from server.store.distribution_tables import policies, policy_chunks
from server.store.model_tables import bindings as bindings_table
from server.store.model_tables import touched
from tests.model_rig import NOON, model_rig

ZONE = "Europe/Berlin"
AGENTS = ("agent-a", "agent-b")
CARDS = tuple(f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}" for n in range(5))
DOORS, GROUPS, AREAS = ("d0", "d1", "d2"), ("g0", "g1"), ("a0", "a1", "a2")
PERSONS, SCHEDULES, CALENDARS = ("p0", "p1", "p2"), ("s0", "s1"), ("c0", "c1")

moments = st.integers(-3, 3).map(lambda n: NOON + dt.timedelta(hours=12 * n))
ALL_DAY = {"start": "00:00", "end": "24:00"}
days = st.integers(-1, 2).map(lambda n: (NOON + dt.timedelta(days=n)).date().isoformat())
clock = st.integers(0, 8).map(lambda n: f"{3 * n:02d}:00")


@st.composite
def ranges(draw):
    start, end = sorted(draw(st.lists(clock, min_size=2, max_size=2, unique=True)))
    return {"start": start, "end": end}


def sometimes(strategy):
    """Mostly None: of many conditions that all must hold, most have to."""
    return st.sampled_from([False, False, True]).flatmap(lambda yes: strategy if yes else st.none())


@st.composite
def valid(draw):
    first, last = draw(sometimes(moments)), draw(sometimes(moments))
    if first and last and first >= last:
        last = None
    return {
        "valid_from": first and first.isoformat(),
        "valid_until": last and last.isoformat(),
    }


def some_of(names, min_size=0):
    return st.lists(st.sampled_from(names), unique=True, min_size=min_size, max_size=len(names))


@st.composite
def schedules(draw):
    some_days = some_of(WEEKDAYS, 1)
    return {
        "windows": [
            draw(st.just(ALL_DAY) | ranges()) | {"days": draw(st.just(WEEKDAYS) | some_days)}
            for _ in range(draw(st.integers(0, 2)))
        ],
        "special_days": draw(st.dictionaries(days, st.lists(ranges(), max_size=1), max_size=2)),
        "calendars": [
            {"calendar": name, "ranges": draw(st.lists(ranges(), max_size=1))}
            for name in draw(some_of(CALENDARS))
        ],
    }


@st.composite
def rules(draw):
    doors, areas = draw(some_of(DOORS)), draw(some_of(AREAS))
    return {
        "group": draw(st.sampled_from(GROUPS)),
        "schedule": draw(st.sampled_from(SCHEDULES)),
        "doors": doors,
        "areas": areas or ([] if doors else ["a0"]),
    }


@st.composite
def persons(draw):
    groups = [
        {"group": name, "until": until and until.isoformat()}
        for name in draw(some_of(GROUPS, 1))
        for until in [draw(sometimes(moments))]
    ]
    return {"groups": groups, **draw(valid())}


doors = st.fixed_dictionaries(
    {
        "agent": st.sampled_from([None, *AGENTS, *AGENTS]),
        "area": st.sampled_from([None, *AREAS]),
        "settings": st.sampled_from([{}, {"domain": "zone"}]),
    }
)


@st.composite
def models(draw):
    calendar = st.fixed_dictionaries({"days": st.dictionaries(days, st.just(""), max_size=2)})
    state = st.sampled_from(["active", "active", "active", "lost"])
    return {
        "site": {"timezone": ZONE},
        "calendars": {name: draw(calendar) for name in CALENDARS},
        "schedules": {name: draw(schedules()) for name in SCHEDULES},
        "areas": {
            "a0": {},
            "a1": {"parent": draw(st.sampled_from([None, "a0"]))},
            "a2": {"parent": draw(st.sampled_from([None, "a0", "a1"]))},
        },
        "doors": {name: draw(doors) for name in DOORS},
        "groups": {name: {} for name in GROUPS},
        "persons": {name: draw(persons()) for name in PERSONS},
        "cards": {
            card: {
                "person": draw(st.sampled_from(PERSONS)),
                "state": draw(state),
                **draw(valid()),
            }
            for card in draw(some_of(CARDS, 2))
        },
        "rules": {f"r{n}": draw(rules()) for n in range(draw(st.integers(1, 4)))},
    }


everywhere = frozenset(product(CARDS, [*DOORS, "zone"]))
bindings = st.sets(st.sampled_from(sorted(everywhere))) | st.just(everywhere)


def may_pass(model, bound, door, card, now):
    """The rules of the model, said as plainly as can be."""
    where = model.doors[door]
    held = model.cards.get(card)
    if held is None or (card, where.settings.domain or door) not in bound:
        return False
    holder = model.persons[held.person]
    for each in (held, holder):
        if each.valid_from is not None and now < each.valid_from:
            return False
        if each.valid_until is not None and now >= each.valid_until:
            return False
    if held.state != "active":
        return False
    groups = {m.group for m in holder.groups if m.until is None or now < m.until}
    areas, area = set(), where.area
    while area is not None:
        areas.add(area)
        area = model.areas[area].parent
    return any(
        rule.group in groups
        and (door in rule.doors or areas & set(rule.areas))
        and is_open(model, model.schedules[rule.schedule], now)
        for rule in model.rules.values()
    )


def is_open(model, schedule, now):
    local = now.astimezone(ZoneInfo(ZONE))
    today = local.date()
    ranges = schedule.special_days.get(today)
    for use in schedule.calendars:
        if ranges is None and today in model.calendars[use.calendar].days:
            ranges = use.ranges
    if ranges is None:
        weekday = WEEKDAYS[local.weekday()]
        ranges = [w for w in schedule.windows if weekday in w.days]
    time = f"{local:%H:%M}"
    return any(each.start <= time < each.end for each in ranges)


def card_in(policy, chunks, card):
    first, second = slots(card)
    name = policy.cards.get(first)
    if name is not None and policy.levels == 2:
        name = read_index(chunks[name]).get(second)
    return None if name is None else find_card(chunks[name], card)


def decided(view, found, card, now):
    proof = Proof(card, ProofOutcome.PROVED, key_version=1, response_ms=5.0)
    at = Circumstances(direction="in", now=now, heartbeat_age_s=1.0)
    return decide(view, found, denial=None, proof=proof, circumstances=at).granted


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a test's work on one model, emptied before: a new database takes longer than it."""
    with asyncio.Runner() as runner:
        opening = model_rig(tmp_path_factory.mktemp("model"))
        rig = runner.run(opening.__aenter__())
        try:
            yield lambda work, *args: runner.run(_emptied(rig, work, *args))
        finally:
            runner.run(opening.__aexit__(None, None, None))


async def _emptied(rig, work, *args):
    await rig.apply({kind.plural: {} for kind in KINDS})
    async with rig.engine.begin() as connection:
        for table in (bindings_table, touched, policies, policy_chunks, announcements):
            await connection.execute(delete(table))
    await work(rig, *args)


async def keep_up(rig, compiler):
    async with rig.engine.connect() as connection:
        news = await touched_since(connection, 0)
    tasks = {agent: Task(slots) for agent, slots in news.agents.items()}
    if news.everyone:
        tasks = dict.fromkeys(AGENTS, WHOLE)
    for agent, task in tasks.items():
        await compiler.make(agent, task, applied=None, above=0)
    async with rig.engine.begin() as connection:
        await forget_touched(connection, news.revision)


async def check(rig, model, bound):
    for agent in AGENTS:
        served = {name for name, door in model.doors.items() if door.agent == agent}
        if await rig.stored(agent) is None:
            assert not served
            continue
        policy, chunks = await rig.policy(agent), await rig.chunks(agent)
        assert set(policy.doors) == served
        views = Applied.of(policy, "").doors
        told = {card: card_in(policy, chunks, card) for card in CARDS}
        for door, card, hours in product(served, CARDS, range(-36, 37, 6)):
            now = NOON + dt.timedelta(hours=hours)
            expected = may_pass(model, bound, door, card, now)
            assert decided(views[door], told[card], card, now) == expected
        groups = {rule.group for rule in policy.rules}
        domains = {door.domain for door in policy.doors.values()}
        for found in filter(None, told.values()):
            assert found.groups or found.domains
            assert groups.issuperset(found.groups)
            assert domains.issuperset(found.domains)
        assert set(policy.schedules) == {rule.schedule for rule in policy.rules}


@settings(max_examples=25)
@given(st.lists(st.tuples(models(), bindings), min_size=1, max_size=3))
def test_a_door_decides_as_the_model_says_after_every_change_of_it(run, steps):
    run(follow, steps)


async def follow(rig, steps):
    compiler, bound = rig.compiler(), set()
    for document, more in steps:
        for card, domain in sorted(more - bound):
            await rig.bind(card, domain)
        bound |= more
        await rig.apply(document)
        await keep_up(rig, compiler)
        await check(rig, SiteDocument.model_validate(document), bound)
        for agent in AGENTS:  # what was changed piece by piece is as if made anew
            before = await rig.stored(agent)
            made = await compiler.make(agent, WHOLE, applied=None, above=0)
            assert (made and made.version) == (before and before.version)
            assert (made and made.hash) == (before and before.hash)
