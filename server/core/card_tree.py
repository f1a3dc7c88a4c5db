"""The cards of one agent's policy as a tree of chunks: grown whole, or changed leaf by leaf. Pure.

What a leaf holds follows from its own cards alone, so both ways give the same bytes. A card is here
its line in a leaf, ready to be written: 600,000 of them as models would take a gigabyte.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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
Read = Callable[[str], bytes]
"""The body of a chunk of the tree, by its digest."""

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
    leaves: defaultdict[tuple[str, str], list[bytes]] = defaultdict(list)
    count = 0
    for line in lines:
        leaves[slots(_card(line))].append(line)
        count += 1
    if levels_for(count, before) == 1:
        merged: defaultdict[str, list[bytes]] = defaultdict(list)
        for (first, _), some in leaves.items():
            merged[first] += some
        if all(_fits(some) for some in merged.values()):
            bodies = _Bodies(digest)
            top = {first: bodies.add_leaf(merged[first]) for first in sorted(merged)}
            return Tree(1, top, count, bodies.named)
    bodies = _Bodies(digest)
    indexes: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for first, second in sorted(leaves):
        if not _fits(leaves[first, second]):
            raise _too_large(first, second)
        indexes[first][second] = bodies.add_leaf(leaves[first, second])
    top = {first: bodies.add(write_index(index)) for first, index in indexes.items()}
    return Tree(2, top, count, bodies.named)


def change(tree: Tree, cards: Mapping[str, bytes | None], read: Read, digest: Digest) -> Tree:
    """The tree with these cards' lines in place of what it says of them; None: not in it any more.

    Reads and writes only the leaves these cards are in and the indexes above, unless the number of
    levels changes. Raises PolicyTooLarge.
    """
    bodies = _Bodies(digest)
    top, count, fits = dict(tree.top), tree.cards, True
    for first, in_first in _by_slot(cards, 0).items():
        named = top if tree.levels == 1 else (read_index(read(top[first])) if first in top else {})
        below = {first: in_first} if tree.levels == 1 else _by_slot(in_first, 1)
        for slot, in_leaf in below.items():
            lines = _lines_by_card(read(named[slot])) if slot in named else {}
            count -= len(lines)
            lines = {c: l for c, l in (lines | in_leaf).items() if l is not None}
            count += len(lines)
            fits = fits and _fits(lines.values())
            _name(named, slot, bodies.add_leaf(lines.values()) if lines else None)
        if tree.levels == 2:
            _name(top, first, bodies.add(write_index(named)) if named else None)
    changed = Tree(tree.levels, dict(sorted(top.items())), count, bodies.named)
    if fits and levels_for(count, tree.levels) == tree.levels:
        return changed

    def read_changed(name: str) -> bytes:
        return bodies.named.get(name) or read(name)

    return grow(all_lines(changed, read_changed), tree.levels, digest)


def all_lines(tree: Tree, read: Read) -> Iterator[bytes]:
    """Every card's line."""
    for name in tree.top.values():
        leaves = [name] if tree.levels == 1 else read_index(read(name)).values()
        for leaf in leaves:
            yield from read(leaf).splitlines(keepends=True)


def references(tree: Tree, read: Read) -> set[str]:
    """The digests of all its chunks. Reads the indexes alone."""
    names = set(tree.top.values())
    if tree.levels == 2:
        names.update(*(read_index(read(name)).values() for name in tree.top.values()))
    return names


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


def _lines_by_card(leaf: bytes) -> dict[str, bytes | None]:
    return {_card(line): line for line in leaf.splitlines(keepends=True)}


def _by_slot(cards: Mapping[str, bytes | None], level: int) -> dict[str, dict[str, bytes | None]]:
    sorted_out: defaultdict[str, dict[str, bytes | None]] = defaultdict(dict)
    for card, line in cards.items():
        sorted_out[slots(card)[level]][card] = line
    return sorted_out


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
