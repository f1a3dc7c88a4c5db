"""Many agents' policies made together: what is shared, and what is not."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import OperationalError

from schemas.versions import Version
from server.distribution import compiling
from server.distribution.drafts import WHOLE, Order, Task
from server.model.reading import touched_since
from server.store import policies as rows
from tests.model_rig import model_rig

ALWAYS = [{"start": "00:00", "end": "24:00", "days": ["mon", "tue"]}]
DOORS = 6
CARDS = {f"{n:016x}": {"person": "ada" if n % 2 else "bo"} for n in range(40)}


def document(**changes):
    """The first three doors are for the staff, the others for cleaners."""
    return {
        "schedules": {"always": {"windows": ALWAYS}},
        "doors": {f"d{n}": {"agent": f"a{n}"} for n in range(DOORS)},
        "groups": {"staff": {}, "cleaners": {}},
        "persons": {"ada": {"groups": ["staff"]}, "bo": {"groups": ["cleaners"]}},
        "cards": CARDS,
        "rules": {
            "r": {"group": "staff", "schedule": "always", "doors": ["d0", "d1", "d2"]},
            "s": {"group": "cleaners", "schedule": "always", "doors": ["d3", "d4", "d5"]},
        },
        **changes,
    }


AGENTS = [f"a{n}" for n in range(DOORS)]


@pytest.fixture
async def rig(tmp_path):
    async with model_rig(tmp_path) as made:
        await made.apply(document())
        yield made


@pytest.fixture
def grown(monkeypatch):
    """How many cards each tree had that was grown."""
    counts = []
    grow = compiling.grow

    def counted(lines, before, digest):
        counts.append(len(lines))
        return grow(lines, before, digest)

    monkeypatch.setattr(compiling, "grow", counted)
    return counts


async def test_cards_that_are_the_same_for_several_agents_are_laid_out_once(rig, grown):
    made = await rig.compiler().make_all({agent: Order(WHOLE) for agent in AGENTS})
    assert grown == [20, 20]
    assert {agent: each.version for agent, each in made.items()} == dict.fromkeys(AGENTS, 1)
    for agent in AGENTS:
        policy = await rig.policy(agent)
        assert policy.audience == agent
        assert set(policy.doors) == {agent.replace("a", "d")}
        assert set(policy.cards.values()) == (await rig.chunks(agent)).keys()
    tops = {agent: (await rig.policy(agent)).cards for agent in AGENTS}
    assert tops["a0"] == tops["a1"] == tops["a2"] != tops["a3"] == tops["a4"] == tops["a5"]


async def test_a_card_bound_at_one_door_makes_that_doors_cards_its_own(rig, grown):
    await rig.bind(next(iter(CARDS)), "d1")
    await rig.compiler().make_all({agent: Order(WHOLE) for agent in AGENTS})
    assert sorted(grown) == [20, 20, 21]
    tops = {agent: (await rig.policy(agent)).cards for agent in AGENTS}
    assert tops["a0"] == tops["a2"] != tops["a1"]


async def test_after_a_change_nothing_that_was_shared_before_is_served(rig):
    compiler = rig.compiler()
    await compiler.make_all({agent: Order(WHOLE) for agent in AGENTS[:2]})
    card = "0" * 15 + "1"
    await rig.apply(document(cards=CARDS | {card: {"person": "ada", "state": "lost"}}))
    async with rig.engine.connect() as connection:
        slots = (await touched_since(connection, 1)).agents
    made = await compiler.make_all(
        {"a0": Order(Task(slots["a0"])), "a1": Order(Task(slots["a1"])), "a2": Order(WHOLE)}
    )
    assert {agent: each.version for agent, each in made.items()} == {"a0": 2, "a1": 2, "a2": 1}
    tops = [(await rig.policy(agent)).cards for agent in ("a0", "a1", "a2")]
    assert tops[0] == tops[1] == tops[2]
    leaves = (await rig.chunks("a0")).values()
    assert any(b'"state":"lost"' in body for body in leaves)


async def test_what_the_database_refuses_for_one_agent_is_stored_for_the_others(rig, monkeypatch):
    add = rows.add_policies

    async def refusing(connection, made):
        if any(policy.agent == "a4" for policy in made):
            raise OperationalError("insert", {}, Exception("disk I/O error"))
        await add(connection, made)

    monkeypatch.setattr(rows, "add_policies", refusing)
    made = await rig.compiler().make_all({agent: Order(WHOLE) for agent in AGENTS})
    assert isinstance(made.pop("a4"), OperationalError)
    assert {agent: each.version for agent, each in made.items()} == {
        agent: 1 for agent in AGENTS if agent != "a4"
    }
    assert await rig.stored("a4") is None
    assert not await rig.chunks("a4")


async def test_the_version_an_agent_goes_by_is_kept_with_its_chunks(rig):
    compiler = rig.compiler()
    first = (await compiler.make_all({"a0": Order(WHOLE)}))["a0"]
    kept = await rig.chunks("a0")
    assert isinstance(first, Version)
    for state in ("lost", "suspended"):
        cards = CARDS | {"0" * 15 + "1": {"person": "ada", "state": state}}
        await rig.apply(document(cards=cards))
        await compiler.make_all({"a0": Order(WHOLE, applied=first)})
    assert kept.keys() < (await rig.chunks("a0")).keys()
    assert len(await rig.chunks("a0")) == len(kept) + 1
    async with rig.engine.connect() as connection:
        assert await rows.version_of(connection, "a0", 1) is not None
        assert await rows.version_of(connection, "a0", 2) is None
