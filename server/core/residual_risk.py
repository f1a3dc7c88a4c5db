"""Which doors still let in what is revoked, and for how long at most. Pure.

A door is a risk while its agent has not confirmed an entry of the revocation log that denies
someone whom its policy lets in. It is one at the latest until the newest heartbeat that the agent
can have answered is older than the door's grace: from then on it lets in nobody but those on its
offline list. That is a bound whether the agent is heard or not, since a heartbeat that names an
entry which the agent lacks makes its doors no fresher: one that lacks entry N has answered none
that named N or more.
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
    heartbeats: Sequence[tuple[int, datetime]] = ()
    """Heads of the log that heartbeats named, ascending, each with when the newest of those that
    named it was issued. None: it never got one, and lets in nobody but the offline list."""
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
    """At the latest. None: there is no end, for the card is on the offline list."""


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
                lacked = log.against(card, door, agent.applied)
                if lacked:
                    end = _end(agent, door, card, min(lacked))
                    if end is None or end > now:
                        yield Exposure(agent.agent, door.door, card.card, max(lacked), end)


def answered(heartbeats: Iterable[tuple[int, datetime]], lacked: int) -> datetime | None:
    """When the newest of these was issued that who lacks an entry of the log can have answered."""
    return max((issued for head, issued in heartbeats if head < lacked), default=None)


def _end(
    agent: AgentPosture, door: DoorPosture, card: Admission, first_lacked: int
) -> datetime | None:
    if card.offline:
        return card.valid_until
    issued = answered(agent.heartbeats, first_lacked)
    if issued is None:
        return _NEVER
    end = issued + timedelta(seconds=door.grace_s)
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

    def against(self, card: Admission, door: DoorPosture, applied: int) -> Sequence[int]:
        """The entries that deny the card here; none if the agent has applied one that does."""
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
        return () if standing and min(standing) <= applied else standing

    def _above(self, subject: tuple[str, str], cleared: int) -> Iterator[int]:
        return (s for s in self.sequences.get(subject, ()) if s > cleared)
