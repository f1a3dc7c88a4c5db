"""Claims and requests, and certificates: the rows, and what moves them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from server.clock import from_microseconds, microseconds
from server.pki import Revoked, pem_of
from server.store.identity_tables import announced_chains, certificates, enrolments
from server.store.tables import chains

REQUEST_HOURS = 24
"""A request that nobody approved so long is void."""


@dataclass(frozen=True)
class Standing:
    """The newest claim for an agent, and what became of it."""

    agent: str
    secret_hash: str
    root_hash: str
    claimed_by: str
    expires_us: int
    state: str
    """`open`, `pending`, `approved` or `refused`."""
    keyid: str | None = None
    point: bytes | None = None
    chain: str | None = None
    csr: str | None = None
    received_us: int | None = None
    rival: str | None = None
    """The key of another device that came with the same claim."""
    certificate: str | None = None
    detail: str | None = None

    def lapsed(self, now: datetime) -> bool:
        """Whether the claim was not used, or its request not approved, in time."""
        if self.state == "open":
            return microseconds(now) >= self.expires_us
        oldest = microseconds(now - timedelta(hours=REQUEST_HOURS))
        return (
            self.state == "pending" and self.received_us is not None and self.received_us < oldest
        )


async def standing_of(db: AsyncEngine, agent: str) -> Standing | None:
    """By the agent's name."""
    return await _one(db, enrolments.c.agent == agent)


async def standing_by_secret(db: AsyncEngine, secret_hash: str) -> Standing | None:
    """By the claim's secret."""
    return await _one(db, enrolments.c.secret_hash == secret_hash)


async def list_standings(db: AsyncEngine) -> list[Standing]:
    """Of all agents, by name."""
    async with db.connect() as connection:
        rows = await connection.execute(select(enrolments).order_by(enrolments.c.agent))
        return [Standing(*row) for row in rows]


async def _one(db: AsyncEngine, where: object) -> Standing | None:
    async with db.connect() as connection:
        query = select(enrolments).where(where)  # type: ignore[arg-type]
        row = (await connection.execute(query)).one_or_none()
        return None if row is None else Standing(*row)


async def put_claim(connection: AsyncConnection, claim: Standing) -> None:
    """A new claim; an earlier one for the agent is void from now on."""
    await forget_claim(connection, claim.agent)
    await connection.execute(insert(enrolments).values(vars(claim)))


async def forget_claim(connection: AsyncConnection, agent: str) -> bool:
    """Whether there was one."""
    gone = await connection.execute(delete(enrolments).where(enrolments.c.agent == agent))
    return bool(gone.rowcount)


async def move_on(
    connection: AsyncConnection, agent: str, secret_hash: str, before: str, **values: object
) -> bool:
    """Change a claim that is in state `before`; False if it is not, or not any more."""
    changed = await connection.execute(
        update(enrolments)
        .where(
            enrolments.c.agent == agent,
            enrolments.c.secret_hash == secret_hash,
            enrolments.c.state == before,
        )
        .values(values)
    )
    return bool(changed.rowcount)


async def note_rival(connection: AsyncConnection, agent: str, keyid: str) -> bool:
    """Remember the first other device that came with a claim; False if one was remembered."""
    changed = await connection.execute(
        update(enrolments)
        .where(enrolments.c.agent == agent, enrolments.c.rival.is_(None))
        .values(rival=keyid)
    )
    return bool(changed.rowcount)


async def foretell_chain(connection: AsyncConnection, agent: str, chain: str) -> None:
    """The agent will begin this event chain: that is no surprise then."""
    ours = (announced_chains.c.agent == agent) & (announced_chains.c.chain == chain)
    await connection.execute(delete(announced_chains).where(ours))
    await connection.execute(insert(announced_chains).values(agent=agent, chain=chain))


async def chain_is_taken(db: AsyncEngine, agent: str, chain: str) -> bool:
    """Whether events stand in the chain, or another agent than this one foretold it."""
    begun = select(chains.c.source).where(chains.c.chain == chain)
    foretold = select(announced_chains.c.agent).where(
        announced_chains.c.chain == chain, announced_chains.c.agent != agent
    )
    async with db.connect() as connection:
        return bool(await connection.scalar(begun) or await connection.scalar(foretold))


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """By which a certificate's key is known."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


async def add_certificate(
    connection: AsyncConnection, agent: str, certificate: x509.Certificate, now: datetime
) -> str:
    """Remember that it was issued, and return it as PEM."""
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    pem = pem_of(certificate)
    await connection.execute(
        insert(certificates).values(
            serial=f"{certificate.serial_number:x}",
            agent=agent,
            key=key_digest(key),
            pem=pem,
            issued_us=microseconds(now),
            until_us=microseconds(certificate.not_valid_after_utc),
        )
    )
    return pem


async def revoke_certificates(connection: AsyncConnection, agent: str, now_us: int) -> None:
    """All that were issued to the agent."""
    await connection.execute(
        update(certificates)
        .where(certificates.c.agent == agent, certificates.c.revoked_us.is_(None))
        .values(revoked_us=now_us)
    )


async def revoked_certificates(db: AsyncEngine, now_us: int) -> Sequence[Revoked]:
    """Those that would still count otherwise."""
    query = select(certificates.c.serial, certificates.c.revoked_us).where(
        certificates.c.revoked_us.is_not(None), certificates.c.until_us > now_us
    )
    async with db.connect() as connection:
        rows = await connection.execute(query)
        return [Revoked(int(row.serial, 16), from_microseconds(row.revoked_us)) for row in rows]


@dataclass(frozen=True)
class Issued:
    """A certificate as it was issued."""

    key: str
    pem: str
    issued_us: int
    until_us: int


async def newest_certificates(db: AsyncEngine) -> dict[str, Issued]:
    """Of each agent the one issued last that counts."""
    async with db.connect() as connection:
        rows = await connection.execute(
            select(certificates)
            .where(certificates.c.revoked_us.is_(None))
            .order_by(certificates.c.issued_us)
        )
        return {r.agent: Issued(r.key, r.pem, r.issued_us, r.until_us) for r in rows}


async def newest_certificate(db: AsyncEngine, agent: str) -> Issued | None:
    """The one issued last to the agent that counts."""
    query = (
        select(certificates)
        .where(certificates.c.agent == agent, certificates.c.revoked_us.is_(None))
        .order_by(certificates.c.issued_us.desc())
        .limit(1)
    )
    async with db.connect() as connection:
        row = (await connection.execute(query)).one_or_none()
        return None if row is None else Issued(row.key, row.pem, row.issued_us, row.until_us)
