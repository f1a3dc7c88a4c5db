"""Every parser returns or refuses by name, whatever bytes come; `fuzz.py` runs for longer."""

from __future__ import annotations

import random

import pytest

from schemas.errors import SchemaError
from tests.adversary.fuzz import TARGETS, fuzz, mutate


@pytest.mark.parametrize("target", TARGETS)
def test_changed_bytes_are_refused_by_name(target):
    outcomes = fuzz(1500, random.Random(20260131), target)
    assert sum(outcomes.values()) == 1500
    assert outcomes["accepted"] < 1500


@pytest.mark.parametrize("target", ["envelope", "signature", "sealed"])
def test_what_is_signed_or_sealed_is_never_accepted_changed(target):
    parse, (seed, *_) = TARGETS[target]
    rng = random.Random(7)
    for _ in range(1500):
        data = mutate(seed, rng)
        if data != seed:
            with pytest.raises(SchemaError):
                parse(data)
