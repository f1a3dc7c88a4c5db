"""The cards of one agent's policy as a tree of chunks: grown whole, or changed leaf by leaf. Pure.

What a leaf holds follows from its own cards alone, so both ways give the same bytes. A card is here
its line in a leaf, ready to be written: 600,000 of them as models would take a gigabyte.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from schemas.card_chunks import (
    CARDS_PER_LEAF,
    MAX_CHUNK_BYTES,
    read_index,
    slots,
    write_index,
    write_leaf,
)
from schemas.policy import PolicyCard
from schemas.revocation import Digest

Levels = Literal[1, 2]
Place = tuple[str, str]
"""The two slots of a card, whether or not the tree has two levels."""

_MANY = 64 * CARDS_PER_LEAF
_ID = slice(len('{"card":"'), len('{"card":"') + 16)


class PolicyTooLarge(Exception):
    """More than an agent takes: the message says of what, and what to do."""


@dataclass(frozen=True)
class Tree:
    """What a manifest names of it, how many cards hang on it, and the chunks that may be new."""

    levels: Levels = 1
    top: Mapping[str, str] = field(default_factory=dict)
    cards: int = 0
    chunks: Mapping[str, bytes] = field(default_factory=dict, repr=False)


def card_line(card: PolicyCard) -> bytes:
    """The card's line in a leaf."""
    return write_leaf([card])


def levels_for(cards: int, before: int | None) -> Levels:
    """Two above 4,096 cards; back to one only below half of that, so that a few never flap it."""
    return 2 if cards > _MANY or (before == 2 and cards >= _MANY // 2) else 1


def grow(lines: Iterable[bytes], before: int | None, digest: Digest) -> Tree:
    """The tree of these cards, each there once. `before`: the levels it had, if it was there.

    Raises PolicyTooLarge.
    """
    leaves: defaultdict[Place, list[bytes]] = defaultdict(list)
    count = 0
    for line in lines:
        leaves[slots(_card(line))].append(line)
        count += 1
    if levels_for(count, before) == 1:
        merged: defaultdict[str, list[bytes]] = defaultdict(list)
        for (first, _), some in leaves.items():
            merged[first] += some
        if all(_fits(some) for some in merged.values()):
            made = _Bodies(digest)
            top = {first: made.add_leaf(merged[first]) for first in sorted(merged)}
            return Tree(1, top, count, made.named)
    made = _Bodies(digest)
    indexes: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for first, second in sorted(leaves):
        if not _fits(leaves[first, second]):
            raise _too_large(first, second)
        indexes[first][second] = made.add_leaf(leaves[first, second])
    top = {first: made.add(write_index(index)) for first, index in indexes.items()}
    return Tree(2, top, count, made.named)


def change(
    tree: Tree, places: Mapping[Place, Iterable[bytes]], bodies: Mapping[str, bytes], digest: Digest
) -> Tree | None:
    """The tree with these lines as all there are at these places.

    `bodies` are what `needed` asks for. None: grow it anew, because the number of levels changes or
    a leaf no longer fits.
    """
    made = _Bodies(digest)
    top, count, fits = dict(tree.top), tree.cards, True
    by_first: defaultdict[str, dict[str, Iterable[bytes]]] = defaultdict(dict)
    for (first, second), lines in places.items():
        by_first[first][second] = lines
    for first, seconds in by_first.items():
        if tree.levels == 1:
            leaves, leaf_changes = top, {first: seconds}
        else:
            leaves = read_index(bodies[top[first]]) if first in top else {}
            leaf_changes = {second: {second: lines} for second, lines in seconds.items()}
        for slot, replaced in leaf_changes.items():
            before = bodies[leaves[slot]].splitlines(keepends=True) if slot in leaves else []
            after = [line for line in before if slots(_card(line))[1] not in replaced]
            after += chain.from_iterable(replaced.values())
            count += len(after) - len(before)
            fits = fits and _fits(after)
            _name(leaves, slot, made.add_leaf(after) if after else None)
        if tree.levels == 2:
            _name(top, first, made.add(write_index(leaves)) if leaves else None)
    if not fits or levels_for(count, tree.levels) != tree.levels:
        return None
    return Tree(tree.levels, dict(sorted(top.items())), count, made.named)


def needed(tree: Tree, places: Iterable[Place], bodies: Mapping[str, bytes]) -> set[str]:
    """The chunks that `change` reads and that are not in `bodies` yet.

    Of two levels the second can be told only once the indexes are there: ask until it is empty.
    """
    names: set[str] = set()
    for first, second in places:
        if first not in tree.top:
            continue
        names.add(name := tree.top[first])
        if tree.levels == 2 and name in bodies:
            index = read_index(bodies[name])
            names |= {index[second]} if second in index else set()
    return names - bodies.keys()


def indexes(tree: Tree) -> set[str]:
    """The digests of its indexes."""
    return set(tree.top.values()) if tree.levels == 2 else set()


def references(tree: Tree, bodies: Mapping[str, bytes]) -> set[str]:
    """The digests of all its chunks, given the bodies of its indexes."""
    names = set(tree.top.values())
    return names.union(*(read_index(bodies[name]).values() for name in indexes(tree)))


class _Bodies:
    """Chunks by digest."""

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self.named: dict[str, bytes] = {}

    def add(self, body: bytes) -> str:
        name = self._digest(body).hex()
        self.named[name] = body
        return name

    def add_leaf(self, lines: Iterable[bytes]) -> str:
        return self.add(b"".join(sorted(lines)))  # each begins with its card's id


def _card(line: bytes) -> str:
    return line[_ID].decode()


def _name(names: dict[str, str], slot: str, name: str | None) -> None:
    if name is None:
        names.pop(slot, None)
    else:
        names[slot] = name


def _fits(lines: Iterable[bytes]) -> bool:
    return sum(map(len, lines)) <= MAX_CHUNK_BYTES


def _too_large(first: str, second: str) -> PolicyTooLarge:
    return PolicyTooLarge(
        f"the cards of slot {first}/{second} take more than {MAX_CHUNK_BYTES // 1024} KiB: give "
        "fewer groups rules at this agent's doors, or spread its doors over more agents"
    )
