"""What devices hear that come to enrol: of a claim, to whoever knows its secret, and no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.enrolment import CLAIM_MINUTES, EnrolmentAnswer, fingerprint
from schemas.events import agent_subject
from schemas.root import claim_hash
from schemas.server_event_data import AlarmRaised
from server.clock import Clock, microseconds
from server.enrolment.requests import Applicant, open_request
from server.ingest.registry import Registry
from server.pki import BadRequest
from server.site import Site
from server.store.announcements import announce
from server.store.enrolments import (
    REQUEST_HOURS,
    Standing,
    chain_is_taken,
    move_on,
    note_rival,
    standing_by_secret,
)

log = structlog.get_logger(__name__)


class Turned(Exception):
    """A device that is turned away, with an HTTP status; the detail says only what it may know."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True)
class Reached:
    """Where devices reach the server: its name, the enrolment port, and the broker's address."""

    host: str
    port: int
    broker: str
    """mqtts://host:port"""


class Reception:
    """One for a running server. `site` is replaced when a new root document is published."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        site: Site,
        registry: Registry,
        reached: Reached,
        clock: Clock,
        announced: Callable[[], None],
    ) -> None:
        self._engine, self.site, self._registry = engine, site, registry
        self._reached, self._clock, self._announced = reached, clock, announced

    async def receive(self, secret: bytes, envelope: bytes) -> EnrolmentAnswer:
        """A device's request, or its question what became of it. Raises Turned.

        Who does not know a secret learns nothing: neither who is awaited nor who came.
        """
        standing = await standing_by_secret(self._engine, hash_of(secret))
        if standing is None:
            raise Turned(403, "no such claim: it was mistyped, replaced by a newer one, or is over")
        if standing.state == "open" and standing.lapsed(self._clock.now()):
            raise Turned(410, f"the claim was good for {CLAIM_MINUTES} minutes: ask for a new one")
        if standing.root_hash != claim_hash(self.site.root_envelope) and standing.state == "open":
            raise Turned(410, "the site has new keys since the claim was made: ask for a new one")
        try:
            applicant = open_request(
                envelope, site=self.site.name, suite=self.site.suite, agent=standing.agent
            )
        except BadRequest as error:
            raise Turned(400, str(error)) from None
        if standing.state == "open":
            standing = await self._accept(standing, applicant)
        if standing.keyid != applicant.keyid:
            await self._contested(standing, applicant)
            raise Turned(
                409,
                "another device used this claim before. If it was not this one, someone else has"
                " the code: tell the operator to refuse the request",
            )
        return self._answer(standing)

    async def _accept(self, standing: Standing, applicant: Applicant) -> Standing:
        """Take the first request that comes with a claim; a later one finds this one."""
        agent = standing.agent
        await self._check_new(agent, applicant)
        async with self._engine.begin() as connection:
            first = await move_on(
                connection,
                agent,
                standing.secret_hash,
                "open",
                state="pending",
                keyid=applicant.keyid,
                point=applicant.point,
                chain=applicant.chain,
                csr=applicant.csr,
                received_us=microseconds(self._clock.now()),
            )
        if first:
            log.info("enrolment_requested", agent=agent, keyid=applicant.keyid)
        found = await standing_by_secret(self._engine, standing.secret_hash)
        if found is None:
            raise Turned(403, "the claim was replaced by a newer one just now")
        return found

    async def _check_new(self, agent: str, applicant: Applicant) -> None:
        if applicant.keyid in self.site.root.keys or applicant.keyid in self._registry.ring:
            raise Turned(400, "the key is in use: a device makes keys of its own")
        if await chain_is_taken(self._engine, agent, applicant.chain):
            raise Turned(400, "the event chain is known: enrol with an empty state directory")

    async def _contested(self, standing: Standing, applicant: Applicant) -> None:
        detail = (
            f"a second device came with the claim for {standing.agent}: {applicant.keyid[:32]},"
            f" after {(standing.keyid or '')[:32]}"
        )
        now_us = microseconds(self._clock.now())
        alarm = AlarmRaised(kind="claim_contested", agent=standing.agent, detail=detail)
        async with self._engine.begin() as connection:
            if not await note_rival(connection, standing.agent, applicant.keyid):
                return
            subject = agent_subject(standing.agent)
            await announce(connection, "alarm.raised", subject, alarm, now_us)
        self._announced()

    def _answer(self, standing: Standing) -> EnrolmentAnswer:
        print_ = fingerprint(standing.keyid or "")
        if standing.lapsed(self._clock.now()):
            detail = f"nobody approved the request within {REQUEST_HOURS} hours"
            return EnrolmentAnswer(state="refused", fingerprint=print_, detail=detail)
        if standing.state == "approved":
            return EnrolmentAnswer(
                state="approved",
                fingerprint=print_,
                certificate=standing.certificate,
                broker=self._reached.broker,
            )
        state: Literal["pending", "refused"] = "pending"
        if standing.state == "refused":
            state = "refused"
        return EnrolmentAnswer(state=state, fingerprint=print_, detail=standing.detail)


def hash_of(secret: bytes) -> str:
    """What is stored of a claim: 120 random bits need no slow hash."""
    return sha256(secret).hexdigest()
