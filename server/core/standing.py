"""What an agent should have, says it has, and has given a receipt for: compared. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.versions import LogHead, Version
from server.ingest.receipts import Applied

Part = Literal["root", "policy", "revocation", "lockdown"]


@dataclass(frozen=True)
class Desired:
    """The newest of everything, as the agent's heartbeat names it."""

    root: int
    policy: Version | None
    revocation: LogHead
    lockdown: int


def behind(desired: Desired, applied: Applied | None) -> tuple[Part, ...]:
    """The parts for whose newest version no receipt is in hand.

    A receipt for a version with another hash is none. The first root document and the empty log
    need none: an agent has them from its enrolment.
    """
    done = applied or Applied("")
    parts: list[Part] = []
    if desired.root > 1 and done.root != desired.root:
        parts.append("root")
    policy = desired.policy
    if policy is not None and (done.policy, done.policy_hash) != (policy.version, policy.hash):
        parts.append("policy")
    log = desired.revocation
    if log.sequence and (done.revocation, done.revocation_hash) != (log.sequence, log.hash):
        parts.append("revocation")
    if desired.lockdown and done.lockdown != desired.lockdown:
        parts.append("lockdown")
    return tuple(parts)


def contradicts(desired: Desired, applied: Applied) -> str | None:
    """What is wrong with a receipt, for a person: a version the server knows by another hash.

    Only the newest versions are compared: of older ones the hashes are not kept.
    """
    policy, log = desired.policy, desired.revocation
    if (
        policy is not None
        and applied.policy == policy.version
        and applied.policy_hash != policy.hash
    ):
        return f"policy {policy.version} was applied with hash {applied.policy_hash[:16]}"
    if applied.revocation == log.sequence and applied.revocation_hash != log.hash:
        return f"revocation {log.sequence} was applied with hash {applied.revocation_hash[:16]}"
    return None
