"""What an operator is shown of one lock in a rotation. Pure."""

from __future__ import annotations

from typing import Literal

from server.core.rotation import Campaign, Domain, Lock

VersionState = Literal["absent", "staged", "active", "accept_only", "retired", "destroyed"]


def version_state(
    lock: Lock, version: int, domain: Domain, *, destroyed: bool = False
) -> VersionState:
    """A version at a lock, as the lock last said; `destroyed`: the authority has it no more.

    `absent`: it has not all of its keys, or others. `staged`: it has them, and no door asks for
    them yet. `retired`: doors ask for a later one only, or it is erased.
    """
    picture = lock.picture
    if picture is None:
        return "absent"
    if version < picture.floor:
        return "destroyed" if destroyed else "retired"
    if not lock.has(version, domain.checks.get(version)):
        return "absent"
    if version == picture.preferred:
        return "active"
    if version in picture.accepted:
        return "accept_only"
    return "retired" if version < picture.preferred else "staged"


def waits_for(campaign: Campaign, lock: Lock, domain: Domain) -> str:
    """Why the campaign can't go on because of this lock; empty: it can."""
    if lock.quarantined or campaign.ended or campaign.standing == "planned":
        return ""
    missing = _missing(campaign, lock, domain)
    if not missing:
        return ""
    if lock.refusal:
        return f"{missing}; it refused: {lock.refusal}"
    if lock.reachable:
        return missing
    away = f"{missing}, and it can't be reached"
    if campaign.state == "staging" and lock.wave == campaign.wave == 0:
        return f"{away}: it is the first, and the others wait for it, or for its quarantine"
    return away


def _missing(campaign: Campaign, lock: Lock, domain: Domain) -> str:
    new, where = campaign.to_version, campaign.standing
    if not lock.has(new, domain.checks.get(new)):
        if where in ("staging", "staged") and lock.wave > campaign.wave:
            return f"its turn to get version {new} comes later"
        return f"it has no keys of version {new}"
    picture = lock.picture
    if where != "retiring" or picture is None:
        return ""
    if picture.preferred != new or (picture.accepted and not domain.accepted):
        return f"its doors still ask for version {campaign.from_version}"
    if not campaign.goes_back and picture.floor < new and domain.floor >= new:
        return f"it has not erased version {campaign.from_version}"
    return ""
