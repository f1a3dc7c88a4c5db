"""Which chunks a policy still lacks before it can come into force.

Its leaves are known only once the indexes above them are here, so what is missing grows, too.
Chunks are shared with the policy in force: one changed card leaves all others where they are.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.core.trusted_state import Candidate
from schemas.card_chunks import check_leaf, read_index
from schemas.errors import MalformedChunk

Place = tuple[str, ...]
"""One slot, or two: where in the tree a chunk stands."""


class Staging:
    """A policy whose chunks are being gathered. Not for two threads at once.

    `has` and `read` say which chunks are kept. Raises MalformedChunk if one that is kept is not
    what the policy takes it for.
    """

    def __init__(
        self,
        candidate: Candidate,
        has: Callable[[str], bool],
        read: Callable[[str], bytes | None],
    ) -> None:
        self.candidate = candidate
        self.missing: dict[str, list[Place]] = {}
        """Digest -> where it stands, which may be in several places."""
        self.leaves: dict[str, str] = {}
        """Slots -> digest of the leaf, as far as they are known."""
        self._has = has
        self._read = read
        for slot, digest in candidate.policy.cards.items():
            self._expect(digest, (slot,))

    def check(self, digest: str, body: bytes) -> None:
        """Hold a chunk to its places. Raises MalformedChunk."""
        if digest not in self.missing:
            raise MalformedChunk(f"chunk {digest} is none that the policy lacks")
        for place in self.missing[digest]:
            if self._is_index(place):
                read_index(body)
            else:
                check_leaf(body, place)

    def add(self, digest: str, body: bytes) -> None:
        """Count a chunk that was checked, and is kept."""
        for place in self.missing.pop(digest):
            if self._is_index(place):
                self._open(body, place)

    def _expect(self, digest: str, place: Place) -> None:
        index = self._is_index(place)
        if not index:
            self.leaves["".join(place)] = digest
        if not self._has(digest):
            self.missing.setdefault(digest, []).append(place)
        elif index:
            self._open(self._read(digest) or b"", place)

    def _open(self, body: bytes, place: Place) -> None:
        for slot, digest in read_index(body).items():
            self._expect(digest, (*place, slot))

    def _is_index(self, place: Place) -> bool:
        return len(place) < self.candidate.policy.levels
