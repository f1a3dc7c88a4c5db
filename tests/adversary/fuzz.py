"""Throw changed and invented bytes at every parser of `schemas`, and count.

    python -m tests.adversary.fuzz [COUNT] [SEED]

A case passes if the parser returns or refuses by a name of ours; anything else stops the run and
prints the bytes. The tests run a few thousand cases; a million takes minutes.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable

from pydantic import ValidationError

from schemas.acknowledgement import Acknowledgement
from schemas.chain import EVENTS_TYPE, join_lines, parse_line, split_lines
from schemas.envelope import TrustedKey, open_envelope, seal_envelope
from schemas.errors import SchemaError
from schemas.policy import Policy
from schemas.root import Root
from schemas.sealed import seal_secret, unseal_secret
from schemas.statement import Statement, open_statement, payload_type, sign_statement
from schemas.topics import parse_up
from tests.schema_cast import (
    CHAIN,
    CURVES,
    MOMENT,
    OPENSSL,
    P256,
    Curve,
    chain_of,
    key_of,
    signer_of,
    trust,
)

SUITE = P256.suite
SIGNER = signer_of(SUITE, "fuzzer")
PURPOSES = (EVENTS_TYPE, payload_type("acknowledgement"), payload_type("policy"))


class TrustAll:
    """A key that finds every signature good, so that hostile payloads reach the parser."""

    def verify(self, message: bytes, signature: bytes) -> None:
        pass


RING = trust(SUITE, "fuzzer", *PURPOSES)
OPEN_RING = {SIGNER.keyid: TrustedKey(TrustAll(), "fuzzer", frozenset(PURPOSES))}  # type: ignore[arg-type]

LINES = chain_of(SUITE, 3)
POLICY = {
    "site": "demo",
    "audience": "all",
    "issued": MOMENT.isoformat(),
    "counter": 1,
    "timezone": "Europe/Berlin",
    "doors": {"front": {"domain": "front", "suite": "gm", "strike_release_s": 4.5}},
    "schedules": {
        "office": {
            "windows": [{"days": ["mon"], "start": "08:00", "end": "24:00"}],
            "special_days": {"2026-02-17": [{"start": "10:00", "end": "12:00"}]},
        }
    },
    "rules": [{"group": "staff", "doors": ["front"], "schedule": "office"}],
    "cards": [{"card": "0123456789abcdef", "person": "ada", "valid_from": MOMENT.isoformat()}],
    "revoked": ["fedcba9876543210"],
}
ACKNOWLEDGEMENT = Acknowledgement(
    site="demo",
    audience="all",
    issued=MOMENT,
    counter=7,
    chain=CHAIN,
    sequence=7,
    hash="a" * 64,
)
ROOT = {
    "site": "demo",
    "version": 1,
    "suite": "intl",
    "keys": {SIGNER.keyid: SIGNER.key.public.point.hex()},
    "roles": {"policy": [SIGNER.keyid], "online": [SIGNER.keyid]},
}
KEK = bytes(32)
MESSAGE = b"message"


def _open(data: bytes, model: type[Statement]) -> None:
    open_statement(data, model, OPEN_RING, site="demo", audience="door", now=MOMENT)


def _open_signed(payload: bytes, model: type[Statement]) -> None:
    purpose: str = model.model_fields["purpose"].default
    _open(seal_envelope(payload_type(purpose), payload, [SIGNER]), model)


def _topic(data: bytes) -> None:
    parse_up(data.decode(errors="surrogateescape"))


def _signature(curve: Curve) -> tuple[Callable[[bytes], object], list[bytes]]:
    key = key_of(curve.suite, "fuzzer")
    return lambda data: key.public.verify(MESSAGE, data), [key.sign(MESSAGE)]


def _point(data: bytes) -> None:
    for curve in CURVES:
        curve.suite.public_key(data)


TARGETS: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
    "line": (lambda data: parse_line(data, SUITE.digest), LINES),
    "lines": (lambda data: split_lines(data, SUITE.digest), [join_lines(LINES), LINES[0]]),
    "envelope": (
        lambda data: open_envelope(data, RING, EVENTS_TYPE),
        [seal_envelope(EVENTS_TYPE, join_lines(LINES), [SIGNER])],
    ),
    "statement": (
        lambda data: _open(data, Acknowledgement),
        [sign_statement(ACKNOWLEDGEMENT, SIGNER)],
    ),
    "acknowledgement": (
        lambda payload: _open_signed(payload, Acknowledgement),
        [ACKNOWLEDGEMENT.model_dump_json().encode()],
    ),
    "policy statement": (
        lambda payload: _open_signed(payload, Policy),
        [json.dumps({"purpose": "policy"} | POLICY).encode()],
    ),
    "policy": (Policy.model_validate_json, [json.dumps(POLICY).encode()]),
    "root": (lambda data: Root.model_validate_json(data).key_ring(), [json.dumps(ROOT).encode()]),
    "topic": (_topic, [b"ostiary/demo/up/front-agent/events"]),
    "SM2 signature": _signature(OPENSSL),
    "P-256 signature": _signature(P256),
    "point": (_point, [key_of(c.suite, "fuzzer").public.point for c in CURVES]),
    "sealed": (
        lambda data: unseal_secret(KEK, data, "secret"),
        [seal_secret(KEK, b"secret", "secret", random.Random(1).randbytes)],
    ),
}
TOKENS = [
    *(b'{ } [ ] , : " \\ \\u0000 \\ud800 \\n null true NaN Infinity -0 1e999 0.1 -1 1'.split()),
    *(b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xa8"),
    *("门".encode(), b"9" * 400, b"[" * 300, b'{"a":' * 300, b"0" * 64, b'"data":{}', b"\x02\x00"),
    *(
        b"\x30\x80",
        b"\x02\x01\x00",
        b'"id":"',
        b'"payload":""',
        b"=",
        b"/",
        b"2026-01-31T",
        b"24:00",
    ),
]


def mutate(seed: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four changes, or others altogether."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 8, 64)))
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at:at] = rng.choice(TOKENS)
            case 2:
                data[at:end] = rng.choice(TOKENS)
            case 3:
                del data[at:end]
            case 4:
                data[at:at] = data[at:end]
            case _:
                data[at:end] = rng.randbytes(end - at)
    return bytes(data)


def fuzz(count: int, rng: random.Random, target: str) -> Counter[str]:
    """How often each outcome came. Raises what a parser should never raise."""
    parse, seeds = TARGETS[target]
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        data = mutate(rng.choice(seeds), rng)
        try:
            parse(data)
        except (SchemaError, ValidationError) as refusal:
            if isinstance(refusal, SchemaError) and not str(refusal).isprintable():
                raise AssertionError(f"{target}: a refusal that can't be logged") from refusal
            outcomes[type(refusal).__name__] += 1
        except BaseException:
            sys.stderr.write(f"{target}: {data!r}\n")
            raise
        else:
            outcomes["accepted"] += 1
    return outcomes


def main() -> None:
    """Run COUNT cases of each target."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns()
    sys.stdout.write(f"{count} cases each, seed {seed}\n")
    for target in TARGETS:
        start = time.perf_counter()
        outcomes = fuzz(count, random.Random(seed), target)
        rate = count / (time.perf_counter() - start)
        told = ", ".join(f"{name} {n}" for name, n in outcomes.most_common())
        sys.stdout.write(f"{target:<18}{rate:>10,.0f} cases/s   {told}\n")


if __name__ == "__main__":
    main()
