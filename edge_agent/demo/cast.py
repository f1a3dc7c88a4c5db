"""Who walks through the demo, what each carries, and what the policy says of them.

Every denial reason a door can give today has its person; the copied card has the right serial and
no keys.
"""

from __future__ import annotations

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


def policy_for(doors: list[str], suite: str, now: datetime) -> dict[str, Any]:
    """The policy document that `ostiary policy sign` takes, the same for every door."""
    tomorrow = (now + timedelta(days=1)).isoformat()
    yesterday = (now - timedelta(days=1)).isoformat()
    special: dict[str, dict[str, Any]] = {
        "fatima": {"state": "suspended"},
        "goran": {"valid_until": yesterday},
        "hana": {"valid_from": tomorrow},
        "jun": {"state": "lost"},
        "dana": {"groups": ["visitors"]},
        "emil": {"groups": []},
    }
    cards = [
        {
            "card": person.serial.hex(),
            "person": person.name,
            "groups": ["staff"],
            "domains": doors if person.bound else [],
        }
        | special.get(person.name, {})
        for person in CAST
        if person.copies is None and person.name != "stranger"
    ]
    return {
        "timezone": "UTC",
        "doors": {
            door: {
                "domain": door,
                "suite": suite,
                "strike_release_s": 2.0,
                "held_prealarm_s": 2.0,
                "held_after_s": 3.0,
            }
            for door in doors
        },
        "schedules": {
            "always": {"windows": [{"start": "00:00", "end": "24:00", "days": ALL_WEEK}]},
            "never": {"windows": []},
        },
        "rules": [
            {"group": "staff", "doors": doors, "schedule": "always"},
            {"group": "visitors", "doors": doors, "schedule": "never"},
        ],
        "cards": cards,
        "revoked": [p.serial.hex() for p in CAST if p.expected == "card_revoked"],
    }
