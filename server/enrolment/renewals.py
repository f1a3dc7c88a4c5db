"""The next TLS certificate of an agent, asked for over its link and sent there."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta

import structlog
from cryptography import x509
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.enrolment import Certificate, Renewal
from schemas.envelope import Signer
from schemas.statement import sign_statement
from schemas.topics import CERTIFICATE, down
from server.clock import Clock, from_microseconds, microseconds
from server.distribution.publish import Publish
from server.pki import CLIENT_DAYS, Authority, BadRequest, requested_key
from server.store.agents import is_agent
from server.store.enrolments import Issued, add_certificate, key_digest, newest_certificate

INTERVAL = timedelta(minutes=10)
"""An agent gets no more than one new certificate in this time, whatever it asks."""
GOOD_FOR = timedelta(days=1)
"""How long the statement may be under way."""


log = structlog.get_logger(__name__)


class Renewals:
    """One for a running server. `signer` is replaced when the online key is."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        site: str,
        authority: Authority,
        signer: Signer,
        publish: Publish,
        clock: Clock,
    ) -> None:
        self._engine, self._site, self._authority = engine, site, authority
        self.signer, self._publish, self._clock = signer, publish, clock
        self._turn = asyncio.Lock()

    async def answer(self, agent: str, renewal: Renewal) -> None:
        """As `grant`; what stands against it is logged, and the agent asks again."""
        try:
            await self.grant(agent, renewal)
        except (BadRequest, SQLAlchemyError, sqlite3.Error, OSError) as error:
            log.warning("renewal_not_granted", agent=agent, why=str(error)[:500])

    async def grant(self, agent: str, renewal: Renewal) -> None:
        """Issue what `agent` asks for in a verified statement, and send it. Raises BadRequest.

        Asked again with the same key, the same certificate goes out again: the first may not have
        arrived. Raises ConnectionError without a broker; the agent then asks again.
        """
        key = requested_key(renewal.csr, agent)
        async with self._turn:
            now = self._clock.now()
            newest = await newest_certificate(self._engine, agent)
            if newest is None:
                raise BadRequest(f"{agent} has no certificate that counts: it enrols instead")
            young = from_microseconds(newest.until_us) - now > timedelta(days=CLIENT_DAYS / 2)
            if newest.key != key_digest(key) or not young:
                if from_microseconds(newest.issued_us) > now - INTERVAL:
                    log.warning("renewal_too_soon", agent=agent)
                    return
                certificate = self._authority.for_client(key, agent, now)
                newest = await self._issue(agent, certificate)
                log.info("certificate_renewed", agent=agent, until=certificate.not_valid_after_utc)
        await self._send(agent, newest)

    async def _issue(self, agent: str, certificate: x509.Certificate) -> Issued:
        async with self._engine.begin() as connection:
            await add_certificate(connection, agent, certificate, self._clock.now())
            if not await is_agent(connection, agent):  # removed since it was heard
                raise BadRequest(f"{agent} is no agent any more")
        issued = await newest_certificate(self._engine, agent)
        assert issued is not None
        return issued

    async def _send(self, agent: str, issued: Issued) -> None:
        now = self._clock.now()
        statement = Certificate(
            site=self._site,
            audience=agent,
            issued=now,
            expires=now + GOOD_FOR,
            counter=microseconds(now),
            certificate=issued.pem,
            until=from_microseconds(issued.until_us),
        )
        envelope = await asyncio.to_thread(sign_statement, statement, self.signer)
        await self._publish(down(self._site, agent, CERTIFICATE), envelope, False)
