"""A trust store on disk, and a policy brought to it as the link does."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager

from edge_agent.clock import SystemClock
from edge_agent.trust_store import TrustStore
from schemas.policy import Policy
from schemas.statement import parse_statement
from tests.centre import AGENT, NOW, card, payload

CARDS = [card(number) for number in range(40)]


class Clock(SystemClock):
    def __init__(self):
        self.time, self.monotonic_s = NOW, 100.0

    def now(self):
        return self.time

    def monotonic(self):
        return self.monotonic_s


def opener(path, centre, clock):
    """Opens the store at `path` as often as it is called, with the root document of now."""
    pinned = centre.keys.root

    @asynccontextmanager
    async def opened():
        store = await TrustStore.open(path, pinned, AGENT, clock)
        try:
            yield store
        finally:
            await store.close()

    return opened


async def bring(store, policy, *, only=None):
    """Offer a policy and add the chunks that it lacks, as they become known."""
    envelope, chunks = policy
    missing = await store.offer_policy(envelope, NOW)
    for _ in range(len(chunks) if only is None else only):
        if not missing:
            break
        missing = await store.add_chunk(chunks[missing[0]])
    return missing


async def put_in_force(store, policy):
    assert await bring(store, policy) == ()
    return await store.apply_staged()


def digests(tmp_path):
    with sqlite3.connect(tmp_path / "trust.db") as database:
        return {row[0].hex() for row in database.execute("SELECT digest FROM chunks")}


def naming(centre, cards, levels, version=1):
    """A policy that names these chunks."""
    policy = parse_statement(payload(centre.policy(version, levels=levels)[0]), Policy)
    return centre.sign(policy.model_copy(update={"cards": cards}))
