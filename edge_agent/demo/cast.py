"""Who walks through the demo, what each carries, and what the site's model says of them.

Every denial reason a door can give today has its person; the copied card has the right serial and
no keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any

ALL_WEEK = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


@dataclass(frozen=True)
class Person:
    """One person and the card in their pocket.

    `expected` is the denial reason, or None for a grant. `weight` is how often they come by.
    `copies` names the person whose card serial this card shows without its keys.
    """

    name: str
    serial: bytes
    expected: str | None
    weight: int
    bound: bool = True
    copies: str | None = None


def _serial(number: int) -> bytes:
    return bytes.fromhex("4f5354") + number.to_bytes(5)


ALICE = Person("alice", _serial(1), None, 6)
CAST: tuple[Person, ...] = (
    ALICE,
    Person("bob", _serial(2), None, 6),
    Person("chen", _serial(3), None, 6),
    Person("dana", _serial(4), "outside_schedule", 1),
    Person("emil", _serial(5), "no_rule", 1),
    Person("fatima", _serial(6), "card_suspended", 1),
    Person("goran", _serial(7), "expired", 1),
    Person("hana", _serial(8), "not_yet_active", 1),
    Person("ivo", _serial(9), "card_revoked", 1),
    Person("jun", _serial(10), "card_lost", 1),
    Person("kofi", _serial(11), "not_bound", 1, bound=False),
    Person("stranger", _serial(12), "unknown_card", 1, bound=False),
    Person("mallory", ALICE.serial, "card_auth_failed", 1, copies="alice"),
)


def guest_list(taps: int, random: Random) -> list[Person]:
    """Who taps, in order: everybody at least once where `taps` allows, then by weight.

    The newcomer is in the middle, once.

    The copied card is spread out, as a thief who waits: so it meets the check of its key and not
    only the lockout that five failures in a row bring.
    """
    guests = list(CAST[: taps - 1])
    rest = random.choices(CAST, [p.weight for p in CAST], k=max(0, taps - 1 - len(guests)))
    guests += rest
    random.shuffle(guests)
    guests.insert(len(guests) // 2, NEWCOMER)
    return guests


NEWCOMER = Person("nadia", _serial(13), None, 0, bound=False)
"""Comes once, with a new card: it is bound at the door, while people tap at the others."""
REGULARS = tuple(person for person in CAST if person.expected is None)
"""Who is let in, so whose cards get new keys."""
REVOKED = next(person for person in CAST if person.expected == "card_revoked")
LEAVERS = tuple(_serial(100 + number) for number in range(20))
"""Cards that are revoked while people walk, one after another."""


def site_document(
    doors: list[str],
    agent: Callable[[str], str],
    domain: Callable[[str], str],
    now: datetime | None = None,
) -> dict[str, Any]:
    """The whole site as `ostiary apply` takes it.

    `agent` names the agent that serves a door, `domain` whose keys open it. Without `now` every
    card is still in order, as it is when it is bound.
    """
    in_groups: dict[str, list[str]] = {"dana": ["visitors"], "emil": []}
    special = {} if now is None else _out_of_order(now)
    holders = [p for p in CAST if p.copies is None and p.name != "stranger"]
    leavers = {f"leaver-{number}": serial for number, serial in enumerate(LEAVERS, 1)}
    return {
        "schedules": {
            "always": {"windows": [{"start": "00:00", "end": "24:00", "days": ALL_WEEK}]},
            "never": {},
        },
        "areas": {"inside": {}},
        "doors": {
            door: {
                "agent": agent(door),
                "area": "inside",
                "settings": {
                    "domain": domain(door),
                    "strike_release_s": 2.0,
                    "held_prealarm_s": 2.0,
                    "held_after_s": 3.0,
                },
            }
            for door in doors
        },
        "groups": {"staff": {}, "visitors": {}},
        "persons": {
            p.name: {"groups": in_groups.get(p.name, ["staff"])} for p in (*holders, NEWCOMER)
        }
        | {name: {"groups": ["staff"]} for name in leavers},
        "cards": {p.serial.hex(): {"person": p.name} | special.get(p.name, {}) for p in holders}
        | {serial.hex(): {"person": name} for name, serial in leavers.items()},
        "rules": {
            "staff": {"group": "staff", "areas": ["inside"], "schedule": "always"},
            "visitors": {"group": "visitors", "areas": ["inside"], "schedule": "never"},
        },
    }


def _out_of_order(now: datetime) -> dict[str, dict[str, Any]]:
    return {
        "fatima": {"state": "suspended"},
        "goran": {"valid_until": (now - timedelta(days=1)).isoformat()},
        "hana": {"valid_from": (now + timedelta(days=1)).isoformat()},
        "jun": {"state": "lost"},
    }
