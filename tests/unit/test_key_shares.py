"""A secret in several hands: enough of them give it, fewer give nothing."""

from __future__ import annotations

import itertools
import secrets

import pytest

from server.keys.home import KeysError
from server.keys.shares import TooFewShares, combine, needed_of, split

SECRET = bytes(range(32))


def test_any_two_of_three_give_the_secret_and_one_does_not():
    shares = split(SECRET, needed=2, count=3)
    for two in itertools.permutations(shares, 2):
        assert combine(two) == SECRET
    assert combine(shares) == SECRET
    for share in shares:
        assert needed_of(share) == 2
        with pytest.raises(TooFewShares, match="2 different shares are needed, 1 were given"):
            combine([share])
        with pytest.raises(TooFewShares):
            combine([share, share])
    with pytest.raises(TooFewShares):
        combine([])


def test_shares_are_words_whose_spacing_does_not_matter():
    one, two, _ = split(SECRET, needed=2, count=3)
    assert len(one.split()) == 33
    assert combine([f"  {one.upper()}\n", two.replace(" ", "\n")]) == SECRET


def test_a_share_of_another_backup_is_told_apart():
    ours, theirs = (split(SECRET, needed=2, count=2) for _ in range(2))
    with pytest.raises(KeysError, match="different backups"):
        combine([ours[0], theirs[1]])


def test_a_slip_in_a_share_is_noticed_and_no_word_of_it_is_told():
    shares = split(SECRET, needed=2, count=2)
    words = shares[0].split()
    slips = [words[:-1], [*words[1:], words[0]], [*words[:5], "castle", *words[6:]], ["house"], []]
    for slip in slips:
        with pytest.raises(KeysError, match="share 1 is not one") as refusal:
            combine([" ".join(slip), shares[1]])
        assert not set(str(refusal.value).split()) & set(words[3:]) - {"is", "in", "not", "word"}


@pytest.mark.parametrize(("needed", "count"), [(1, 1), (1, 3), (0, 0), (4, 3), (2, 17)])
def test_what_two_people_don_t_guard_is_not_made(needed, count):
    with pytest.raises(KeysError, match="at least 2"):
        split(SECRET, needed=needed, count=count)


def test_each_split_is_another():
    secret = secrets.token_bytes(32)
    first, second = (split(secret, needed=2, count=2) for _ in range(2))
    assert not set(first) & set(second)
