"""Signed acknowledgements: after the commit, cumulative, at most one per agent and 20 ms."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

import structlog

from schemas.acknowledgement import Acknowledgement
from schemas.chain import Head
from schemas.envelope import Signer
from schemas.statement import sign_statement
from schemas.topics import ACKNOWLEDGEMENT, down
from server.clock import Clock
from server.ingest.metrics import IngestMetrics

INTERVAL_S = 0.02
RESEND_INTERVAL_S = 1.0
PATIENCE_S = 0.5
"""So long acknowledgements wait for a crowd's events to be committed. Agents wait longer."""
_AT_ONCE = 64

Publish = Callable[[str, bytes], Awaitable[None]]
"""(topic, payload); raises ConnectionError while there is no broker."""

log = structlog.get_logger(__name__)


class Acknowledger:
    """Holds the newest word for each agent until it is time to say it.

    Skipping is fine, for an acknowledgement covers all before it; the last one is always sent. One
    that the broker didn't take is forgotten: on reconnection every agent is told anew.
    """

    def __init__(
        self,
        *,
        site: str,
        signer: Signer,
        publish: Publish,
        executor: Executor,
        clock: Clock,
        metrics: IngestMetrics,
        others_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        """`others_wait`: whether there are events that are not committed yet. They go first."""
        self._others_wait, self._since = others_wait, 0.0
        self._site, self._signer, self._publish = site, signer, publish
        self._executor, self._clock, self._metrics = executor, clock, metrics
        self._waiting: dict[str, tuple[Head, bool]] = {}
        self._sent: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._closed = False

    def committed(self, agent: str, head: Head) -> None:
        """Acknowledge `head`. A request to resend that still waits goes with it."""
        _, resend = self._waiting.get(agent, (head, False))
        self._begin()
        self._waiting[agent] = (head, resend)

    def resend(self, agent: str, head: Head) -> None:
        """Ask for everything after `head`, at most once a second."""
        now = self._clock.monotonic()
        if now - self._asked.get(agent, -RESEND_INTERVAL_S) < RESEND_INTERVAL_S:
            return
        self._asked[agent] = now
        self._metrics.resends.inc()
        self._begin()
        self._waiting[agent] = (head, True)

    def _begin(self) -> None:
        if not self._waiting:
            self._since = self._clock.monotonic()
        self._wake.set()

    def close(self) -> None:
        """`run` sends what waits and returns."""
        self._closed = True
        self._wake.set()

    async def run(self) -> None:
        """Say what is to be said, until closed."""
        while True:
            now = self._clock.monotonic()
            hurried = self._others_wait() and now - self._since < PATIENCE_S
            due = {
                agent: self._waiting.pop(agent)
                for agent in ([] if hurried and not self._closed else list(self._waiting))
                if self._closed or now - self._sent.get(agent, -INTERVAL_S) >= INTERVAL_S
            }
            if due:
                self._sent.update(dict.fromkeys(due, now))
                await self._say(due)
            elif self._waiting:
                await asyncio.sleep(INTERVAL_S / 4)
            elif self._closed:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _say(self, due: dict[str, tuple[Head, bool]]) -> None:
        loop = asyncio.get_running_loop()
        words = list(due.items())
        for start in range(0, len(words), _AT_ONCE):
            some = words[start : start + _AT_ONCE]
            signed = await loop.run_in_executor(self._executor, self._sign, some)
            said = (
                self._publish(down(self._site, agent, ACKNOWLEDGEMENT), envelope)
                for agent, envelope in signed
            )
            results = await asyncio.gather(*said, return_exceptions=True)
            for result in results:
                if isinstance(result, ConnectionError):
                    log.debug("acknowledgement_not_sent", why=str(result))
                elif isinstance(result, BaseException):
                    raise result

    def _sign(self, words: list[tuple[str, tuple[Head, bool]]]) -> list[tuple[str, bytes]]:
        issued = self._clock.now()
        return [
            (
                agent,
                sign_statement(
                    Acknowledgement(
                        site=self._site,
                        audience=agent,
                        issued=issued,
                        counter=head.sequence,
                        chain=head.chain,
                        sequence=head.sequence,
                        hash=head.hash,
                        resend=resend,
                    ),
                    self._signer,
                ),
            )
            for agent, (head, resend) in words
        ]
