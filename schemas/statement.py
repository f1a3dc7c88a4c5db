"""What every signed statement says of itself, and how a receiver holds it to that.

Events are the exception: they are facts, not orders, and carry their own chain (`chain.py`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from schemas.envelope import KeyRing, Signer, open_envelope, seal_envelope
from schemas.errors import (
    Expired,
    MalformedEnvelope,
    WrongAudience,
    WrongPurpose,
    first_problem,
)
from schemas.names import EVERYONE, Name

CLOCK_TOLERANCE = timedelta(minutes=5)


class Statement(BaseModel):
    """Purpose, site, audience, issue and expiry time and counter: common to all statements."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    purpose: str
    site: Name
    audience: Name = Field(description="an agent's id, `server` or `all`")
    issued: AwareDatetime
    expires: AwareDatetime | None = Field(
        default=None, description="none: the counter alone says which statement is the newest"
    )
    counter: int = Field(ge=0, lt=2**63, description="never goes back, per purpose and audience")


S = TypeVar("S", bound=Statement)


def payload_type(purpose: str) -> str:
    """The DSSE payload type of a statement: part of what is signed."""
    return f"application/vnd.ostiary.{purpose}.v1+json"


def sign_statement(statement: Statement, *signers: Signer) -> bytes:
    """The statement in its envelope."""
    payload = statement.model_dump_json().encode()
    return seal_envelope(payload_type(statement.purpose), payload, signers)


def parse_statement(payload: bytes, model: type[S]) -> S:
    """What stands in a payload whose signatures held. Raises MalformedEnvelope or WrongPurpose."""
    purpose: str = model.model_fields["purpose"].default
    try:
        # strict: a time is text and a number a number, as `sign_statement` writes them
        statement = model.model_validate_json(payload, strict=True)
    except ValidationError as error:
        raise MalformedEnvelope(f"{purpose} statement: {first_problem(error)}") from None
    if statement.purpose != purpose:
        raise WrongPurpose(f"statement is a {statement.purpose!r}, not a {purpose!r}")
    return statement


def open_statement(
    data: bytes,
    model: type[S],
    trusted: KeyRing,
    *,
    site: str,
    audience: str,
    now: datetime,
    max_bytes: int = 64 * 1024,
) -> S:
    """The statement in `data`, if it is signed, well formed, for us, and in time.

    Raises what `open_envelope` raises, WrongPurpose, WrongAudience or Expired. The counter is the
    caller's to compare: only it knows the last one.
    """
    purpose: str = model.model_fields["purpose"].default
    opened = open_envelope(data, trusted, payload_type(purpose), max_bytes=max_bytes)
    statement = parse_statement(opened.payload, model)
    if statement.site != site or statement.audience not in (audience, EVERYONE):
        raise WrongAudience(
            f"{purpose} is for {statement.site}/{statement.audience}, not {site}/{audience}"
        )
    if statement.issued > now + CLOCK_TOLERANCE:
        raise Expired(f"{purpose} is issued in the future: {statement.issued.isoformat()}")
    if statement.expires is not None and statement.expires <= now:
        raise Expired(f"{purpose} expired at {statement.expires.isoformat()}")
    return statement
