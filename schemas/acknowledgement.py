"""The server's word that events are committed: only it lets an agent delete them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.chain import GENESIS
from schemas.names import ChainId, DigestHex
from schemas.statement import Statement


class Acknowledgement(Statement):
    """Cumulative: every line of `chain` up to `sequence`, whose digest is `hash`, is committed.

    `counter` equals `sequence`: an older acknowledgement that is replayed says nothing new. With
    `resend` it also asks for everything after `sequence` once more, and `sequence` may be 0.
    """

    purpose: Literal["acknowledgement"] = "acknowledgement"
    chain: ChainId
    sequence: int = Field(ge=0, lt=2**63)
    hash: DigestHex = Field(description="digest of the line `sequence`; 64 zeros for 0")
    resend: bool = False

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Acknowledgement:
        if self.counter != self.sequence:
            raise ValueError("counter is not the sequence")
        if (self.sequence == 0) != (self.hash == GENESIS):
            raise ValueError("64 zeros are the hash of sequence 0, and of nothing else")
        return self
