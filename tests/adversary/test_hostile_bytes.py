"""Every parser returns or refuses by name, whatever bytes come; `fuzz.py` runs for longer."""

from __future__ import annotations

import json
import random

import pytest

from schemas.errors import SchemaError
from tests.adversary.fuzz import TARGETS, fuzz, mutate


@pytest.mark.parametrize("target", TARGETS)
def test_changed_bytes_are_refused_by_name(target):
    outcomes = fuzz(1500, random.Random(20260131), target)
    assert sum(outcomes.values()) == 1500
    assert outcomes["accepted"] < 1500


@pytest.mark.parametrize("target", ["SM2 signature", "P-256 signature", "sealed"])
def test_a_changed_signature_or_seal_is_never_accepted(target):
    parse, (seed, *_) = TARGETS[target]
    parse(seed)
    rng = random.Random(7)
    for _ in range(1500):
        data = mutate(seed, rng)
        if data != seed:
            with pytest.raises(SchemaError):
                parse(data)


def test_a_changed_envelope_is_refused_or_has_nothing_changed_but_blanks():
    parse, (seed, *_) = TARGETS["envelope"]
    rng = random.Random(7)
    for _ in range(3000):
        data = mutate(seed, rng)
        try:
            opened = parse(data)
        except SchemaError:
            continue
        assert opened == parse(seed)
        assert json.loads(data) == json.loads(seed)
