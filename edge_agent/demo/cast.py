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

    The copied card is spread out, as a thief who waits: so it meets the check of its key and not
    only the lockout that five failures in a row bring.
    """
    guests = list(CAST[:taps])
    rest = random.choices(CAST, [p.weight for p in CAST], k=max(0, taps - len(guests)))
    guests += rest
    random.shuffle(guests)
    return guests


REVOKED = next(person for person in CAST if person.expected == "card_revoked")
LEAVERS = tuple(_serial(100 + number) for number in range(20))
"""Cards that are revoked while people walk, one after another."""


def site_document(doors: list[str], agent: Callable[[str], str], now: datetime) -> dict[str, Any]:
    """The whole site as `ostiary apply` takes it; `agent` names the agent that serves a door."""
    tomorrow = (now + timedelta(days=1)).isoformat()
    yesterday = (now - timedelta(days=1)).isoformat()
    in_groups: dict[str, list[str]] = {"dana": ["visitors"], "emil": []}
    special: dict[str, dict[str, Any]] = {
        "fatima": {"state": "suspended"},
        "goran": {"valid_until": yesterday},
        "hana": {"valid_from": tomorrow},
        "jun": {"state": "lost"},
    }
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
                    "strike_release_s": 2.0,
                    "held_prealarm_s": 2.0,
                    "held_after_s": 3.0,
                },
            }
            for door in doors
        },
        "groups": {"staff": {}, "visitors": {}},
        "persons": {p.name: {"groups": in_groups.get(p.name, ["staff"])} for p in holders}
        | {name: {"groups": ["staff"]} for name in leavers},
        "cards": {p.serial.hex(): {"person": p.name} | special.get(p.name, {}) for p in holders}
        | {serial.hex(): {"person": name} for name, serial in leavers.items()},
        "rules": {
            "staff": {"group": "staff", "areas": ["inside"], "schedule": "always"},
            "visitors": {"group": "visitors", "areas": ["inside"], "schedule": "never"},
        },
    }
