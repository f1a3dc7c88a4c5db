"""Who may sign what in a site: the document each agent pins, after TUF's root.

https://theupdateframework.github.io/specification/v1.0.33/#file-formats-root

Version N + 1 is signed by the thresholds of both N and N + 1, so the keys can change and nobody
but their holders can change them. It also names the authorities that issue the site's TLS
certificates: what an agent pins at enrolment is all that it needs to trust.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from schemas.chain import EVENTS_TYPE
from schemas.envelope import TrustedKey, open_by_threshold, unverified_payload
from schemas.errors import (
    Equivocation,
    FastForward,
    Rollback,
    SchemaError,
    WrongAudience,
)
from schemas.names import SERVER, DigestHex, PointHex
from schemas.statement import Statement, parse_statement, payload_type
from schemas.suites import SuiteName, keyid, suite

RoleName = Literal["root", "policy", "revoke", "keys", "online"]
ROLE_PURPOSES: dict[RoleName, frozenset[str]] = {
    "root": frozenset({payload_type("root")}),
    "policy": frozenset({payload_type("policy")}),
    "revoke": frozenset({payload_type("revocation"), payload_type("revocation-snapshot")}),
    "keys": frozenset(map(payload_type, ("key-package", "stage-order", "transport-key"))),
    "online": frozenset(
        {
            EVENTS_TYPE,
            *map(
                payload_type,
                ("acknowledgement", "heartbeat", "lockdown", "command", "certificate"),
            ),
        }
    ),
}
"""Which payload types a role's keys may sign. A role can do nothing else."""

AGENT_PURPOSES = frozenset(
    {
        EVENTS_TYPE,
        *map(payload_type, ("report", "pull", "renewal", "key-request", "transport-request")),
    }
)
"""What an agent's own key may sign."""

MAX_ROOT_BYTES = 64 * 1024


class Role(BaseModel):
    """The keys that hold a role, and how many of them must sign."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keyids: tuple[DigestHex, ...] = Field(min_length=1, max_length=16)
    threshold: int = Field(default=1, ge=1, le=16)

    @model_validator(mode="after")
    def _reachable(self) -> Role:
        if len(set(self.keyids)) != len(self.keyids) or self.threshold > len(self.keyids):
            raise ValueError("a role names each key once, and as many as its threshold asks for")
        return self


class Root(Statement):
    """The site's suite, the public keys of its roles, and its TLS authorities.

    `counter` is the version; `audience` is everyone.
    """

    purpose: Literal["root"] = "root"
    audience: Literal["all"] = "all"
    counter: int = Field(ge=1, lt=2**63)
    suite: SuiteName
    keys: dict[DigestHex, PointHex] = Field(description="keyid -> 65-byte public point in hex")
    roles: dict[RoleName, Role]
    authorities: tuple[
        Annotated[str, StringConstraints(pattern=r"^-----BEGIN CERT", max_length=4096)], ...
    ] = Field(default=(), max_length=4, description="PEM certificates TLS is anchored in")

    @property
    def version(self) -> int:
        """Counts the root documents of a site from 1."""
        return self.counter

    @model_validator(mode="after")
    def _whole(self) -> Root:
        lacking = set(ROLE_PURPOSES) - set(self.roles)
        if lacking:
            raise ValueError(f"no keys for the roles {', '.join(sorted(lacking))}")
        missing = {name for role in self.roles.values() for name in role.keyids} - set(self.keys)
        if missing:
            raise ValueError(f"roles name keys that are not there: {sorted(missing)}")
        # The others sign at once and by themselves; a second signature would have nobody to ask.
        several = [n for n, role in self.roles.items() if n != "root" and role.threshold > 1]
        if several:
            raise ValueError(f"only root may have a threshold above 1, not {sorted(several)}")
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
            purposes = [ROLE_PURPOSES[r] for r, role in self.roles.items() if name in role.keyids]
            ring[name] = TrustedKey(key, SERVER, frozenset().union(*purposes))
        return ring


ROOT_TYPE = payload_type("root")


def claim_hash(envelope: bytes) -> str:
    """What a claim code says of the root document: SHA-256 over the whole envelope, in hex.

    SHA-256 in every suite: who reads the code does not know the site's suite yet.
    """
    return hashlib.sha256(envelope).hexdigest()


def open_first_root(envelope: bytes) -> Root:
    """A root document that something else vouches for: a claim code, or the site's own disk.

    Raises SchemaError. It must still be signed by its own threshold.
    """
    # The keys that must have signed stand inside: what is parsed here is only believed below.
    root = parse_statement(unverified_payload(envelope, ROOT_TYPE, max_bytes=MAX_ROOT_BYTES), Root)
    _signed_by(envelope, root)
    return root


def open_next_root(envelope: bytes, current: Root) -> Root:
    """The root document that follows `current`.

    Raises Equivocation, Rollback, FastForward, ThresholdNotMet or another SchemaError. The version
    that is pinned already comes back as it is.
    """
    payload = _signed_by(envelope, current)
    root = parse_statement(payload, Root)
    if root.site != current.site:
        raise WrongAudience(f"root document is of site {root.site}, not {current.site}")
    if root.suite != current.suite:
        raise WrongAudience(f"root document is of suite {root.suite}, not {current.suite}")
    if root.version == current.version:
        if root != current:
            raise Equivocation(f"another root document of version {root.version}")
        return current
    if root.version < current.version:
        raise Rollback(f"root document {root.version} is older than {current.version}")
    if root.version > current.version + 1:
        raise FastForward(f"root document {root.version} does not follow {current.version} by one")
    _signed_by(envelope, root)
    return root


def _signed_by(envelope: bytes, root: Root) -> bytes:
    return open_by_threshold(
        envelope,
        root.key_ring(),
        ROOT_TYPE,
        root.roles["root"].threshold,
        max_bytes=MAX_ROOT_BYTES,
    )
