"""Who may sign what in a site: the document each agent pins."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.chain import EVENTS_TYPE
from schemas.envelope import TrustedKey
from schemas.errors import SchemaError
from schemas.names import SERVER, DigestHex, Name, PointHex
from schemas.statement import payload_type
from schemas.suites import SuiteName, keyid, suite

ROLE_PURPOSES = {
    "policy": frozenset({payload_type("policy")}),
    "online": frozenset({payload_type("acknowledgement"), EVENTS_TYPE}),
}
"""Which payload types a role's keys may sign. A role can do nothing else."""


class Root(BaseModel):
    """The site's suite and the public keys of its roles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: Name
    version: int = Field(ge=1)
    suite: SuiteName
    keys: dict[DigestHex, PointHex] = Field(description="keyid -> 65-byte public point in hex")
    roles: dict[str, list[DigestHex]] = Field(description="role -> keyids that hold it")

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, roles: dict[str, list[str]]) -> dict[str, list[str]]:
        unknown = set(roles) - set(ROLE_PURPOSES)
        if unknown:
            raise ValueError(f"unknown roles: {', '.join(sorted(unknown))}")
        return roles

    @model_validator(mode="after")
    def _holders_have_keys(self) -> Root:
        missing = {name for holders in self.roles.values() for name in holders} - set(self.keys)
        if missing:
            raise ValueError(f"roles name keys that are not there: {sorted(missing)}")
        return self

    def key_ring(self) -> dict[str, TrustedKey]:
        """What this document lets each key sign.

        Raises SchemaError if a key is malformed or is named by another id than its own.
        """
        ring: dict[str, TrustedKey] = {}
        for name, point in self.keys.items():
            key = suite(self.suite).public_key(bytes.fromhex(point))
            if keyid(key) != name:
                raise SchemaError(f"root document: key {name} has another id")
            purposes = [ROLE_PURPOSES[r] for r, holders in self.roles.items() if name in holders]
            ring[name] = TrustedKey(key, SERVER, frozenset().union(*purposes))
        return ring
