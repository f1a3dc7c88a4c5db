"""The server's word that events are committed: only it lets an agent delete them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.names import ChainId, DigestHex
from schemas.statement import Statement


class Acknowledgement(Statement):
    """Cumulative: every line of `chain` up to `sequence`, whose digest is `hash`, is committed.

    `counter` equals `sequence`: an older acknowledgement that is replayed says nothing new. With
    `resend` it also asks for everything after `sequence` once more, and `sequence` may be 0.
    """

    purpose: Literal["acknowledgement"] = "acknowledgement"
    chain: ChainId
    sequence: int = Field(ge=0, lt=10**20)
    hash: DigestHex = Field(description="digest of the line `sequence`; 64 zeros for 0")
    resend: bool = False
