"""How far something got: the two numbers-with-a-hash that statements compare."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from schemas.chain import GENESIS
from schemas.names import DigestHex

MAX_LEAP = 1_000_000
"""A version or sequence that leaps farther than this is a fast-forward attack, not a busy site."""


class Version(BaseModel):
    """One version of a document and the digest of its exact payload bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(ge=1, lt=2**63)
    hash: DigestHex


class LogHead(BaseModel):
    """The last entry of the revocation log and its hash; the empty log is (0, 64 zeros)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: int = Field(default=0, ge=0, lt=2**63)
    hash: DigestHex = GENESIS
