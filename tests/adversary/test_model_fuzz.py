"""Changed and invented bytes for what reads a site: the file on disk, and the API's bodies.

python -m tests.adversary.test_model_fuzz [COUNT] [SEED]     for as long as you like
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.strict_json import NotStrictJson, read_json
from server.api.problems import Problem, named_errors
from server.cli.site_yaml import BadYaml, read_yaml, write_yaml
from server.feed.cloudevents import as_json
from server.ingest.alarms import printable
from server.model.document import SiteDocument
from tests.adversary.fuzz import mutate

EXAMPLE = (Path(__file__).parents[2] / "docs" / "site.yaml").read_bytes()
SEEDS = {
    "yaml": EXAMPLE,
    "json": json.dumps(read_yaml(EXAMPLE)).encode(),
    "one card": b'{"cards": {"0102030405060708": {"person": "mei", "offline": true}}}',
}


def take(data: bytes, read: Callable[[bytes], object]) -> str:
    """As the command line and the API do it: read, check, and write what was taken out again."""
    try:
        document = SiteDocument.model_validate(read(data))
    except (BadYaml, NotStrictJson) as refusal:
        printable(str(refusal)).encode()
        return "not read"
    except ValidationError as error:
        problem = named_errors(error)
        assert isinstance(problem, Problem)
        as_json({"detail": problem.detail, **problem.members}).encode()
        return "refused"
    text = write_yaml(document.model_dump(mode="json", exclude_defaults=True))
    assert SiteDocument.model_validate(read_yaml(text.encode())) == document
    return "accepted"


def fuzz(count: int, rng: random.Random, name: str) -> Counter[str]:
    """How often each outcome came. Raises what reading should never raise."""
    read = read_yaml if name == "yaml" else read_json
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        data = mutate(SEEDS[name], rng)
        try:
            outcomes[take(data, read)] += 1
        except BaseException:
            sys.stderr.write(f"{name}: {data!r}\n")
            raise
    return outcomes


@pytest.mark.parametrize("name", SEEDS)
def test_what_is_not_a_site_is_refused_by_its_place(name):
    outcomes = fuzz(400, random.Random(20260131), name)
    assert outcomes["not read"] > 20
    assert outcomes["refused"] > 20


def test_a_billion_laughs_are_not_heard():
    laughs = "\n".join(
        ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    )
    with pytest.raises(BadYaml, match="line 2: aliases"):
        read_yaml(laughs.encode())


@pytest.mark.parametrize("data", [b"[" * 1_000_000, b"a: " + b"{b: " * 100_000, b"- " * 100_000])
def test_depth_ends_early(data):
    with pytest.raises(BadYaml, match="nest"):
        read_yaml(data)


if __name__ == "__main__":
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for each in SEEDS:
        seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().getrandbits(32)
        sys.stdout.write(f"{each}, seed {seed}: {dict(fuzz(cases, random.Random(seed), each))}\n")
