"""Orders about keys against whatever is in the element, and whatever is lost on the way.

The element is a model: it takes a key only as an ESAM does. An order may be cut off after any step,
and each step may be lost or done without anybody hearing of it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.key_staging import (
    Ask,
    Done,
    Draw,
    Erase,
    Holding,
    Refuse,
    next_step,
)
from schemas.keys import MAX_VERSIONS, CheckValues, Item, StageOrder
from tests.schema_cast import MOMENT

STEPS = 2
"""Of the longest order: the keys, and the floor."""
VERSIONS = st.integers(1, 12)


PURPOSES = ("auth", "admit", "maintain")


def checks(version: int, *wrong: str) -> CheckValues:
    """Those of the right keys of a version, but for what is wrong."""
    values = {name: f"{version:02x}{at:02x}{name in wrong:02x}" for at, name in enumerate(PURPOSES)}
    return CheckValues(**values)


def order(version: int, floor: int, *, draws: bool = False) -> StageOrder:
    return StageOrder(
        site="demo",
        audience="front-agent",
        issued=MOMENT,
        expires=MOMENT + timedelta(seconds=60),
        counter=1,
        domain="front",
        suite="gm",
        version=version,
        check_values=None if draws else checks(version),
        floor=floor,
    )


def after(step: Ask | Draw | Erase, held: Holding) -> Holding:
    """What the element has when a step was done."""
    match step:
        case Draw(version):
            assert version >= held.floor
            assert len(held.versions) < MAX_VERSIONS
            return replace(held, versions={**held.versions, version: checks(version)})
        case Erase(floor) | Ask(Item.FLOOR, floor):
            assert floor > held.floor
            kept = {v: each for v, each in held.versions.items() if v >= floor}
            return replace(held, floor=floor, versions=kept)
        case Ask(_, version):
            assert version >= held.floor
            versions = {**held.versions, version: checks(version)}
            assert len(versions) <= MAX_VERSIONS
            return replace(held, versions=versions)


@st.composite
def chips(draw):
    """Versions of which some keys, or all, are wrong; never below the floor."""
    floor = draw(VERSIONS)
    numbers = draw(st.sets(st.integers(floor, 12), max_size=MAX_VERSIONS))
    wrong = st.sets(st.sampled_from(PURPOSES))
    return Holding(floor, {number: checks(number, *draw(wrong)) for number in numbers})


@st.composite
def locks(draw):
    """Elements that draw their keys."""
    floor = draw(VERSIONS)
    numbers = draw(st.sets(st.integers(floor, 12), max_size=MAX_VERSIONS))
    return Holding(floor, {number: checks(number, *PURPOSES) for number in numbers}, draws=True)


@st.composite
def orders(draw, *, draws: bool):
    version = draw(VERSIONS)
    return order(version, draw(st.integers(1, version)), draws=draws)


OUTCOMES = st.lists(st.sampled_from(["done", "lost", "unheard", "cut off"]), max_size=30)


def carried_out(asked: StageOrder, held: Holding, outcomes: list[str]) -> Holding:
    """The order again and again, with these mishaps, and then without; what is held at the end."""
    mishaps = iter(outcomes)
    undisturbed = 0
    while True:
        step = next_step(asked, held)
        if isinstance(step, Done | Refuse):
            return held
        outcome = next(mishaps, None)
        if outcome is None:
            undisturbed += 1
            assert undisturbed <= STEPS, "it goes on and on"
        if outcome not in ("lost", "cut off"):
            before, held = held, after(step, held)
            assert held.floor >= before.floor
            for version, keys in before.versions.items():
                if version != asked.version:
                    assert held.versions.get(version) == keys or version < asked.floor


@given(st.one_of(chips(), locks()), st.data(), OUTCOMES)
def test_repeated_orders_reach_the_whole_whatever_is_lost(held, data, outcomes):
    asked = data.draw(orders(draws=held.draws))
    end = carried_out(asked, held, outcomes)
    last = next_step(asked, end)
    if isinstance(last, Refuse):
        below = asked.version < held.floor
        full = len(held.versions) == MAX_VERSIONS and asked.version not in held.versions
        assert (last.reason, below or full) in (("failed", True), ("full", True))
        assert end == held, "what is refused changes nothing"
        return
    assert asked.version in end.versions
    if not held.draws:
        assert end.versions[asked.version] == asked.check_values
    assert end.floor == max(held.floor, asked.floor)
    assert min(end.versions) >= end.floor


@given(chips(), st.data())
def test_nothing_is_erased_before_the_version_is_there(held, data):
    asked = data.draw(orders(draws=False))
    step = next_step(asked, held)
    if isinstance(step, Ask) and step.item is Item.FLOOR:
        assert held.versions[asked.version] == asked.check_values


@given(locks(), st.data())
def test_what_a_lock_drew_once_it_does_not_draw_again(held, data):
    asked = data.draw(orders(draws=True))
    end = carried_out(asked, held, [])
    for version, keys in held.versions.items():
        assert end.versions.get(version) == keys or version < end.floor


@pytest.mark.parametrize("draws", [False, True])
def test_who_makes_the_keys_is_not_left_to_the_order(draws):
    step = next_step(order(2, 1, draws=not draws), Holding(1, {}, draws=draws))
    assert isinstance(step, Refuse)
    assert step.reason == "failed"
