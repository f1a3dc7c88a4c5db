"""Asks for what the newest heartbeat names and the agent lacks, and for the chunks of it.

Someone in between may hold anything back, or let it trickle: that is noticed, reported by its name,
and asked for again, ever more slowly. Until all of a policy is here the old one stays in force.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random

from edge_agent.core.trusted_state import Lacks, lacks, open_snapshot
from edge_agent.neighbours import Say
from edge_agent.recorder import Recorder
from edge_agent.refusals import Refusals
from edge_agent.trust_store import TrustStore
from schemas.envelope import Signer
from schemas.errors import PartialBundle, SlowRetrieval
from schemas.heartbeat import Heartbeat
from schemas.names import SERVER
from schemas.report import Pull
from schemas.revocation import RevocationSnapshot
from schemas.statement import sign_statement
from schemas.topics import CHUNK, LOCKDOWN, POLICY, PULL, REVOCATION, ROOT
from schemas.versions import Version

MOST_CHUNKS = 32
"""In one pull: what fits into the queue of messages that nobody has read yet."""
_REMEMBERED = 4 * MOST_CHUNKS
ANSWER_S = 20.0
"""Without anything new for so long, what was asked for is not coming."""
SLOW_AFTER_S = 60.0
SLOWEST = 1024.0
"""Bytes a second: whoever is slower than that does not carry chunks, but holds them up."""
JITTER_S = 0.5
"""The server may be sending already what we lack; and a thousand doors lack it at once."""
LONGEST_PAUSE_S = 60.0
UNPROMPTED_S = 10.0
"""At most this often is something asked for that no heartbeat names."""


@dataclass(frozen=True)
class _Wants:
    """What there is to ask for, judged by one heartbeat."""

    heartbeat: Heartbeat | None
    lacks: Lacks
    chunks: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.lacks or self.chunks)


@dataclass
class _Snapshot:
    envelope: bytes
    manifest: RevocationSnapshot
    bodies: dict[str, bytes] = field(default_factory=dict)
    stalled: bool = False
    """Its chunks did not come: somebody played an old one, or the server has a newer one now."""

    @property
    def missing(self) -> list[str]:
        return [digest for digest in self.manifest.chunks if digest not in self.bodies]


class Fetching:
    """What was asked for and has not come."""

    def __init__(
        self,
        store: TrustStore,
        recorder: Recorder,
        signer: Signer,
        refusals: Refusals,
        random: Random,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._signer = signer
        self._refusals = refusals
        self._random = random
        self._woken = asyncio.Event()
        self._snapshot: _Snapshot | None = None
        self._asked: deque[str] = deque(maxlen=_REMEMBERED)
        """Digests of chunks: they may come twice, or when what they were for is past."""
        self._unprompted = Lacks()
        self._unprompted_s = -UNPROMPTED_S
        self._begun_s: float | None = None
        """When the first of the chunks that are wanted now was asked for."""
        self._came_bytes = 0

    def look(self) -> None:
        """Something that `lacks` goes by has changed."""
        self._woken.set()

    def ask_for_root(self) -> None:
        """A newer root document may be there: no heartbeat can say so to who lacks its keys."""
        self._unprompted = replace(self._unprompted, root_after=self._store.state.root.version)
        self._woken.set()

    def ask_for_revocations(self) -> None:
        """Entries are missing before one that came; the heartbeat need not name them yet."""
        after = self._store.believed.revocation.sequence
        self._unprompted = replace(self._unprompted, revocation_after=after)
        self._woken.set()

    async def policy_came(self, envelope: bytes, now: datetime) -> None:
        """Verify and stage it. Raises SchemaError."""
        await self._store.offer_policy(envelope, now)
        self._woken.set()

    @property
    def policy_is_whole(self) -> bool:
        """Whether a policy is staged and all its chunks are here."""
        return self._store.staged is not None and not self._store.missing

    def snapshot_came(self, envelope: bytes, now: datetime) -> None:
        """Verify the manifest and wait for its chunks. Raises SchemaError."""
        manifest = open_snapshot(self._store.believed, envelope, self._recorder.agent, now)
        held = {} if self._snapshot is None else self._snapshot.bodies
        bodies = {digest: held[digest] for digest in manifest.chunks if digest in held}
        self._snapshot = _Snapshot(envelope, manifest, bodies)
        self._woken.set()

    def whole_snapshot(self) -> tuple[bytes, Mapping[str, bytes]] | None:
        """The snapshot, once: its envelope and chunks, when all of them are here."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.missing:
            return None
        self._snapshot = None
        return snapshot.envelope, snapshot.bodies

    async def chunk_came(self, body: bytes) -> None:
        """Keep a chunk that is lacking; one that was, is no attack. Raises MalformedChunk."""
        digest = self._store.state.digest(body)
        if self._snapshot is not None and digest in self._snapshot.manifest.chunks:
            if digest in self._snapshot.bodies:
                return
            self._snapshot.bodies[digest] = body
        else:
            missing = self._store.missing
            past = digest in self._asked and digest not in missing
            if past or await self._store.add_chunk(body) is missing:
                return
        self._came_bytes += len(body)
        self._woken.set()

    async def run(self, say: Say, session: str) -> None:
        """Ask, as long as the connection behind `say` lasts."""
        count = failures = 0
        self.ask_for_root()
        self._unprompted_s = -UNPROMPTED_S
        while True:
            if not self._wants().chunks:
                await asyncio.sleep(self._random.uniform(0, JITTER_S))
            self._woken.clear()
            wants, unprompted = self._wants(), self._take_unprompted()
            if not wants.chunks:
                self._begun_s = None
            if not wants and not unprompted:
                failures = 0
                await self._woken.wait()
                continue
            count += 1
            await say(PULL, self._pull(wants, unprompted, session, count))
            if not wants or await self._came(wants):
                failures = 0
                continue
            failures += 1
            self._begun_s = None  # the pause is our own
            if self._snapshot is not None:
                self._snapshot.stalled = True  # ask for one anew; the chunks that came are kept
            longest_s = min(LONGEST_PAUSE_S, 2.0**failures)
            await asyncio.sleep(longest_s * self._random.uniform(0.5, 1.0))

    def _wants(self, heartbeat: Heartbeat | None = None) -> _Wants:
        state = self._store.believed
        if heartbeat is not None:
            state = replace(state, heartbeat=heartbeat)
        lacking, missing = lacks(state), list(self._store.missing)
        named = None if state.heartbeat is None else state.heartbeat.policy
        if lacking.policy and _leads_to(self._store.staged, named):
            lacking = replace(lacking, policy=False)
        elif lacking.policy:
            missing = []  # of a policy that is past already
        if (snapshot := self._snapshot) is not None and not snapshot.stalled:
            lacking = replace(lacking, revocation_after=None)
            missing = snapshot.missing + missing
        return _Wants(state.heartbeat, lacking, tuple(missing[:MOST_CHUNKS]))

    def _take_unprompted(self) -> Lacks:
        now_s = asyncio.get_running_loop().time()
        if not self._unprompted or now_s - self._unprompted_s < UNPROMPTED_S:
            return Lacks()
        self._unprompted_s = now_s
        taken, self._unprompted = self._unprompted, Lacks()
        return taken

    def _pull(self, wants: _Wants, unprompted: Lacks, session: str, count: int) -> bytes:
        now, _ = self._recorder.judge_time()
        self._asked.extend(wants.chunks)
        state, lacking = self._store.state, wants.lacks
        after = lacking.revocation_after
        pull = Pull(
            site=state.root.site,
            audience=SERVER,
            issued=now,
            counter=count,
            session=session,
            root_after=lacking.root_after or unprompted.root_after,
            policy=lacking.policy,
            revocation_after=unprompted.revocation_after if after is None else after,
            lockdown=lacking.lockdown,
            chunks=wants.chunks,
        )
        return sign_statement(pull, self._signer)

    async def _came(self, asked: _Wants) -> bool:
        """Whether all that was asked for came; what did not is reported."""
        loop = asyncio.get_running_loop()
        last, deadline_s = asked, loop.time() + ANSWER_S
        if asked.chunks and self._begun_s is None:
            self._begun_s, self._came_bytes = loop.time(), 0
        while True:
            self._woken.clear()
            left, now_s = self._wants(asked.heartbeat), loop.time()
            if not left.lacks and not set(asked.chunks) & set(left.chunks):
                return True
            if left != last:
                last, deadline_s = left, now_s + ANSWER_S
            if self._is_slow(now_s):
                return False
            if now_s >= deadline_s:
                self._report_missing(left)
                return False
            end_s = deadline_s
            if self._begun_s is not None:
                end_s = min(end_s, self._begun_s + SLOW_AFTER_S)
            try:
                async with asyncio.timeout_at(end_s):
                    await self._woken.wait()
            except TimeoutError:
                pass  # judged above

    def _is_slow(self, now_s: float) -> bool:
        if self._begun_s is None or now_s - self._begun_s < SLOW_AFTER_S:
            return False
        lasted_s, came = now_s - self._begun_s, self._came_bytes
        self._begun_s, self._came_bytes = now_s, 0  # the next minute is judged by itself
        if came >= SLOWEST * lasted_s:
            return False
        detail = f"chunks come at {came / lasted_s:.0f} bytes/s, which is less than {SLOWEST:.0f}"
        self._refusals.report(CHUNK, SlowRetrieval(detail))
        return True

    def _report_missing(self, left: _Wants) -> None:
        lacking, state = left.lacks, self._store.state
        for purpose, what in (
            (ROOT, lacking.root_after and f"the root document after {lacking.root_after}"),
            (POLICY, lacking.policy and "the policy that the newest heartbeat names"),
            (REVOCATION, lacking.revocation_after is not None and "revocations"),
            (LOCKDOWN, lacking.lockdown and "the lockdowns in force"),
            (CHUNK, left.chunks and f"{len(left.chunks)} chunks at least"),
        ):
            if what:
                detail = f"{what} did not come; root {state.root.version}, revocations"
                detail += f" {state.revocation.sequence} stay as they are"
                self._refusals.report(purpose, PartialBundle(detail))


def _leads_to(staged: Version | None, named: Version | None) -> bool:
    """Whether the staged policy is the one that is named, or newer than the heartbeat."""
    return staged is not None and (
        staged == named or named is None or staged.version > named.version
    )
