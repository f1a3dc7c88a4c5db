"""What each agent has applied, by its own signed receipts: a projection of its events. Pure.

Only receipts count here, never what an agent merely reports: an event is stored for ever, in the
agent's own chain, and proves itself to anyone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from schemas.chain import GENESIS
from schemas.event_data import LockdownApplied, PolicyApplied, RevocationApplied, RootApplied
from schemas.events import EVENT_DATA, EventLine, event_name
from server.clock import microseconds


@dataclass(frozen=True, slots=True)
class Applied:
    """One row of `applied`: the newest receipts of one agent, and when it signed the last."""

    agent: str
    root: int = 0
    policy: int = 0
    policy_hash: str = GENESIS
    revocation: int = 0
    revocation_hash: str = GENESIS
    lockdown: int = 0
    time_us: int = 0


RECEIPTS = frozenset({"root.applied", "policy.applied", "revocation.applied", "lockdown.applied"})


def project(before: Applied | None, agent: str, event: EventLine) -> Applied | None:
    """What the agent has applied after `event`; None if that changes nothing.

    An agent whose state was lost starts lower again: the newest receipt counts, not the highest.
    """
    name = event_name(event.type)
    if name not in RECEIPTS:
        return None
    try:
        data = EVENT_DATA[name].model_validate(event.data)
    except ValidationError:
        return None  # a newer agent's receipt, or nonsense: neither says anything we can rely on
    match data:
        case RootApplied(version=version):
            new: dict[str, Any] = {"root": version}
        case PolicyApplied(policy_version=version, hash=digest):
            new = {"policy": version, "policy_hash": digest}
        case RevocationApplied(sequence=sequence, hash=digest):
            new = {"revocation": sequence, "revocation_hash": digest}
        case LockdownApplied(counter=counter):
            new = {"lockdown": counter}
        case _:
            return None
    return replace(before or Applied(agent), time_us=microseconds(event.time), **new)
