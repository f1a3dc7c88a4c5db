"""Tells the server, signed, that the agent lives and what it has applied."""

from __future__ import annotations

import asyncio
from random import Random

from edge_agent.neighbours import Doors, Renewals, Say
from edge_agent.recorder import Recorder
from edge_agent.trust_store import TrustStore
from schemas.envelope import Signer
from schemas.names import SERVER
from schemas.report import INTERVAL_S, Report
from schemas.statement import sign_statement
from schemas.topics import REPORT
from schemas.versions import Version

COALESCE_S = 0.05
"""Changes that come together are one report."""


class Reporting:
    """The newest picture: at once on connection, after each change, and every ten seconds."""

    def __init__(
        self,
        store: TrustStore,
        recorder: Recorder,
        signer: Signer,
        *,
        doors: Doors,
        renewals: Renewals,
        random: Random,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._signer = signer
        self._doors = doors
        self._renewals = renewals
        self._random = random
        self._count = 0
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Something that a report tells of has changed."""
        self._changed.set()

    async def run(self, say: Say, session: str) -> None:
        """Report, as long as the connection behind `say` lasts."""
        self._count = 0
        while True:
            self._changed.clear()
            await self._say(say, session)
            try:
                async with asyncio.timeout(INTERVAL_S * self._random.uniform(0.8, 1.2)):
                    await self._changed.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(COALESCE_S)

    async def leave(self, say: Say, session: str) -> None:
        """The last word before an orderly stop."""
        await self._say(say, session, leaving=True)

    async def _say(self, say: Say, session: str, *, leaving: bool = False) -> None:
        self._count += 1
        state = self._store.state
        events = self._recorder.outbox.state
        now, clock = self._recorder.judge_time()
        report = Report(
            site=state.root.site,
            audience=SERVER,
            issued=now,
            counter=self._count,
            session=session,
            root=state.root.version,
            policy=None
            if state.policy is None or state.policy_hash is None
            else Version(version=state.policy.counter, hash=state.policy_hash),
            revocation=state.revocation,
            lockdown=0 if state.lockdowns is None else state.lockdowns.counter,
            command=state.command,
            chain=events.head.chain,
            waiting=events.waiting,
            doors=self._doors.reports(),
            clock=clock,
            version=self._recorder.version[:40],
            certificate_until=self._renewals.certificate_until,
            leaving=leaving,
        )
        await say(REPORT, sign_statement(report, self._signer))
