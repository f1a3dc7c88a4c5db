"""Key packages for agents that ask: made in turn, signed by the `keys` role, sent to one agent.

An agent has one ESAM challenge at a time and so one request that matters, the newest. Many that
wait are answered together. What is refused is an alarm: no honest agent asks for what is not its
own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import structlog
from prometheus_client import CollectorRegistry, Counter

from schemas.envelope import Signer
from schemas.keys import KeyPackage, KeyRequest
from schemas.statement import sign_statement
from schemas.topics import KEYS, down
from server.clock import Clock
from server.core.allowance import Allowance
from server.core.clones import Clones, Sighting
from server.distribution.publish import Publish
from server.ingest.verify import AlarmKind, Refusal
from server.keys.home import HomeUnavailable
from server.keys.issuing import Asked, Issuer
from server.store.database import DATABASE_ERRORS

BURST, RATE_S = 64.0, 0.5
"""Packages of one agent: each is an event for ever. Staging a version of a domain takes one."""
BATCH = 64
"""Answered by one transaction, at most."""


log = structlog.get_logger(__name__)


class KeyRequests:
    """`asked` what the inbox verified; `run` answers."""

    def __init__(
        self,
        *,
        issuer: Issuer,
        signer: Signer,
        publish: Publish,
        executor: Executor,
        threads: int = 1,
        clock: Clock,
        session: Callable[[str], str | None],
        alarm: Callable[[Refusal], None],
        metrics: CollectorRegistry,
    ) -> None:
        """`signer` holds the role `keys`; `session` gives an agent's present session."""
        self._issuer, self._signer, self._publish = issuer, signer, publish
        self._executor, self._threads, self._clock = executor, threads, clock
        self._session, self._alarm = session, alarm
        self._allowance = Allowance(BURST, RATE_S)
        self._sightings = Clones()
        self._waiting: dict[str, KeyRequest] = {}
        """In order of asking."""
        self._work = asyncio.Event()
        self._sent = Counter(
            "ostiary_key_packages_total", "Key packages made and sent", registry=metrics
        )

    def asked(self, agent: str, request: KeyRequest) -> None:
        """Answer when its turn comes, unless the agent asks anew before."""
        if self._sightings.seen(agent, request.session, request.counter) is Sighting.REPLAY:
            self._refuse(AlarmKind.REPLAYED, agent, f"key request {request.counter} came again")
        elif not self._allowance.spend(agent, self._clock.monotonic()):
            self._refuse(AlarmKind.KEY_REFUSED, agent, f"agent {agent} asks for too many keys")
        else:
            self._waiting.pop(agent, None)
            self._waiting[agent] = request
            self._work.set()

    async def run(self) -> None:
        """Answer, until cancelled."""
        while True:
            while not self._waiting:
                self._work.clear()
                await self._work.wait()
            batch = self._taken()
            agents = [each.agent for each in batch]
            try:
                await self._answer(batch)
            except HomeUnavailable as error:
                self._refuse(AlarmKind.KEY_REFUSED, None, str(error))
            except DATABASE_ERRORS as error:
                log.error("key_packages_not_made", agents=agents, why=str(error)[:500])
            except Exception:  # whatever it is: the other agents get their packages
                log.exception("key_packages_not_made", agents=agents)

    def _taken(self) -> list[Asked]:
        """Those whose turn it is, one of an ESAM: which is whose is not known yet."""
        taken: dict[str, Asked] = {}
        for agent, request in list(self._waiting.items()):
            if len(taken) == BATCH:
                break
            if request.esam not in taken:
                taken[request.esam] = Asked(agent, self._waiting.pop(agent))
        return list(taken.values())

    async def _answer(self, batch: Sequence[Asked]) -> None:
        asked = [each for each in batch if self._is_present(each)]
        if not asked:
            return
        packages: list[KeyPackage] = []
        for each, made in zip(asked, await self._issuer.packages(asked), strict=True):
            if isinstance(made, KeyPackage):
                packages.append(made)
            else:  # what the key authority itself can't do is no agent's fault
                agent = None if isinstance(made, HomeUnavailable) else each.agent
                self._refuse(AlarmKind.KEY_REFUSED, agent, str(made))
        envelopes = await self._signed(packages)
        await asyncio.gather(*map(self._send, packages, envelopes))

    def _is_present(self, asked: Asked) -> bool:
        if asked.request.session == self._session(asked.agent):
            return True
        log.info("key_request_of_another_session", agent=asked.agent, next_step="it asks again")
        return False

    async def _signed(self, packages: Sequence[KeyPackage]) -> list[bytes]:
        loop = asyncio.get_running_loop()
        share = max(1, -(-len(packages) // self._threads))
        parts = await asyncio.gather(
            *(
                loop.run_in_executor(
                    self._executor, _sign_all, packages[start : start + share], self._signer
                )
                for start in range(0, len(packages), share)
            )
        )
        return [envelope for part in parts for envelope in part]

    async def _send(self, package: KeyPackage, envelope: bytes) -> None:
        try:
            await self._publish(down(package.site, package.audience, KEYS), envelope, False)
            self._sent.inc()
        except ConnectionError as error:
            log.info("key_package_not_sent", agent=package.audience, why=str(error))

    def _refuse(self, kind: AlarmKind, agent: str | None, detail: str) -> None:
        self._alarm(Refusal(kind, agent, detail))


def _sign_all(packages: Sequence[KeyPackage], signer: Signer) -> list[bytes]:
    return [sign_statement(package, signer) for package in packages]
