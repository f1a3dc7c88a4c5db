"""Key packages for agents that ask: made in turn, signed by the `keys` role, sent to one agent.

An agent has one ESAM challenge at a time and so one request that matters, the newest. What is
refused is an alarm: no honest agent asks for what is not its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

import structlog

from schemas.envelope import Signer
from schemas.keys import KeyRequest
from schemas.statement import sign_statement
from schemas.topics import KEYS, down
from server.clock import Clock
from server.core.allowance import Allowance
from server.core.clones import Clones, Sighting
from server.distribution.policies import DATABASE_ERRORS
from server.ingest.verify import AlarmKind, Refusal
from server.keys.home import KeysError
from server.keys.issuing import Issuer

BURST, RATE_S = 64.0, 0.5
"""Packages of one agent: each is an event for ever. Staging a version of a domain takes three."""

Publish = Callable[[str, bytes, bool], Awaitable[None]]
"""(topic, payload, retain); raises ConnectionError while there is no broker."""

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
        clock: Clock,
        session: Callable[[str], str | None],
        alarm: Callable[[Refusal], None],
    ) -> None:
        """`signer` holds the role `keys`; `session` gives an agent's present session."""
        self._issuer, self._signer, self._publish = issuer, signer, publish
        self._executor, self._clock = executor, clock
        self._session, self._alarm = session, alarm
        self._allowance = Allowance(BURST, RATE_S)
        self._sightings = Clones()
        self._waiting: dict[str, KeyRequest] = {}
        """In order of asking."""
        self._work = asyncio.Event()

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
            agent = next(iter(self._waiting))
            request = self._waiting.pop(agent)
            try:
                await self._answer(agent, request)
            except KeysError as error:
                self._refuse(AlarmKind.KEY_REFUSED, agent, str(error))
            except ConnectionError as error:
                log.info("key_package_not_sent", agent=agent, why=str(error))
            except DATABASE_ERRORS as error:
                log.error("key_package_not_made", agent=agent, why=str(error)[:500])
            except Exception:  # whatever it is: the other agents get their packages
                log.exception("key_package_not_made", agent=agent)

    async def _answer(self, agent: str, request: KeyRequest) -> None:
        if request.session != self._session(agent):
            log.info("key_request_of_another_session", agent=agent, next_step="it asks again")
            return
        package = await self._issuer.package(request, agent)
        envelope = await asyncio.get_running_loop().run_in_executor(
            self._executor, sign_statement, package, self._signer
        )
        await self._publish(down(package.site, agent, KEYS), envelope, False)

    def _refuse(self, kind: AlarmKind, agent: str, detail: str) -> None:
        self._alarm(Refusal(kind, agent, detail))
