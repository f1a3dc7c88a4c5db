"""Which doors still let in what is revoked, and for how long at most. Pure.

A door is a risk while its agent has not confirmed an entry of the revocation log that denies
someone whom its policy lets in. It is one at the latest until the door's newest heartbeat is older
than the door's grace: from then on it lets in nobody but those on its offline list. That is a bound
because heartbeats go only to agents that are heard; one that is heard and does not confirm has no
bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from schemas.revocation import Denied

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Admission:
    """A card that a door's newest policy lets in at some time of the week."""

    card: str
    person: str
    offline: bool = False
    """Let in also beyond the door's grace."""
    valid_until: datetime | None = None
    card_cleared: int = 0
    person_cleared: int = 0


@dataclass(frozen=True)
class DoorPosture:
    """One door: whom it lets in. Only those matter whom the log denies."""

    door: str
    grace_s: float
    domain: str
    key_versions: frozenset[int]
    admits: Sequence[Admission]


@dataclass(frozen=True)
class AgentPosture:
    """One agent: what it has confirmed, and how fresh its doors can be."""

    agent: str
    applied: int
    """The last sequence of the revocation log it has given a receipt for."""
    live: bool
    heartbeat: datetime | None
    """When the newest heartbeat it may hold was issued; None: it never got one, and lets in
    nobody but the offline list."""
    doors: Sequence[DoorPosture] = field(default=())


@dataclass(frozen=True)
class Exposure:
    """One door that still lets in one revoked card."""

    agent: str
    door: str
    card: str
    sequence: int
    """The entry that denies it, which the agent has not confirmed."""
    until: datetime | None
    """At the latest. None: no end is known, for the agent is heard, or the card is on the offline
    list."""


def exposures(
    denied: Iterable[Denied], agents: Iterable[AgentPosture], now: datetime
) -> Iterator[Exposure]:
    """Every door and card at risk now, agents and doors in the order given.

    `denied` has all entries against a card, person or key version that an agent may lack one of.
    Of several entries against one card the newest that an agent lacks counts; one whose denial an
    earlier entry, which it has, brought about already is at no risk.
    """
    log = _Log.of(denied)
    for agent in agents:
        if log.newest <= agent.applied:
            continue
        for door in agent.doors:
            for card in door.admits:
                entry = log.against(card, door, agent.applied)
                if entry is not None:
                    end = _end(agent, door, card)
                    if end is None or end > now:
                        yield Exposure(agent.agent, door.door, card.card, entry, end)


def _end(agent: AgentPosture, door: DoorPosture, card: Admission) -> datetime | None:
    if agent.live or card.offline:
        return card.valid_until
    if agent.heartbeat is None:
        return _NEVER
    end = agent.heartbeat + timedelta(seconds=door.grace_s)
    return end if card.valid_until is None else min(end, card.valid_until)


@dataclass(frozen=True)
class _Log:
    newest: int
    sequences: Mapping[tuple[str, str], Sequence[int]]

    @classmethod
    def of(cls, denied: Iterable[Denied]) -> _Log:
        found: dict[tuple[str, str], list[int]] = {}
        for each in denied:
            found.setdefault((each.kind, each.subject), []).append(each.sequence)
        return cls(max((max(s) for s in found.values()), default=0), found)

    def against(self, card: Admission, door: DoorPosture, applied: int) -> int | None:
        """The newest entry that denies the card here, if the agent has applied none that does."""
        standing = [
            *self._above(("card", card.card), card.card_cleared),
            *self._above(("person", card.person), card.person_cleared),
        ]
        # The card's own key version is not known here: it is a risk where the door takes that one.
        standing += [
            sequence
            for version in door.key_versions
            for sequence in self._above(("key-version", f"{door.domain}/{version}"), 0)
        ]
        if not standing or min(standing) <= applied:
            return None
        return max(standing)

    def _above(self, subject: tuple[str, str], cleared: int) -> Iterator[int]:
        return (s for s in self.sequences.get(subject, ()) if s > cleared)
