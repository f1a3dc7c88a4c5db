"""Changing leaves gives the bytes that growing anew gives, and an agent accepts them all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.card_chunks import MAX_CHUNK_BYTES, check_leaf, find_card, read_index, slots
from schemas.policy import PolicyCard
from schemas.suites import INTL
from server.core import card_tree
from server.core.card_tree import (
    PolicyTooLarge,
    Tree,
    card_line,
    change,
    grow,
    levels_for,
    needed,
    references,
)

FEW = 12
"""Cards that make a tree of two levels in these tests; of real ones it takes 4,097."""

numbers = st.integers(0, 60)
persons = st.sampled_from(["ada", "bo", "cem"])
steps = st.lists(st.dictionaries(numbers, persons | st.none(), max_size=12), max_size=8)


@pytest.fixture(autouse=True)
def _few_cards_make_two_levels(monkeypatch):
    monkeypatch.setattr(card_tree, "_MANY", FEW)


def card_id(number):
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"


def lines(people):
    return [card_line(PolicyCard(card=card_id(n), person=p)) for n, p in people.items()]


def changed(tree, people, bodies, touched):
    """What the places of these cards hold now, put into the tree."""
    places = {slots(card_id(n)): [] for n in touched}
    for n, person in people.items():
        if slots(card_id(n)) in places:
            places[slots(card_id(n))] += lines({n: person})
    read = {}
    while names := needed(tree, places, read):
        read |= {name: bodies[name] for name in names}
    return change(tree, places, read, INTL.digest)


@given(steps)
def test_a_tree_that_was_changed_is_the_tree_grown_anew(steps):
    people, tree, bodies = {}, grow([], None, INTL.digest), {}
    for step in steps:
        people = {n: p for n, p in (people | step).items() if p is not None}
        anew = grow(lines(people), tree.levels, INTL.digest)
        by_change = changed(tree, people, bodies, step)
        if by_change is not None:
            assert (by_change.levels, by_change.cards) == (anew.levels, anew.cards)
            assert list(by_change.top.items()) == list(anew.top.items())
            assert bodies | by_change.chunks == bodies | anew.chunks
        else:
            assert anew.levels != tree.levels
        bodies |= anew.chunks
        tree = anew


@given(st.dictionaries(numbers, persons, max_size=40))
def test_an_agent_accepts_every_chunk_and_finds_every_card(people):
    tree = grow(lines(people), None, INTL.digest)
    found = 0
    for first, name in tree.top.items():
        below = {first: name}
        if tree.levels == 2:
            below = read_index(tree.chunks[name])
        for slot, leaf in below.items():
            place = (first,) if tree.levels == 1 else (first, slot)
            found += check_leaf(tree.chunks[leaf], place)
    assert found == tree.cards == len(people)
    for n, person in people.items():
        name = tree.top[slots(card_id(n))[0]]
        if tree.levels == 2:
            name = read_index(tree.chunks[name])[slots(card_id(n))[1]]
        assert find_card(tree.chunks[name], card_id(n)).person == person
    assert references(tree, tree.chunks) == set(tree.chunks)


def test_the_order_in_which_cards_come_makes_no_difference():
    some = lines(dict.fromkeys(range(40), "ada"))
    assert grow(some, None, INTL.digest) == grow(reversed(some), None, INTL.digest)


def test_a_few_cards_more_or_less_do_not_change_the_levels_back_and_forth():
    assert levels_for(FEW, None) == levels_for(FEW, 1) == 1
    assert levels_for(FEW + 1, 1) == 2
    assert levels_for(FEW, 2) == levels_for(FEW // 2, 2) == 2
    assert levels_for(FEW // 2 - 1, 2) == 1


def test_one_card_of_many_changes_one_leaf_and_the_index_above_it():
    people = dict.fromkeys(range(60), "ada")
    tree = grow(lines(people), None, INTL.digest)
    after = changed(tree, people | {7: "bo"}, tree.chunks, [7])
    assert tree.levels == 2
    assert len(after.chunks) == 2
    assert sum(after.top[slot] != tree.top[slot] for slot in tree.top) == 1


def test_cards_too_large_for_one_level_get_two():
    groups = tuple(f"{n:063d}" for n in range(400))
    wide = [
        card_line(PolicyCard(card=card_id(n), person="ada", groups=groups))
        for n in range(5000)
        if slots(card_id(n))[0] == "00"
    ][:FEW]
    tree = grow(wide, None, INTL.digest)
    assert sum(map(len, wide)) > MAX_CHUNK_BYTES
    assert (tree.levels, tree.cards) == (2, FEW)


def test_a_card_that_no_leaf_can_hold_is_named():
    groups = tuple(f"{n:063d}" for n in range(2000))
    wide = card_line(PolicyCard(card="00" * 8, person="ada", groups=groups))
    with pytest.raises(PolicyTooLarge, match="/"):
        grow([wide], None, INTL.digest)
    with pytest.raises(PolicyTooLarge):
        grow([wide], 2, INTL.digest)


def test_an_empty_tree_names_nothing():
    assert grow([], None, INTL.digest) == Tree()
