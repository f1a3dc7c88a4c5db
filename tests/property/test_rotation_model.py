"""Whole rotations, one after the other, through everything that can go wrong: what must hold does.

The rules are the real ones: the server's core, the key authority's home of keys and packages, the
agent's rules of staging, question and decision, the card's scripts, and both virtual chips. Made up
are the network (it loses, delays, repeats, reorders, and brings back old messages), time, crashes,
torn cards and ESAMs, and an operator who does anything at any moment. `tests/rotation_sim/promises`
is looked at after every step:

- no valid card is refused by its key version at a lock that is in service;
- no floor goes back, in an ESAM, in a lock, at the authority;
- no key is in anything that is said, on the network, to a card or to an ESAM;
- a package is taken by one ESAM, once;
- a torn card or ESAM is as before or as after;
- when all is well again each campaign comes to its end, and no lock stays in quarantine.

`OSTIARY_SEED` gives another run.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from schemas.suites import SuiteName
from tests.rotation_sim.world import World

SEED = int(os.environ.get("OSTIARY_SEED", "20260105"))
RUNS: tuple[tuple[SuiteName, int], ...] = (("intl", 9_000),) * 10 + (("gm", 5_000),) * 2
TO_SETTLE = 30_000
AT_LEAST = {
    "activated": 20,
    "completed": 20,
    "re-keyed": 100,
    "turned back": 5,
    "rolled_back": 10,
    "paused": 20,
    "left behind": 1,
    "quarantined": 5,
    "left quarantine": 5,
    "locked out": 5,
    "granted": 5_000,
    "bound": 30,
    "card torn": 100,
    "ESAM torn": 20,
    "crashed": 50,
    "chip changed": 10,
    "removed": 3,
    "server restarted": 10,
}
"""What a run must have been through to show anything."""


@pytest.mark.slow
def test_no_valid_card_fails_because_of_a_rotation():
    steps, kept, seen = 0, 0, Counter[str]()
    for number, (suite, length) in enumerate(RUNS):
        seed = SEED + number
        world = World(suite, seed)
        try:
            for _ in range(length):
                world.step()
            world.settle(TO_SETTLE)
        except BaseException as error:
            error.add_note(f"OSTIARY_SEED={SEED}: run {number} of {suite}, step {world.steps}")
            raise
        steps, kept = steps + world.steps, kept + world.promises.kept
        seen += world.centre.happened + world.seen
        seen["ESAM torn"] += sum(lock.slot.tears for lock in world.locks.values())
    print(f"OSTIARY_SEED={SEED}: {steps} steps, a card would open {kept} times; {dict(seen)}")
    assert steps >= 50_000
    assert kept >= 50_000
    assert {name: seen[name] for name, least in AT_LEAST.items() if seen[name] < least} == {}
