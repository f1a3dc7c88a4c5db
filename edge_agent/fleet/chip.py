"""An imagined ESAM: which keys it was given, and no keys.

It keeps to the rules that count between it and the key authority: a package is opened with its own
control key (`schemas.esam`), a challenge serves once, the floor never goes down, and what was
written stays through a loss of power. It has no secure messaging with a lock, no slots of memory
that wear out, and it forgets keys once it knows their check values, so no card opens by it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from edge_agent.core.key_staging import Holding
from schemas.esam import CHALLENGE_BYTES, KeyPlace, check_values, open_in_esam
from schemas.keys import CheckValues, Item
from schemas.secure_messaging import BadProtection
from schemas.suites import SuiteName, suite

INDEX = 1
"""The place of its one domain."""


@dataclass
class Chip:
    """The chip of one member, for one domain."""

    serial: bytes
    domain: str
    suite: SuiteName
    control_key: bytes = field(repr=False)
    floor: int = 1
    versions: dict[int, CheckValues] = field(default_factory=dict)
    _challenge: bytes | None = None

    @property
    def held(self) -> frozenset[int]:
        """The versions that it has."""
        return frozenset(self.versions)

    @property
    def holding(self) -> Holding:
        """What is read from it."""
        return Holding(self.floor, self.versions)

    def challenge(self) -> bytes:
        """A new one; the one before is worth nothing any more."""
        self._challenge = secrets.token_bytes(CHALLENGE_BYTES)
        return self._challenge

    def write(self, item: Item, version: int, body: bytes) -> None:
        """Take a package. Raises BadProtection if it is not for it, or not for its challenge."""
        challenge, self._challenge = self._challenge, None
        if challenge is None:
            raise BadProtection("there is no challenge")
        place = KeyPlace(self.serial, INDEX, item, version)
        algorithms = suite(self.suite)
        keys = open_in_esam(algorithms, self.control_key, challenge, place, body)
        if version < self.floor:
            raise BadProtection(f"version {version} is below the floor {self.floor}")
        if item is Item.FLOOR:
            self.floor = version
            self.versions = {v: checks for v, checks in self.versions.items() if v >= version}
        else:
            self.versions[version] = check_values(algorithms, keys)

    def power_cut(self) -> None:
        """Forget what is not kept."""
        self._challenge = None
