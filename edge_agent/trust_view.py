"""What the doors go by, in memory: which policy, denials and lockdowns are in force.

`trust_store` puts it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlite_utils import Database

from edge_agent.clock import Clock
from edge_agent.core.applied import Applied
from edge_agent.core.door_mode import Override, exempt_groups
from edge_agent.core.freshness import Heard
from edge_agent.core.trusted_state import TrustedState
from edge_agent.lookup import Found, InForce, look_up
from edge_agent.unsaved import Unsaved
from schemas.lockdown import Lockdown


class TrustView:
    """What is read is in memory, but for a card and its denials.

    Those are looked up on the event loop itself: some 50 us, less than another thread may cost.
    """

    def __init__(self, reader: Database, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock
        # The writer's thread assigns these, each after its commit, or with what is unsaved.
        self._saved: TrustedState
        self._state: TrustedState
        self._unsaved = Unsaved()
        self._in_force = InForce()
        self._overrides: Mapping[str, Override] = {}
        self._denied_versions: frozenset[str] = frozenset()
        self._word: Heard | None = None
        self._heard: Heard | None = None

    @property
    def state(self) -> TrustedState:
        """What is believed, and durable."""
        return self._saved

    @property
    def believed(self) -> TrustedState:
        """What the next message is judged by: ahead of `state` while `is_behind`."""
        return self._state

    @property
    def is_behind(self) -> bool:
        """Whether something is in force that the disk has not taken yet."""
        return self._state is not self._saved

    @property
    def applied(self) -> Applied | None:
        """The policy in force; None before the first."""
        return self._in_force.applied

    @property
    def lockdowns(self) -> tuple[Lockdown, ...]:
        """The lockdowns in force, of doors elsewhere too."""
        lockdowns = self._state.lockdowns
        return self._unsaved.lockdowns_with(() if lockdowns is None else lockdowns.active)

    @property
    def overrides(self) -> Mapping[str, Override]:
        """Door -> the mode it was commanded into, ended or not. A restart ends `unlocked`."""
        return self._overrides

    def heartbeat_age_s(self, now: datetime) -> float | None:
        """How old the newest heartbeat is that asks for nothing more; None: there never was one."""
        heard = self._heard
        return None if heard is None else heard.age_s(now, self._clock.monotonic())

    def key_floor(self, domain: str) -> int:
        """The lowest key version that counts in a domain."""
        return self._state.key_floors.get(domain, 1)

    def denied_versions(self, domain: str) -> frozenset[int]:
        """Key versions of a domain that the revocation log denies."""
        parts = (subject.split("/") for subject in self._denied_versions)
        return frozenset(int(version) for name, version in parts if name == domain)

    def locked_down(self) -> tuple[str, ...]:
        """The doors of the policy in force that are locked down."""
        applied = self.applied
        if applied is None:
            return ()
        site, lockdowns = self._state.root.site, self.lockdowns
        return tuple(
            door
            for door, view in applied.doors.items()
            if exempt_groups(site, door, view.settings.areas, lockdowns) is not None
        )

    def find(self, card_id: str | None) -> Found:
        """What policy and revocation log say of `card_id` (16 hex digits).

        Raises PartialBundle if the disk has lost a part of the policy, or sqlite3.Error.
        """
        return look_up(self._reader, self._in_force, self._unsaved, card_id)
