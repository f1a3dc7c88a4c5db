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
from schemas.card_chunks import check_leaf, find_card, read_index, slots, write_index, write_leaf
from schemas.chain import EVENTS_TYPE, join_lines, parse_line, split_lines
from schemas.command import Action, Command
from schemas.enrolment import Claim, Enrolment, Renewal
from schemas.envelope import TrustedKey, envelope_json, open_envelope, seal_envelope
from schemas.errors import SchemaError
from schemas.heartbeat import Heartbeat
from schemas.lockdown import Lockdowns
from schemas.policy import Policy
from schemas.report import Pull, Report
from schemas.revocation import Revocation, RevocationSnapshot, read_denied
from schemas.root import Root, open_first_root, open_next_root
from schemas.sealed import seal_secret, unseal_secret
from schemas.statement import Statement, open_statement, payload_type, sign_statement
from schemas.topics import parse_up
from schemas.versions import LogHead, Version
from tests.centre import DOOR, NOW, SESSION, Centre, card, lockdown, payload
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
STATEMENTS: tuple[type[Statement], ...] = (
    *(Acknowledgement, Command, Enrolment, Heartbeat, Lockdowns, Policy, Pull, Renewal, Report),
    *(Revocation, RevocationSnapshot, Root),
)
PURPOSES = (
    EVENTS_TYPE,
    *(payload_type(each.model_fields["purpose"].default) for each in STATEMENTS),
)


class TrustAll:
    """A key that finds every signature good, so that hostile payloads reach the parser."""

    def verify(self, message: bytes, signature: bytes) -> None:
        pass


RING = trust(SUITE, "fuzzer", *PURPOSES)
OPEN_RING = {SIGNER.keyid: TrustedKey(TrustAll(), "fuzzer", frozenset(PURPOSES))}  # type: ignore[arg-type]

LINES = chain_of(SUITE, 3)
CENTRE = Centre(agent="door")
CENTRE.revoke("card", "0123456789abcdef")
CENTRE.revoke("key-version", "front/2")
LEAF = write_leaf([card(0, valid_from=MOMENT, group_ends={"staff": MOMENT}, offline=True)])
PLACE = slots("00" * 8)[:1]
INDEX = write_index({"00": "ab" * 32, "3f": "cd" * 32})
DENIED = next(iter(CENTRE.snapshot()[1].values()))
CLAIM = Claim(host="127.0.0.1", port=8443, agent="door", secret=bytes(15), root="ab" * 32)
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
    "levels": 2,
    "cards": {"00": "ab" * 32},
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
SAID = {"site": "demo", "audience": "door", "issued": MOMENT, "counter": 1}
REPORT = Report.model_validate(
    SAID
    | {
        "session": SESSION,
        "root": 1,
        "policy": Version(version=1, hash="ab" * 32),
        "revocation": LogHead(),
        "lockdown": 0,
        "command": 0,
        "chain": CHAIN,
        "waiting": 3,
        "doors": {DOOR: {"contact": "closed", "mode": "locked", "freshness": "fresh"}},
        "clock": {"status": "synced"},
        "version": "1",
    }
)
PULL = Pull.model_validate(SAID | {"session": SESSION, "root_after": 1, "chunks": ("ab" * 32,)})
PEM = "-----BEGIN CERTIFICATE REQUEST-----\nAA==\n-----END CERTIFICATE REQUEST-----\n"
RENEWAL = Renewal.model_validate(SAID | {"csr": PEM})
ENROLMENT = Enrolment.model_validate(
    SAID
    | {
        "agent": "door",
        "suite": "intl",
        "public_key": SIGNER.key.public.point.hex(),
        "csr": PEM,
        "chain": CHAIN,
    }
)
KEK = bytes(32)
MESSAGE = b"message"


def _open(data: bytes, model: type[Statement]) -> None:
    open_statement(data, model, OPEN_RING, site="demo", audience="door", now=NOW)


def _open_signed(payload: bytes, model: type[Statement]) -> None:
    purpose: str = model.model_fields["purpose"].default
    _open(envelope_json(payload_type(purpose), payload, [(SIGNER.keyid, b"any")]), model)


def _signature(curve: Curve) -> tuple[Callable[[bytes], object], list[bytes]]:
    key = key_of(curve.suite, "fuzzer")
    return lambda data: key.public.verify(MESSAGE, data), [key.sign(MESSAGE)]


def _point(data: bytes) -> None:
    for curve in CURVES:
        curve.suite.public_key(data)


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode(errors="surrogateescape"))


def _leaf(data: bytes) -> None:
    check_leaf(data, PLACE)
    find_card(data, "00" * 8)


def _statement(
    model: type[Statement], seed: bytes
) -> tuple[Callable[[bytes], object], list[bytes]]:
    return lambda data: _open_signed(data, model), [seed]


def _log(data: bytes) -> None:
    message = Revocation.model_validate_json(data)
    message.after(CENTRE.heads[1], SUITE.digest)


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
    "root": (
        lambda data: Root.model_validate_json(data).key_ring(),
        [CENTRE.keys.root.model_dump_json().encode()],
    ),
    "first root": (open_first_root, [CENTRE.keys.root_envelope]),
    "next root": (
        lambda data: open_next_root(data, CENTRE.keys.root),
        [CENTRE.keys.root_envelope],
    ),
    "heartbeat": _statement(Heartbeat, payload(CENTRE.heartbeat(key_floors={DOOR: 2}))),
    "revocation": _statement(Revocation, payload(CENTRE.log_after(0))),
    "log": (_log, [payload(CENTRE.log_after(0))]),
    "snapshot": _statement(RevocationSnapshot, payload(CENTRE.snapshot()[0])),
    "denied": (read_denied, [DENIED]),
    "lockdowns": _statement(Lockdowns, payload(CENTRE.lockdowns(1, lockdown(exempt=("guards",))))),
    "command": _statement(Command, payload(CENTRE.command(1, Action.UNLOCK))),
    "report": _statement(Report, REPORT.model_dump_json().encode()),
    "pull": _statement(Pull, PULL.model_dump_json().encode()),
    "enrolment": _statement(Enrolment, ENROLMENT.model_dump_json().encode()),
    "renewal": _statement(Renewal, RENEWAL.model_dump_json().encode()),
    "leaf": (_leaf, [LEAF]),
    "index": (read_index, [INDEX]),
    "claim": (_text(Claim.parse), [CLAIM.code.encode()]),
    "topic": (_text(parse_up), [b"ostiary/demo/up/front-agent/events"]),
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
