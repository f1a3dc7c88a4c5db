"""How long a decision takes at a door that knows 600,000 cards and 100,000 revocations."""

from __future__ import annotations

import secrets
import sqlite3
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.result import Row
from edge_agent.core.decision import Circumstances, decide
from edge_agent.core.proof import Proof, ProofOutcome
from edge_agent.demo.figures import Percentiles
from edge_agent.store import PolicyFile, PolicyStore
from schemas.envelope import Signer
from schemas.policy import WEEKDAYS, DoorSettings, Policy, PolicyCard, Rule, Schedule, Window
from schemas.root import Root
from schemas.statement import sign_statement
from schemas.suites import INTL

CARDS = 600_000
REVOKED = 100_000
DECISIONS = 20_000
DOOR = "front"


def _card_id(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"


def _policy(now: datetime) -> Policy:
    return Policy(
        site="bench",
        audience="front-agent",
        issued=now,
        counter=1,
        doors={DOOR: DoorSettings(domain=DOOR, suite="intl")},
        schedules={
            "always": Schedule(windows=(Window(start="00:00", end="24:00", days=WEEKDAYS),))
        },
        rules=(Rule(group="staff", doors=(DOOR,), schedule="always"),),
        cards=tuple(
            PolicyCard(card=_card_id(n), person=f"p{n}", groups=("staff",), domains=(DOOR,))
            for n in range(CARDS)
        ),
        revoked=tuple(_card_id(n) for n in range(0, CARDS, CARDS // REVOKED)),
    )


async def measure() -> list[Row]:
    """Applying the signed policy once; then looking a card up and deciding, many times."""
    signer = Signer.of(INTL.generate(secrets.token_bytes))
    root = Root(
        site="bench",
        version=1,
        suite="intl",
        keys={signer.keyid: signer.key.public.point.hex()},
        roles={"policy": [signer.keyid]},
    )
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as temporary:
        signed, path = Path(temporary) / "policy.dsse", Path(temporary) / "policy.db"
        signed.write_bytes(sign_statement(_policy(now), signer))
        store = await PolicyStore.open(path)
        try:
            started = time.perf_counter()
            await store.apply(PolicyFile(signed, root, "front-agent", datetime.now(UTC)))
            applied_s = time.perf_counter() - started
            decision_ms, granted = await _decide_many(store)
        finally:
            await store.close()
        floor_ms = _floor(path)
    assert 0 < granted < DECISIONS
    assert decision_ms.p50 is not None
    assert decision_ms.p99 is not None
    assert floor_ms.p99
    return [
        Row(
            name="decision, 600,000 cards and 100,000 revoked, p99",
            value=decision_ms.p99,
            unit="ms",
            floor=floor_ms.p99,
            floor_is="two bare SQLite look-ups, p99",
            ratio=round(decision_ms.p99 / floor_ms.p99, 1),
            bar="<= 1 ms",
            met=decision_ms.p99 <= 1,
        ),
        Row(name="the same, p50", value=decision_ms.p50, unit="ms", bar="", met=True),
        Row(
            name="applying a signed policy of 600,000 cards, once",
            value=round(applied_s, 1),
            unit="s",
            bar="taps go on meanwhile",
            met=True,
        ),
    ]


async def _decide_many(store: PolicyStore) -> tuple[Percentiles, int]:
    elapsed_ms, granted = [], 0
    for n in range(DECISIONS):
        card = _card_id(n * 7919 % (CARDS + CARDS // 10))  # a tenth is unknown
        proof = Proof(card, ProofOutcome.PROVED, key_version=1, response_ms=5.0)
        started = time.perf_counter()
        found = store.find(card)
        assert found.applied is not None
        at = Circumstances(direction="in", now=datetime.now(UTC), policy_age_s=1.0)
        decision = decide(
            found.applied.doors[DOOR],
            found.card,
            revoked=found.revoked,
            proof=proof,
            circumstances=at,
        )
        elapsed_ms.append((time.perf_counter() - started) * 1000)
        granted += decision.granted
    return Percentiles.of(elapsed_ms), granted


def _floor(path: Path) -> Percentiles:
    database = sqlite3.connect(path)
    elapsed_ms = []
    for n in range(DECISIONS):
        key = bytes.fromhex(_card_id(n * 7919 % (CARDS + CARDS // 10)))
        started = time.perf_counter()
        database.execute("SELECT body FROM cards WHERE card = ?", [key]).fetchone()
        database.execute("SELECT 1 FROM revoked WHERE card = ?", [key]).fetchone()
        elapsed_ms.append((time.perf_counter() - started) * 1000)
    database.close()
    return Percentiles.of(elapsed_ms)
