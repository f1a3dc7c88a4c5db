"""What shuts people out though the disk did not take it: in force from memory until it does.

A restart forgets it; the next heartbeat names it, and it is pulled.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from schemas.lockdown import Lockdown
from schemas.revocation import Denied, RevokedKind


class OnlyInMemory(sqlite3.OperationalError):
    """Verified and in force, but a restart forgets it. To be written again (`TrustStore.save`)."""


@dataclass(frozen=True)
class Unsaved:
    """Never changed, but replaced: it is read on another thread than it is made."""

    denied: Mapping[tuple[RevokedKind, str], Denied] = field(default_factory=dict)
    """The latest denial of each subject."""
    lockdowns: tuple[Lockdown, ...] = ()
    """Those from before what is unsaved. They go on: that they end counts once it is on disk."""

    def with_denied(self, denied: Iterable[Denied]) -> Unsaved:
        """And these, too."""
        union = dict(self.denied)
        for each in denied:
            held = union.get((each.kind, each.subject))
            if held is None or each.sequence > held.sequence:
                union[each.kind, each.subject] = each
        return replace(self, denied=union)

    def with_lockdowns(self, in_force: tuple[Lockdown, ...]) -> Unsaved:
        """And none of these ends."""
        return replace(self, lockdowns=in_force)

    def lockdowns_with(self, active: tuple[Lockdown, ...]) -> tuple[Lockdown, ...]:
        """What is in force when the newest statement says `active`."""
        return active + tuple(each for each in self.lockdowns if each not in active)
