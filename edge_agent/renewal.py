"""The next TLS certificate: asked for over the link when two thirds of this one's time are over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from aiomqtt import MqttError

from edge_agent.clock import Clock
from edge_agent.log import log
from edge_agent.neighbours import Say
from edge_agent.tls import TlsIdentity
from schemas.enrolment import Certificate, Renewal
from schemas.envelope import Signer
from schemas.errors import Replayed
from schemas.names import SERVER
from schemas.root import Root
from schemas.statement import sign_statement
from schemas.topics import RENEWAL

LOOK_S = 3600.0
"""How often the certificate's age is looked at, and an unanswered request repeated."""
_ASK_EARLY_S = 60.0


class Renewals:
    """Keeps the certificate of `identity` young. Without one, as in tests, it does nothing."""

    def __init__(
        self,
        identity: TlsIdentity,
        agent: str,
        signer: Signer,
        root: Callable[[], Root],
        clock: Clock,
    ) -> None:
        self._identity, self._agent, self._signer = identity, agent, signer
        self._root, self._clock = root, clock
        self._until = identity.until

    @property
    def certificate_until(self) -> datetime | None:
        """End of the TLS certificate in use; None without TLS."""
        return self._until

    async def renewed(self, certificate: Certificate) -> None:
        """Keep a certificate whose signature, audience and time were verified; durable on return.

        The next connection uses it. Raises Replayed for one that is not newer than the one in use,
        and what `TlsIdentity.take` raises.
        """
        if self._until is not None and certificate.until <= self._until:
            raise Replayed("the certificate is no newer than the one in use")
        self._until = await asyncio.to_thread(
            self._identity.take, certificate.certificate, self._agent, self._root()
        )
        log.info("certificate_renewed", until=self._until.isoformat())

    def due(self, now: datetime) -> bool:
        """Whether it is time to ask."""
        certificate = self._identity.certificate()
        if certificate is None:
            return False
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return now >= begin + (end - begin) * 2 / 3

    async def run(self, say: Say) -> None:
        """Ask whenever it is due, until cancelled."""
        pause_s = _ASK_EARLY_S  # just started: the link needs a moment
        while True:
            await asyncio.sleep(pause_s)
            pause_s = LOOK_S
            if not self.due(self._clock.now()):
                continue
            try:
                await say(RENEWAL, await asyncio.to_thread(self.request))
            except (ConnectionError, MqttError) as error:
                pause_s = _ASK_EARLY_S
                log.warning("renewal_not_asked", why=str(error))

    def request(self) -> bytes:
        """The signed request."""
        now = self._clock.now()
        statement = Renewal(
            site=self._root().site,
            audience=SERVER,
            issued=now,
            expires=now + timedelta(hours=1),
            counter=0,
            csr=self._identity.request(self._agent),
        )
        return sign_statement(statement, self._signer)
