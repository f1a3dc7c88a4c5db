"""From claim to agent and back: what operators decide.

Durable first: each step is one transaction, with the event that tells of it; only then do the
registry, the revocation list and the broker follow. A kill in between is made good at the next
start, from the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.enrolment import CLAIM_MINUTES, SECRET_BYTES, Claim, fingerprint
from schemas.events import agent_subject
from schemas.names import AgentId
from schemas.root import claim_hash
from schemas.server_event_data import AgentEnrolment
from schemas.suites import RandomBytes
from server.broker.grants import refuse_reserved
from server.broker.rights import Rights
from server.clock import Clock, microseconds
from server.enrolment.reception import Reached, hash_of
from server.files import write_durably
from server.ingest.registry import Registry
from server.pki import Authority, BadRequest
from server.site import Site
from server.store.agents import AgentExists, insert_agent, list_agents, retire_agent
from server.store.announcements import announce
from server.store.counters import forget_commands
from server.store.enrolments import (
    REQUEST_HOURS,
    Standing,
    add_certificate,
    foretell_chain,
    forget_claim,
    list_standings,
    move_on,
    put_claim,
    revoke_certificates,
    revoked_certificates,
    standing_of,
)

CRL_FILE = "crl.pem"
_CRL_INTERVAL_S = 24 * 3600.0

log = structlog.get_logger(__name__)


class NotPossible(Exception):
    """An operator's wish that can't be fulfilled as things stand; the message says why."""


class NoSuchAgent(NotPossible):
    """There is neither an agent of this name nor a claim for one."""


@dataclass(frozen=True)
class NewClaim:
    """A claim code to be carried to the device."""

    claim: Claim
    expires: datetime


class Enrolments:
    """One for a running server. `site` is replaced when a new root document is published."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        site: Site,
        authority: Authority,
        registry: Registry,
        rights: Rights,
        reached: Reached,
        clock: Clock,
        random: RandomBytes,
        announced: Callable[[], None],
        came: Callable[[str], None],
        went: Callable[[str], None],
    ) -> None:
        """`came` and `went` tell the rest of the server of an agent that is new or gone."""
        self._engine, self.site, self._authority = engine, site, authority
        self._registry, self._rights, self._reached = registry, rights, reached
        self._clock, self._random = clock, random
        self._announced, self._came, self._went = announced, came, went
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Keep the revocation list young, until cancelled."""
        while True:
            await self.write_crl()
            await asyncio.sleep(_CRL_INTERVAL_S)

    async def write_crl(self) -> None:
        """Put the list of certificates that count no more where the broker reads it."""
        now = self._clock.now()
        revoked = await revoked_certificates(self._engine, microseconds(now))
        crl = self._authority.crl(revoked, now)
        file = self.site.path / CRL_FILE
        await asyncio.to_thread(write_durably, file, crl, mode=0o644)

    async def claim(self, agent: str, by: str, *, again: bool = False) -> NewClaim:
        """A new claim code; an earlier one for the agent is void. Raises NotPossible.

        `again` for one that is enrolled: it stays what it is until the new request is approved.
        """
        try:
            TypeAdapter(AgentId).validate_python(agent)
            refuse_reserved(self.site.name, agent)
        except (ValidationError, ValueError):
            raise NotPossible(
                f"{agent[:63]!r} can't be an agent's name: use up to 63 of a-z, 0-9 and inner"
                " hyphens, and no name of the server's own"
            ) from None
        if not again and agent in {known.id for known in await list_agents(self._engine)}:
            raise NotPossible(
                f"{agent} is enrolled: to give it new keys, claim it again with --re-enrol"
            )
        secret, now = self._random(SECRET_BYTES), self._clock.now()
        root = claim_hash(self.site.root_envelope)
        expires = now + timedelta(minutes=CLAIM_MINUTES)
        row = Standing(
            agent=agent,
            secret_hash=hash_of(secret),
            root_hash=root,
            claimed_by=by,
            expires_us=microseconds(expires),
            state="open",
        )
        async with self._turn, self._engine.begin() as connection:
            await put_claim(connection, row)
            await self._say(connection, "agent.claimed", agent, by, None)
        self._announced()
        reached = self._reached
        claim = Claim(host=reached.host, port=reached.port, agent=agent, secret=secret, root=root)
        return NewClaim(claim, expires)

    async def standings(self) -> list[Standing]:
        """The newest claim of each agent."""
        return await list_standings(self._engine)

    async def approve(self, agent: str, keyid: str, by: str) -> None:
        """Make the device with this key the agent. Raises NotPossible.

        An agent of that name loses its old key and certificates in the same transaction.
        """
        async with self._turn:
            standing, now = await self._pending(agent, keyid), self._clock.now()
            assert standing.point is not None
            try:
                certificate = self._authority.client(standing.csr or "", agent, now)
                async with self._engine.begin() as connection:
                    before = await self._take_over(connection, standing, by)
                    pem = await add_certificate(connection, agent, certificate, now)
                    if not await move_on(
                        connection,
                        agent,
                        standing.secret_hash,
                        "pending",
                        state="approved",
                        certificate=pem,
                    ):
                        raise NotPossible(f"the request of {agent} is not there any more")
            except (AgentExists, BadRequest) as error:
                raise NotPossible(str(error)) from None
            await self._registry.refresh(now=True)
            if before:
                self._went(agent)
                await self.write_crl()
                await self._told_broker("expel", agent)
            await self._told_broker("admit", agent)
        self._came(agent)
        self._announced()
        log.info("agent_enrolled", agent=agent, keyid=keyid, by=by)

    async def refuse(self, agent: str, by: str) -> None:
        """Turn the device away that waits. Raises NotPossible."""
        async with self._turn:
            standing = await self._pending(agent, None)
            async with self._engine.begin() as connection:
                detail = "the operator refused the request"
                secret = standing.secret_hash
                moved = await move_on(
                    connection, agent, secret, "pending", state="refused", detail=detail
                )
                if not moved:
                    raise NotPossible(f"the request of {agent} is not there any more")
        log.info("agent_refused", agent=agent, keyid=standing.keyid, by=by)

    async def remove(self, agent: str, by: str) -> None:
        """Cut the agent off, now: nothing it signs counts any more. Raises NoSuchAgent.

        A claim or request under its name is void as well.
        """
        async with self._turn:
            now_us = microseconds(self._clock.now())
            async with self._engine.begin() as connection:
                claimed = await forget_claim(connection, agent)
                gone = await retire_agent(connection, agent)
                if gone is None and not claimed:
                    raise NoSuchAgent(f"there is no agent {agent[:63]!r}, and no claim for one")
                await revoke_certificates(connection, agent, now_us)
                await self._say(
                    connection, "agent.removed", agent, by, gone.keyid if gone else None
                )
            self._registry.expel(agent)
            self._went(agent)
            await self._told_broker("expel", agent)
            await self.write_crl()
        self._announced()
        log.info("agent_removed", agent=agent, by=by)

    async def _take_over(self, connection: AsyncConnection, standing: Standing, by: str) -> bool:
        """Let the new key count; True if it takes the place of another."""
        agent, now_us = standing.agent, microseconds(self._clock.now())
        assert standing.point is not None
        before = await retire_agent(connection, agent)
        await revoke_certificates(connection, agent, now_us)
        await forget_commands(connection, agent)
        await insert_agent(connection, agent, self.site.suite, standing.point, now_us)
        await foretell_chain(connection, agent, standing.chain or "")
        await self._say(connection, "agent.enrolled", agent, by, standing.keyid)
        return before is not None

    async def _pending(self, agent: str, keyid: str | None) -> Standing:
        standing = await standing_of(self._engine, agent)
        if standing is None or standing.state != "pending":
            raise NotPossible(f"no device waits to be approved as {agent[:63]!r}")
        if keyid is not None and standing.keyid != keyid:
            raise NotPossible(
                f"the device that waits as {agent} has another fingerprint: "
                f"{fingerprint(standing.keyid or '')}"
            )
        if keyid is not None and standing.lapsed(self._clock.now()):
            raise NotPossible(
                f"the request of {agent} is older than {REQUEST_HOURS} hours: claim it again"
            )
        return standing

    async def _told_broker(self, what: str, agent: str) -> None:
        try:
            await (self._rights.expel if what == "expel" else self._rights.admit)(agent)
        except ConnectionError as error:
            # what it signs counts no more, or already; the broker follows when it is back
            log.warning("broker_not_told", what=what, agent=agent, why=str(error))

    async def _say(
        self, connection: AsyncConnection, name: str, agent: str, by: str, keyid: str | None
    ) -> None:
        data = AgentEnrolment(by=by, agent=agent, keyid=keyid)
        now_us = microseconds(self._clock.now())
        await announce(connection, name, agent_subject(agent), data, now_us)
