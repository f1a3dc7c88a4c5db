"""What agents ask for because they lack it: each is answered what it may read, in turn.

An answer is bounded, there is at most one on its way to an agent, and a crowd is served in order of
asking: an agent that keeps on asking waits behind all others. What can't be answered is passed over
in silence; the agent asks again, from what its next heartbeat names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from schemas.report import Pull
from schemas.topics import CHUNK, LOCKDOWN, POLICY, REVOCATION, ROOT, SNAPSHOT, down
from server.distribution.lockdowns import Lockdowns
from server.distribution.policies import Policies
from server.distribution.publish import Publish
from server.distribution.revocations import Revocations
from server.site import SiteError
from server.store.database import DATABASE_ERRORS

ANSWERERS = 4
MAX_ROOTS = 16
"""In one answer; who is farther behind asks again."""
MAX_WAITING = 4
"""Pulls of one agent; a fifth takes the place of the oldest."""


log = structlog.get_logger(__name__)


class Pulls:
    """`answer` what the inbox verified; `run` sends the answers."""

    def __init__(
        self,
        *,
        site: str,
        root_after: Callable[[int], list[bytes]],
        policies: Policies,
        revocations: Revocations,
        lockdowns: Lockdowns,
        publish: Publish,
        metrics: CollectorRegistry,
    ) -> None:
        self._site, self._root_after = site, root_after
        self._policies, self._revocations, self._lockdowns = policies, revocations, lockdowns
        self._publish = publish
        self._waiting: dict[str, list[Pull]] = {}
        """In order of asking; an agent that is being answered stands here again if it asks more."""
        self._busy: set[str] = set()
        self._work = asyncio.Event()
        self._asked = Counter("ostiary_pulls_total", "What agents asked for", registry=metrics)
        self._sent = Counter(
            "ostiary_pulled_bytes_total", "Payloads sent for the asking", registry=metrics
        )
        self._queue = Gauge(
            "ostiary_pulls_waiting", "Agents that wait for an answer", registry=metrics
        )

    def answer(self, agent: str, pull: Pull) -> None:
        """Send `agent` what it asks for, when its turn comes."""
        waiting = self._waiting.setdefault(agent, [])
        waiting.append(pull)
        del waiting[:-MAX_WAITING]
        self._asked.inc()
        self._queue.set(len(self._waiting))
        self._work.set()

    async def run(self) -> None:
        """Answer, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(ANSWERERS):
                group.create_task(self._answer_stage())

    async def _answer_stage(self) -> None:
        while True:
            agent = next((each for each in self._waiting if each not in self._busy), None)
            if agent is None:
                self._work.clear()
                await self._work.wait()
                continue
            pulls = self._waiting.pop(agent)
            if pulls[1:]:
                self._waiting[agent] = pulls[1:]  # at the end: everyone else is before it
            self._busy.add(agent)
            try:
                await self._send(agent, pulls[0])
            except ConnectionError as error:
                log.info("pull_not_answered", agent=agent, why=str(error))
            except (SiteError, *DATABASE_ERRORS) as error:
                log.error("pull_not_answered", agent=agent, why=str(error)[:500])
            except Exception:  # whatever it is: the other agents get their answers
                log.exception("pull_not_answered", agent=agent)
            finally:
                self._busy.discard(agent)
            self._queue.set(len(self._waiting))
            self._work.set()

    async def _send(self, agent: str, pull: Pull) -> None:
        """What is trusted comes before what it is needed for: root, denials, and then policy."""
        if pull.root_after is not None:
            roots = await asyncio.to_thread(self._root_after, pull.root_after)
            for envelope in roots[:MAX_ROOTS]:
                await self._tell(agent, ROOT, envelope)
        if pull.lockdown and self._lockdowns.envelope is not None:
            await self._tell(agent, LOCKDOWN, self._lockdowns.envelope)
        if pull.revocation_after is not None:
            await self._send_revocations(agent, pull.revocation_after)
        if pull.policy and (policy := await self._policies.envelope(agent)) is not None:
            await self._tell(agent, POLICY, policy)
        if pull.chunks:
            ours = await self._policies.chunks(agent, pull.chunks)
            for digest in pull.chunks:
                body = ours.get(digest) or self._revocations.chunk(digest)
                if body is not None:
                    await self._tell(agent, CHUNK, body)

    async def _send_revocations(self, agent: str, after: int) -> None:
        messages = await self._revocations.after(after, agent)
        if messages is None:
            envelope, _ = await self._revocations.snapshot(after)
            await self._tell(agent, SNAPSHOT, envelope)
            return
        for envelope in messages:
            await self._tell(agent, REVOCATION, envelope)

    async def _tell(self, agent: str, channel: str, payload: bytes) -> None:
        await self._publish(down(self._site, agent, channel), payload, False)
        self._sent.inc(len(payload))
