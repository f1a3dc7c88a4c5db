"""One imagined agent: what it believes and signs is real, its doors and its disk are not.

It goes by `core.trusted_state` as a device does, signs each event and report with its own key, and
keeps its events until the server has signed for them. What it would write to a disk it keeps in
memory, and what would move a strike is only counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from random import Random, SystemRandom
from typing import Any

from edge_agent.core.trusted_state import (
    Candidate,
    TrustedState,
    after_command,
    after_heartbeat,
    after_lockdowns,
    after_policy,
    after_revocation,
    after_root,
    after_snapshot,
    lacks,
    open_snapshot,
    with_policy,
)
from edge_agent.fleet.chip import Chip
from edge_agent.fleet.keys import MemberKeys
from schemas import topics
from schemas.acknowledgement import Acknowledgement
from schemas.card_chunks import read_index
from schemas.chain import EVENTS_TYPE, MAX_LINES, Head, compose_line, join_lines
from schemas.command import Command
from schemas.envelope import Signer, seal_envelope
from schemas.errors import BrokenLog, SchemaError
from schemas.event_data import ClockStatus
from schemas.events import agent_source, agent_subject, door_subject, event_type
from schemas.names import SERVER
from schemas.policy import DoorMode
from schemas.report import DoorReport, Pull, Report
from schemas.root import RoleName
from schemas.statement import open_statement, sign_statement
from schemas.suites import suite
from schemas.versions import LogHead, Version

MOST_CHUNKS = 32
MOST_VERDICTS = 4096
CLOCK = ClockStatus(status="synced")

Publish = Callable[[str, bytes], None]
Verdicts = dict[
    tuple[bytes, int, LogHead, LogHead | None, frozenset[RoleName]],
    tuple[LogHead, frozenset[RoleName], int],
]
"""What a delta of the log, told to all, made of a log that stood so: head, and how many entries.

The first part is all that the rules for it look at, but for the clock. A refusal is not kept.
"""


class Member:
    """Fed with messages; `publish` speaks for it while it is connected."""

    def __init__(
        self,
        *,
        agent: str,
        door: str,
        signer: Signer,
        trust: TrustedState,
        chain: str,
        shared: dict[str, bytes],
        tell: Callable[[str, str, int], None],
        verdicts: Verdicts | None = None,
        chip: Chip | None = None,
        random: Random | None = None,
        crashes: float = 0.0,
    ) -> None:
        """`shared` holds chunks for all members: they are the same bytes. So may `verdicts`.

        With a `chip` it keeps keys, and `random` chooses the orders about them that it crashes in.

        `tell` hears the agent's name, what it applied, and the number.
        """
        self.agent, self.door = agent, door
        self.trust = trust
        self.session = ""
        self.pulses = 0
        self.refused: dict[str, int] = {}
        self.signer = signer
        self.cut: Callable[[], None] = lambda: None
        """Breaks the connection off; set by who made it."""
        self.keys: MemberKeys | None = None
        if chip is not None:
            self.keys = MemberKeys(self, chip, random=random or SystemRandom(), crashes=crashes)
        self._head = Head(chain)
        self._waiting: deque[tuple[int, bytes]] = deque()
        """(sequence, line) that the server has not signed for."""
        self._shared, self._tell, self._verdicts = shared, tell, verdicts
        self._publish: Publish | None = None
        self._counter = self._pulls = 0
        self._candidate: Candidate | None = None
        self._snapshot: bytes | None = None

    @cached_property
    def downward(self) -> list[str]:
        """The topics it subscribes."""
        site = self.trust.root.site
        return [
            *(topics.down(site, self.agent, channel) for channel in self._handlers),
            *(
                topics.everyone(site, channel)
                for channel in (topics.REVOCATION, topics.LOCKDOWN, topics.ROOT)
            ),
        ]

    @property
    def waiting(self) -> int:
        """Events the server has not signed for."""
        return len(self._waiting)

    def connected(self, publish: Publish, session: str, now: datetime) -> None:
        """A connection stands: report, and hand over again what is not signed for."""
        self._publish, self.session, self._counter = publish, session, 0
        self.report(now)
        self._resend(0)
        if self.keys is not None:
            self.keys.connected(now)

    def disconnected(self) -> None:
        """The connection is gone."""
        self._publish = None

    def take(self, topic: str, payload: bytes, now: datetime) -> None:
        """A message from the broker; what is refused is counted by the refusal's name."""
        handler = self._handlers.get(topic.rsplit("/", 1)[1])
        if handler is None:
            return
        try:
            handler(payload, now)
        except BrokenLog:
            self._pull(now, revocation_after=self.trust.revocation.sequence)
        except SchemaError as error:
            name = type(error).__name__
            self.refused[name] = self.refused.get(name, 0) + 1

    def report(self, now: datetime, *, leaving: bool = False) -> None:
        """Say that it lives, and what it has."""
        if self.keys is not None:
            self.keys.tick(now)
        self._counter += 1
        state = self.trust
        policy = state.policy
        mode = DoorMode.LOCKED_DOWN if self._is_locked_down() else DoorMode.LOCKED
        self.say(
            topics.REPORT,
            sign_statement(
                Report(
                    site=state.root.site,
                    audience=SERVER,
                    issued=now,
                    counter=self._counter,
                    session=self.session,
                    root=state.root.version,
                    policy=None
                    if policy is None or state.policy_hash is None
                    else Version(version=policy.counter, hash=state.policy_hash),
                    revocation=state.revocation,
                    lockdown=0 if state.lockdowns is None else state.lockdowns.counter,
                    command=state.command,
                    chain=self._head.chain,
                    waiting=self.waiting,
                    doors={self.door: DoorReport(contact="closed", mode=mode, freshness="fresh")},
                    clock=CLOCK,
                    version="fleet",
                    leaving=leaving,
                ),
                self.signer,
            ),
        )

    def event(self, name: str, now: datetime, data: dict[str, Any], subject: str = "") -> None:
        """Sign an event, keep it, and hand it over."""
        state = self.trust
        line, self._head = compose_line(
            self._head,
            suite(state.root.suite).digest,
            source=agent_source(state.root.site, self.agent),
            type=event_type(name),
            subject=subject or agent_subject(self.agent),
            time=now,
            data={"clock": {"status": "synced"}, **data},
        )
        self._waiting.append((self._head.sequence, line))
        self._hand_over([line])

    @cached_property
    def _handlers(self) -> dict[str, Callable[[bytes, datetime], None]]:
        about_keys: dict[str, Callable[[bytes, datetime], None]] = {}
        if self.keys is not None:
            about_keys = {topics.STAGE: self.keys.ordered, topics.KEYS: self.keys.packaged}
        return about_keys | {
            topics.ACKNOWLEDGEMENT: self._acknowledged,
            topics.HEARTBEAT: self._heartbeat,
            topics.POLICY: self._policy,
            topics.CHUNK: self._chunk,
            topics.REVOCATION: self._revocation,
            topics.SNAPSHOT: self._take_snapshot,
            topics.LOCKDOWN: self._lockdown,
            topics.ROOT: self._root,
            topics.COMMAND: self._command,
        }

    def _acknowledged(self, payload: bytes, now: datetime) -> None:
        root = self.trust.root
        word = open_statement(
            payload,
            Acknowledgement,
            self.trust.ring,
            site=root.site,
            audience=self.agent,
            now=now,
        )
        if word.chain != self._head.chain:
            return
        while self._waiting and self._waiting[0][0] <= word.sequence:
            self._waiting.popleft()
        if word.resend:
            self._resend(word.sequence)

    def _heartbeat(self, payload: bytes, now: datetime) -> None:
        self.trust = after_heartbeat(self.trust, payload, self.agent, now)
        missing = lacks(self.trust)
        if missing:
            self._pull(
                now,
                root_after=missing.root_after,
                policy=missing.policy and self._candidate is None,
                revocation_after=missing.revocation_after,
                lockdown=missing.lockdown,
            )

    def _policy(self, payload: bytes, now: datetime) -> None:
        candidate = after_policy(self.trust, payload, self.agent, now)
        if candidate.hash == self.trust.policy_hash:
            return
        self._candidate = candidate
        self._apply_or_pull(now)

    def _chunk(self, payload: bytes, now: datetime) -> None:
        self._shared[self.trust.digest(payload)] = payload
        if self._candidate is not None:
            self._apply_or_pull(now)
        if self._snapshot is not None:
            self._take_snapshot(self._snapshot, now)

    def _apply_or_pull(self, now: datetime) -> None:
        candidate = self._candidate
        assert candidate is not None
        wanted = list(candidate.policy.cards.values())
        missing = [name for name in wanted if name not in self._shared]
        if candidate.policy.levels == 2:
            indexes = [read_index(self._shared[n]) for n in wanted if n in self._shared]
            missing += [n for i in indexes for n in i.values() if n not in self._shared]
        if missing:
            self._pull(now, chunks=tuple(missing[:MOST_CHUNKS]))
            return
        self._candidate = None
        self.trust = with_policy(self.trust, candidate)
        self._applied(
            "policy",
            candidate.policy.counter,
            now,
            {"policy_version": candidate.policy.counter, "hash": candidate.hash},
        )
        if self.keys is not None:
            self.keys.tell(now)

    def _revocation(self, payload: bytes, now: datetime) -> None:
        before = self.trust
        named = before.heartbeat.revocation if before.heartbeat is not None else None
        key = (payload, id(before.ring), before.revocation, named, before.renewed)
        known = None if self._verdicts is None else self._verdicts.get(key)
        if known is not None:
            head, renewed, entries = known
            self.trust = replace(before, revocation=head, renewed=renewed)
        else:
            self.trust, new = after_revocation(before, payload, self.agent, now)
            entries = len(new)
            if self._verdicts is not None:
                if len(self._verdicts) > MOST_VERDICTS:
                    self._verdicts.clear()
                self._verdicts[key] = (self.trust.revocation, self.trust.renewed, entries)
        if entries:
            self._applied_log(entries, now, snapshot=False)

    def _take_snapshot(self, payload: bytes, now: datetime) -> None:
        snapshot = open_snapshot(self.trust, payload, self.agent, now)
        missing = [name for name in snapshot.chunks if name not in self._shared]
        if missing:
            self._snapshot = payload
            self._pull(now, chunks=tuple(missing[:MOST_CHUNKS]))
            return
        self._snapshot = None
        self.trust, denied = after_snapshot(self.trust, payload, self.agent, now, self._shared)
        self._applied_log(len(denied), now, snapshot=True)

    def _applied_log(self, entries: int, now: datetime, *, snapshot: bool) -> None:
        head = self.trust.revocation
        data = {"sequence": head.sequence, "hash": head.hash}
        self._applied(
            "revocation", head.sequence, now, {**data, "entries": entries, "snapshot": snapshot}
        )

    def _lockdown(self, payload: bytes, now: datetime) -> None:
        before = self.trust
        self.trust = after_lockdowns(before, payload, self.agent, now)
        if self.trust is not before and self.trust.lockdowns is not None:
            shut = [self.door] if self._is_locked_down() else []
            counter = self.trust.lockdowns.counter
            self._applied("lockdown", counter, now, {"counter": counter, "doors": shut})

    def _is_locked_down(self) -> bool:
        held = self.trust.lockdowns
        if held is None:
            return False
        policy = self.trust.policy
        settings = policy.doors.get(self.door) if policy is not None else None
        areas = frozenset(settings.areas if settings is not None else ())
        site = self.trust.root.site
        return any(each.covers(site, self.door, areas) for each in held.active)

    def _root(self, payload: bytes, now: datetime) -> None:
        before = self.trust
        self.trust = after_root(before, payload)
        if self.trust is not before:
            version = self.trust.root.version
            self._applied("root", version, now, {"version": version})

    def _command(self, payload: bytes, now: datetime) -> None:
        self.trust, command = after_command(self.trust, payload, self.agent, self.session, now)
        self._execute(command, now)

    def _execute(self, command: Command, now: datetime) -> None:
        self.pulses += command.action in ("pulse", "unlock")
        latency_ms = (now - command.issued).total_seconds() * 1000
        self.event(
            "command.executed",
            now,
            {
                "command": command.id,
                "action": command.action,
                "door": command.door,
                "latency_ms": round(latency_ms, 3),
            },
            door_subject(self.door),
        )

    def _applied(self, what: str, number: int, now: datetime, data: dict[str, Any]) -> None:
        self.event(f"{what}.applied", now, data)
        self._tell(self.agent, what, number)

    def _pull(self, now: datetime, **wants: Any) -> None:
        self._pulls += 1
        pull = Pull(
            site=self.trust.root.site,
            audience=SERVER,
            issued=now,
            counter=self._pulls,
            session=self.session,
            **wants,
        )
        self.say(topics.PULL, sign_statement(pull, self.signer))

    def _resend(self, after: int) -> None:
        lines = [line for sequence, line in self._waiting if sequence > after]
        for start in range(0, len(lines), MAX_LINES):
            self._hand_over(lines[start : start + MAX_LINES])

    def _hand_over(self, lines: list[bytes]) -> None:
        if self._publish is not None and lines:
            self.say(topics.EVENTS, seal_envelope(EVENTS_TYPE, join_lines(lines), [self.signer]))

    def say(self, channel: str, payload: bytes) -> None:
        """Publish, if it is connected."""
        if self._publish is not None:
            self._publish(topics.up(self.trust.root.site, self.agent, channel), payload)


def forgotten(trust: TrustedState) -> TrustedState:
    """What a device believes after its state was lost: the pinned root alone."""
    return replace(TrustedState.pinned(trust.root), ring=trust.ring)
