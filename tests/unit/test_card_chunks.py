"""The tree of cards that a policy names: leaves by the line, indexes above them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from schemas.card_chunks import (
    check_leaf,
    find_card,
    read_index,
    slots,
    write_index,
    write_leaf,
)
from schemas.errors import MalformedChunk
from tests.centre import NOW, card

DIGEST = "ab" * 32
CARDS = [card(number) for number in range(3000)]
PLACE = slots(CARDS[0].card)
NEAR = [each for each in CARDS if slots(each.card)[0] == PLACE[0]]
"""Cards of one leaf where there is one level."""


def test_a_cards_place_follows_from_its_id_alone():
    # SHA-256 of eight zero bytes begins with af 55
    assert slots("00" * 8) == ("2f", "15")
    assert {int(slot, 16) for each in CARDS for slot in slots(each.card)} == set(range(64))


def test_a_leaf_gives_each_of_its_cards_back_and_no_other():
    full = card(
        0,
        group_ends={"staff": NOW},
        valid_from=NOW,
        valid_until=NOW + timedelta(days=1),
        offline=True,
        card_cleared=7,
        person_cleared=8,
    )
    cards = [full, *NEAR[1:]]
    leaf = write_leaf(reversed(cards))
    assert check_leaf(leaf, PLACE[:1]) == len(cards)
    assert [find_card(leaf, each.card) for each in cards] == cards
    assert find_card(leaf, "f" * 16) is None
    assert find_card(b"", full.card) is None
    assert check_leaf(b"", PLACE) == 0


def test_a_leaf_holds_only_cards_of_its_own_place():
    both = next(each for each in NEAR[1:] if slots(each.card) != PLACE)
    leaf = write_leaf([both])
    assert check_leaf(leaf, slots(both.card)) == 1
    for place in (PLACE, ("3f" if slots(both.card)[0] != "3f" else "00",)):
        with pytest.raises(MalformedChunk, match="elsewhere"):
            check_leaf(leaf, place)


@pytest.mark.parametrize(
    "leaf",
    [
        b"\n",
        b"{}\n",
        b"not json\n",
        write_leaf(NEAR[:2]) + b"\n",
        write_leaf(NEAR[:1])[:-1],
        write_leaf(NEAR[:2])[:-1],
        write_leaf(NEAR[:1]) * 2,
        b"".join(reversed(write_leaf(NEAR[:2]).splitlines(keepends=True))),
        b" " + write_leaf(NEAR[:1]),
        write_leaf(NEAR[:1]).replace(b'{"card":', b'{"card": '),
        write_leaf(NEAR[:1]).replace(b"p0", b"P0"),
        write_leaf(NEAR[:1]).replace(b"}", b',"pin":"1234"}'),
        write_leaf(NEAR[:1]).replace(b"}", b',"offline":"yes"}'),
        b'{"person":"ada","card":"0000000000000000"}\n',
    ],
    ids=ascii,
)
def test_a_leaf_of_another_form_is_refused(leaf):
    with pytest.raises(MalformedChunk):
        check_leaf(leaf, PLACE[:1])


def test_a_card_is_looked_for_at_the_start_of_a_line_alone():
    inside = b'{"card":"1577836800000000",'
    leaf = b'{"card":"0000000000000000","person":"ada","group_ends":' + inside + b'"b":1}}\n'
    assert find_card(leaf, "1577836800000000") is None


def test_an_index_gives_its_leaves_back():
    leaves = {"3f": DIGEST, "00": "cd" * 32}
    assert read_index(write_index(leaves)) == leaves
    assert write_index(leaves) == write_index(dict(sorted(leaves.items())))


@pytest.mark.parametrize(
    "index",
    [b"", b"[]", b'{"40":"%s"}' % (b"ab" * 32), b'{"0":"%s"}' % (b"ab" * 32), b'{"00":"ab"}'],
    ids=ascii,
)
def test_an_index_of_another_form_is_refused(index):
    with pytest.raises(MalformedChunk):
        read_index(index)
