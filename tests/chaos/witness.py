"""Someone at an agent who forgets nothing: over all its lives, what was promised and done there."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlite_utils import Database

from edge_agent import trust_tables as tables
from edge_agent.clock import Clock
from edge_agent.core.trusted_state import TrustedState
from edge_agent.outbox import Draft, Outbox, StoredLine
from edge_agent.trust_store import TrustStore
from schemas.command import Action, Command

AT_ONCE_S = 0.3
"""What an agent applied counts for every card after this: a decision is under way so long."""
UNDER_WAY = timedelta(seconds=AT_ONCE_S)
"""A strike waits so long for what its door is about."""
PERMIT_S = 5.0
"""The strike follows its cause within this, however slow the disk."""


class Violated(AssertionError):
    """A promise that was not kept."""


class Witness:
    """The lines whose append returned, what was believed, and why the strike was released.

    What should not be is noted, not raised: the agent survives exceptions of its parts.
    """

    def __init__(self, door: str, tally: Counter[str]) -> None:
        self.broken: list[str] = []
        """Promises that were not kept."""
        self.tally = tally
        self._door = door
        self.lines: dict[int, bytes] = {}
        self.attempted: set[str] = set()
        self.refused: set[str] = set()
        """Events that the store said it did not take."""
        self.unanswered: set[str] = set()
        """Events whose writer died before it heard."""
        self.acknowledged = 0
        self.commands: dict[str, Command] = {}
        """By their id, those that the agent began to carry out."""
        self.denied: dict[tuple[str, str], tuple[int, float]] = {}
        """(kind, subject) -> sequence, and when it was first seen."""
        self._marks: dict[tuple[str, tuple[str, ...]], int] = {}
        self._locked_down: dict[str, float] = {}
        """Lockdown -> since when it is in force here."""
        self._permits: list[tuple[str, float]] = []
        self._unlocked_until: datetime | None = None
        self._begun_s = 0.0

    def restarted(self) -> None:
        """Nothing that was about to move the strike may move it any more."""
        self._permits.clear()
        self._unlocked_until = None

    # Events

    def stored(self, lines: Sequence[StoredLine]) -> None:
        """Their append returned."""
        for each in lines:
            if self.lines.setdefault(each.sequence, each.line) != each.line:
                self.broken.append(f"two lines were stored as number {each.sequence}")

    def stands_at(self, acknowledged: int) -> None:
        """The server has all lines up to this one."""
        if acknowledged < self.acknowledged:
            self.broken.append(f"acknowledged went back from {self.acknowledged} to {acknowledged}")
        self.acknowledged = acknowledged

    # What is believed

    def believes(self, state: TrustedState, denied: Mapping[Any, int], now_s: float) -> None:
        """Hold what is durable now to what was before: nothing goes back, nothing is forgotten."""
        roles = state.root.roles
        online, policy, revoke = (roles[role].keyids for role in ("online", "policy", "revoke"))
        numbers = {
            ("root", ()): state.root.version,
            ("command", online): state.command,
            ("log", revoke): state.revocation.sequence,
        }
        if state.heartbeat is not None:
            numbers["heartbeat", online] = state.heartbeat.counter
        if state.policy is not None:
            numbers["policy", policy] = state.policy.counter
        if state.lockdowns is not None:
            numbers["lockdown", online] = state.lockdowns.counter
        for mark, number in numbers.items():
            if number < self._marks.get(mark, 0):
                self.broken.append(f"{mark[0]} went back from {self._marks[mark]} to {number}")
            self._marks[mark] = number
        for subject, (sequence, since_s) in self.denied.items():
            if denied.get(subject, 0) < sequence:
                self.broken.append(
                    f"denial {sequence} of {subject} is forgotten (since {since_s:.0f})"
                )
        for subject, sequence in denied.items():
            if self.denied.get(subject, (0, 0.0))[0] < sequence:
                self.denied[subject] = sequence, now_s
        active = () if state.lockdowns is None else state.lockdowns.active
        self._locked_down = {
            each.id: self._locked_down.get(each.id, now_s)
            for each in active
            if each.scope == "site" or each.name == self._door
        }

    def lockdown_ended_only_by(self, before: TrustedState, after: TrustedState) -> None:
        """A lockdown that is gone is gone by a newer statement."""
        if before.lockdowns is None or before.lockdowns.active == ():
            return
        if after.lockdowns is None:
            self.broken.append("the lockdowns are forgotten")
        gone = {each.id for each in before.lockdowns.active} - {
            each.id for each in after.lockdowns.active
        }
        same_keys = before.root.roles["online"] == after.root.roles["online"]
        if gone and same_keys and after.lockdowns.counter <= before.lockdowns.counter:
            self.broken.append(f"lockdowns {gone} ended without a newer statement")

    # The strike

    def permit(self, why: str, now_s: float) -> None:
        """The strike may be released once."""
        self._permits.append((why, now_s))

    def released(self, now: datetime, now_s: float) -> None:
        """The strike was."""
        if self._unlocked_until is not None and now < self._unlocked_until:
            return
        self._permits = [each for each in self._permits if now_s - each[1] <= PERMIT_S]
        if not self._permits:
            self.broken.append(f"the strike was released at {now_s:.3f} and nobody asked for it")
            return
        self.tally[f"strike: {self._permits.pop(0)[0]}"] += 1

    def granted(self, draft: Draft, cleared: Mapping[tuple[str, str], int], now_s: float) -> None:
        """Somebody is let in: nothing that is known here may speak against it."""
        data: Any = draft.data
        for subject in (("card", data.card), ("person", data.person)):
            sequence, since_s = self.denied.get(subject, (0, now_s))
            if sequence > cleared.get(subject, 0) and now_s - since_s > AT_ONCE_S:
                self.broken.append(f"{subject} came in at {now_s:.3f}, denied since {since_s:.3f}")
        if any(now_s - since_s > AT_ONCE_S for since_s in self._locked_down.values()):
            self.broken.append(f"{data.card} came in at {now_s:.3f} though all is locked down")
        self.permit("granted", now_s)

    def begins(self, command: Command, session: str, now_s: float) -> None:
        """A command is carried out: of this session, and never again."""
        if command.id in self.commands:
            self.broken.append(f"command {command.id} is executed twice")
        if command.session != session:
            self.broken.append(
                f"command {command.id} is of session {command.session}, not {session}"
            )
        self.commands[command.id] = command
        match command.action:
            case Action.PULSE:
                self._begun_s = now_s
                self.permit("command", now_s)
            case Action.UNLOCK:
                self._unlocked_until = command.until
            case Action.LOCK | Action.BLOCK | Action.NORMAL:
                self._unlocked_until = None

    def refuses(self, command: Command) -> None:
        """It is not carried out after all."""
        if command.action is Action.PULSE and ("command", self._begun_s) in self._permits:
            self._permits.remove(("command", self._begun_s))

    def executed(self, command: Command, acted: datetime) -> None:
        """It was, at this time, by what the agent takes for the time."""
        self.tally[f"executes {command.action}"] += 1
        kept = command.action in (Action.LOCK, Action.BLOCK, Action.NORMAL)
        if not kept and command.expires and acted >= command.expires + UNDER_WAY:
            self.broken.append(f"{command.action} is done at {acted}, it ended {command.expires}")


class WitnessedOutbox(Outbox):
    """The outbox, with someone who writes down what it promised."""

    witness: Witness
    cleared: Mapping[tuple[str, str], int]
    """(kind, id) -> the revocations that the operator has answered."""
    steady: Clock

    async def append_all(self, drafts: Sequence[Draft]) -> list[StoredLine]:
        for draft in drafts:
            if draft.name == "access.granted":
                self.witness.granted(draft, self.cleared, self.steady.monotonic())
        stored = await super().append_all(drafts)
        self.witness.stored(stored)
        return stored

    async def acknowledge(self, chain: str, sequence: int, hash: str, issued: datetime) -> None:
        await super().acknowledge(chain, sequence, hash, issued)
        self.witness.stands_at(self.state.acknowledged)


class WitnessedStore(TrustStore):
    """The trust store, with someone who compares what it believes with what it believed."""

    witness: Witness
    look_at_disk: Callable[[], sqlite3.Connection]
    """A connection that the disk's whims spare."""

    def look(self, before: TrustedState | None = None) -> None:
        """Compare what is on disk now."""
        if before is not None:
            self.witness.lockdown_ended_only_by(before, self.state)
        connection = self.look_at_disk()
        try:
            state = tables.load(Database(connection))
            rows = connection.execute("SELECT kind, subject, sequence FROM denied")
            denied = {(kind, subject): sequence for kind, subject, sequence in rows}
        finally:
            connection.close()
        if state != self.state:
            self.witness.broken.append("what the agent goes by is not what it has on disk")
        self.witness.believes(self.state, denied, self._clock.monotonic())

    def _keep(self, *arguments: Any, **named: Any) -> None:
        before = self.state
        super()._keep(*arguments, **named)  # what is not durable is nothing to look at yet
        if self.state is not before:
            self.look(before)
