"""What a lock does next about an order for keys, given what its secure element holds. Pure.

It is asked again after every step, with what was read back: so a crash, a lost package or a torn
write is healed by looking, never by trying a thing again that may have been done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.keys import MAX_VERSIONS, CheckValues, Item, KeyVersion, StageOrder

Reason = Literal["unavailable", "worn_out", "full", "not_given", "wrong_key", "failed"]


@dataclass(frozen=True)
class Holding:
    """What was read from the element: its floor, and each version's check values.

    `draws`: the element makes the domain's secrets itself, and takes none from anybody.
    """

    floor: KeyVersion
    versions: Mapping[KeyVersion, CheckValues]
    draws: bool = False


@dataclass(frozen=True)
class Ask:
    """Ask the key authority for this package, and give it to the element."""

    item: Item
    version: KeyVersion


@dataclass(frozen=True)
class Draw:
    """Make the keys of this version."""

    version: KeyVersion


@dataclass(frozen=True)
class Erase:
    """Raise the element's own floor."""

    floor: KeyVersion


@dataclass(frozen=True)
class Done:
    """All is as it was ordered."""


@dataclass(frozen=True)
class Refuse:
    """It can't be done."""

    reason: Reason
    detail: str


Next = Ask | Draw | Erase | Done | Refuse


def next_step(order: StageOrder, held: Holding) -> Next:
    """The next step. The floor comes last: nothing is erased before what follows it is there."""
    if order.version < held.floor:
        return Refuse("failed", f"version {order.version} is below the floor {held.floor}")
    if held.draws != (order.check_values is None):
        return Refuse("failed", _who_makes_the_keys(held))
    step = _draw(order, held) if order.check_values is None else _ask(order, held)
    if step is not None:
        return step
    if order.floor <= held.floor:
        return Done()
    return Erase(order.floor) if held.draws else Ask(Item.FLOOR, order.floor)


def _draw(order: StageOrder, held: Holding) -> Next | None:
    if order.version in held.versions:
        return None
    return _full(held) or Draw(order.version)


def _ask(order: StageOrder, held: Holding) -> Next | None:
    there = held.versions.get(order.version)
    if there == order.check_values:
        return None
    if there is None and (full := _full(held)):
        return full
    return Ask(Item.KEYS, order.version)


def _full(held: Holding) -> Refuse | None:
    if len(held.versions) < MAX_VERSIONS:
        return None
    return Refuse("full", f"it holds {MAX_VERSIONS} versions: raise the floor first")


def _who_makes_the_keys(held: Holding) -> str:
    if held.draws:
        return "this lock makes the domain's keys itself: it has no ESAM for it"
    return "the domain's keys are on an ESAM, which makes none: the key authority has to"
