"""Where a message stands in its chain: new, known, overlapping, forked or ahead of a gap. Pure.

The server keeps a contiguous prefix of each chain. Lines name the digest of the line before them,
so comparing one line compares all before it too: of a message that reaches back, only its line at
the head (or its last line, if it ends before the head) needs to be held against the store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from schemas.chain import Head, Link
from schemas.events import event_type
from server.ingest.verify import AlarmKind, Refusal, Verified

GAP_PATIENCE_S = 10.0
"""A broker may lose a message and the agent sends it again: only a gap that stays is an alarm."""

EVENTS_LOST = event_type("agent.events_lost")

ChainKey = tuple[str, str]
"""(source, chain)"""


class Heads:
    """The committed head of every chain, and which of an agent's chains is the newest."""

    def __init__(self, known: Iterable[tuple[str, Head]]) -> None:
        """`known` is (source, head) in the order in which the chains were first seen."""
        self._heads: dict[ChainKey, Head] = {}
        self._newest: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._gaps: dict[str, tuple[Head, float]] = {}
        """The newest gap of each agent alone: who has a key can make up chains without end."""
        for source, head in known:
            self.moved(source, head)

    def of(self, source: str, chain: str) -> Head:
        """The head of a chain; sequence 0 if nothing of it is stored."""
        return self._heads.get((source, chain)) or Head(chain)

    def newest(self, source: str) -> Head | None:
        """The head of the chain that was first seen last."""
        chain = self._newest.get(source)
        return None if chain is None else self._heads[source, chain]

    def owner(self, chain: str) -> str | None:
        """Whose chain this is."""
        return self._owners.get(chain)

    def moved(self, source: str, head: Head) -> None:
        """Take note that lines up to `head` are committed."""
        key = (source, head.chain)
        if key not in self._heads:
            self._newest[source] = head.chain
        self._heads[key] = head
        self._owners.setdefault(head.chain, source)
        missed, _ = self._gaps.get(source, (None, 0.0))
        if missed and missed.chain == head.chain and missed.sequence < head.sequence:
            del self._gaps[source]

    def gap_age(self, source: str, head: Head, now_s: float) -> float:
        """Seconds since lines were first missed right after `head`; they count as missed now."""
        after, since_s = self._gaps.get(source, (head, now_s))
        if after != head:
            since_s = now_s
        self._gaps[source] = (head, since_s)
        return now_s - since_s


@dataclass(frozen=True, slots=True)
class Row:
    """A line to store. The last line of a message carries the signature over all of it."""

    source: str
    link: Link
    signed: Verified | None


@dataclass
class Batch:
    """What a run of messages comes to, to be committed as one. Heads move only when it is."""

    committed: Heads
    stored: Mapping[tuple[str, str, int], str]
    """Digests of stored lines, for each of `questions`."""
    now_s: float
    announced: Collection[tuple[str, str]] = ()
    """(agent, chain) of the chains that an enrolment foretold."""
    rows: list[Row] = field(default_factory=list)
    heads: dict[ChainKey, Head] = field(default_factory=dict)
    acknowledge: dict[str, str] = field(default_factory=dict)
    """agent -> the chain of its last good message."""
    resend: dict[str, str] = field(default_factory=dict)
    """agent -> the chain in which lines are missing."""
    alarms: list[Refusal] = field(default_factory=list)
    duplicates: int = 0
    _fresh: dict[tuple[str, str, int], str] = field(default_factory=dict)
    _begun: dict[str, str] = field(default_factory=dict)
    """chain -> source, of what `heads` has."""

    def place(self, message: Verified) -> None:
        """Store what is new of `message`, or say what is wrong with it."""
        agent, chain = message.agent, message.chain
        owner = self._owner(chain)
        if owner not in (None, agent):  # else two events would have one id, and one proof for both
            detail = f"chain {chain} is that of {owner}"
            self.alarms.append(Refusal(AlarmKind.BROKEN_CHAIN, agent, detail))
            return
        head = self.heads.get((agent, chain)) or self.committed.of(agent, chain)
        first, last = message.first, message.last
        if first > head.sequence + 1:
            self._gap(message, head)
            return
        if first <= head.sequence:
            known = min(last, head.sequence)
            if not self._same(message, known, head):
                return
            self.duplicates += known - first + 1
        elif message.links[0].event.prevhash != head.hash:
            detail = f"line {first} of chain {chain} names another line {head.sequence} before it"
            self.alarms.append(Refusal(AlarmKind.BROKEN_CHAIN, agent, detail))
            return
        self._store(message, head)
        self.acknowledge[agent] = chain
        self.resend.pop(agent, None)

    def _store(self, message: Verified, head: Head) -> None:
        agent, chain = message.agent, message.chain
        new = message.links[head.sequence + 1 - message.first :]
        if not new:
            return
        newest = self.committed.newest(agent)
        begins = head.sequence == 0 and (newest is not None or agent in self._begun.values())
        if begins and (agent, chain) not in self.announced:
            before = newest.chain if newest else "one of this batch"
            detail = f"chain {chain} began; the agent's chain was {before}"
            self.alarms.append(Refusal(AlarmKind.NEW_CHAIN, agent, detail))
        for link in new:
            self.rows.append(Row(agent, link, message if link is message.links[-1] else None))
            self._fresh[agent, chain, link.event.number] = link.hash
            if link.event.type == EVENTS_LOST:
                count = link.event.data.get("count")
                said = f"{count}" if isinstance(count, int) else "an unknown number of"
                detail = f"the agent declares {said} events lost (line {link.event.number})"
                self.alarms.append(Refusal(AlarmKind.EVENTS_LOST, agent, detail))
        self.heads[agent, chain] = Head(chain, message.last, new[-1].hash)
        self._begun[chain] = agent

    def _owner(self, chain: str) -> str | None:
        return self.committed.owner(chain) or self._begun.get(chain)

    def _gap(self, message: Verified, head: Head) -> None:
        agent, chain = message.agent, message.chain
        self.resend[agent] = chain
        age_s = self.committed.gap_age(agent, head, self.now_s)
        if age_s >= GAP_PATIENCE_S:
            detail = (
                f"lines {head.sequence + 1} to {message.first - 1} of chain {chain} "
                f"have been missing for {age_s:.0f} s though asked for"
            )
            self.alarms.append(Refusal(AlarmKind.GAP, agent, detail))

    def _same(self, message: Verified, sequence: int, head: Head) -> bool:
        """Whether the message's line `sequence`, hence all before it, is the stored one."""
        agent, chain = message.agent, message.chain
        ours = head.hash if sequence == head.sequence else self._digest(agent, chain, sequence)
        if ours is None:
            detail = (
                f"the store lacks line {sequence} of chain {chain}: run `ostiary events verify`"
            )
            self.alarms.append(Refusal(AlarmKind.BROKEN_CHAIN, agent, detail))
            return False
        theirs = message.links[sequence - message.first].hash
        if theirs != ours:
            detail = f"line {sequence} of chain {chain} came with digest {theirs}, stored is {ours}"
            self.alarms.append(Refusal(AlarmKind.FORK, agent, detail))
            return False
        return True

    def _digest(self, agent: str, chain: str, sequence: int) -> str | None:
        key = (agent, chain, sequence)
        return self._fresh.get(key) or self.stored.get(key)


def questions(committed: Heads, messages: Iterable[Verified]) -> set[tuple[str, str, int]]:
    """Which stored lines' digests are needed to place `messages`: (source, chain, sequence)."""
    return {
        (m.agent, m.chain, m.last)
        for m in messages
        if m.last <= committed.of(m.agent, m.chain).sequence
    }
