"""Whatever comes, in whatever order, and wherever the agent is killed: it never goes back.

The broker plays back all it ever saw, and the attacker holds every key but root's: so all that is
said here is properly signed, and most of it is a lie. New keys may count anew: even so, what was
denied stays denied, and what was shut stays shut.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_agent.core import trusted_state as rules
from edge_agent.trust_store import TrustStore
from schemas.command import Action
from schemas.errors import SchemaError
from tests.centre import AGENT, NOW, SESSION, Centre, card, lockdown
from tests.mortal import Killed, mortal
from tests.store_desk import Clock

KEYS = Centre().keys
SHARED_MEMORY = Path("/dev/shm")
kills = st.none() | st.tuples(st.sampled_from(["before", "after"]), st.integers(1, 2))
subjects = st.sampled_from(
    [("card", card(1).card), ("card", "f" * 16), ("person", "p2"), ("key-version", "front/3")]
)
small = st.integers(1, 4)
KINDS = ("root", "heartbeat", "policy", "revocation", "snapshot", "lockdown", "command")


COUNTED_BY = {
    "policy": ("policy",),
    "revoke": ("revocation",),
    "online": ("heartbeat", "lockdown", "command"),
}


class TrustMachine(RuleBasedStateMachine):
    """An agent with its store, and what it once showed that it had accepted."""

    @initialize()
    def begin(self):
        self.stack = ExitStack()
        place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        folder = Path(tempfile.mkdtemp(dir=place))
        self.stack.callback(shutil.rmtree, folder)
        self.fate = self.stack.enter_context(mortal(folder))
        self.loop = asyncio.new_event_loop()
        self.stack.callback(self.loop.close)
        self.centre = Centre()
        self.centre.keys.signers = dict(KEYS.signers)
        self.pinned = self.centre.keys.root
        self.fork = Centre()
        self.fork.keys = self.centre.keys
        self.seen = [self.centre.keys.root_envelope]
        self.chunks: dict[str, bytes] = {}
        self.store = self.open()
        self.highest = dict.fromkeys(_numbers(self.store.state), 0)
        self.contents: dict[tuple[str, int], object] = {}
        self.denied: set[tuple[str, str]] = set()
        self.shut = False

    def teardown(self):
        if hasattr(self, "store"):
            self.run(self.store.close())
            self.stack.close()

    def run(self, work):
        return self.loop.run_until_complete(work)

    def open(self):
        return self.run(TrustStore.open(self.fate.path, self.pinned, AGENT, Clock()))

    def restart(self):
        self.run(self.store.close())
        self.store = self.open()

    def deliver(self, take, kill, *possible):
        """Let the store take something, and be killed at it; `possible` states may follow then."""
        before = self.store.state
        if kill is not None:
            self.fate.arm(*kill)
        try:
            self.run(take)
        except SchemaError:
            assert self.store.state is before
        except Killed:
            self.restart()
            assert self.store.state in (before, *map(rules.answered, possible))
        finally:
            self.fate.disarm()

    def message(self, name, envelope, kill):
        """Bring one message as what it may be; several may be refused, one may be taken."""
        store, state = self.store, self.store.state
        after = []
        try:
            match name:
                case "root":
                    after = [rules.after_root(state, envelope)]
                case "heartbeat":
                    after = [rules.after_heartbeat(state, envelope, AGENT, NOW)]
                case "revocation":
                    after = [rules.after_revocation(state, envelope, AGENT, NOW)[0]]
                case "snapshot":
                    after = [rules.after_snapshot(state, envelope, AGENT, NOW, self.chunks)[0]]
                case "lockdown":
                    after = [rules.after_lockdowns(state, envelope, AGENT, NOW)]
                case "command":
                    after = [rules.after_command(state, envelope, AGENT, SESSION, NOW)[0]]
        except SchemaError:
            pass
        takes = {
            "root": lambda: store.take_root(envelope),
            "heartbeat": lambda: store.take_heartbeat(envelope, NOW),
            "policy": lambda: store.offer_policy(envelope, NOW),
            "revocation": lambda: store.take_revocation(envelope, NOW),
            "snapshot": lambda: store.take_snapshot(envelope, self.chunks, NOW),
            "lockdown": lambda: store.take_lockdowns(envelope, NOW),
            "command": lambda: store.take_command(envelope, SESSION, NOW),
        }
        self.deliver(takes[name](), kill, *after)

    def say(self, name, envelope, kill):
        self.seen.append(envelope)
        self.message(name, envelope, kill)

    @rule(
        seconds=st.integers(0, 5),
        root=small,
        policy=st.none() | st.tuples(small, st.sampled_from("ab")),
        entry=st.integers(0, 4),
        true=st.booleans(),
        shut=st.integers(0, 4),
        kill=kills,
    )
    def heartbeat(self, seconds, root, policy, entry, true, shut, kill):
        log = self.centre if true else self.fork
        named = None if policy is None else self._named(*policy)
        at = NOW - timedelta(seconds=seconds)
        head = log.heads[min(entry, len(log.heads) - 1)]
        envelope = self.centre.heartbeat(
            at, root=root, policy=named, revocation=head, lockdown=shut
        )
        self.say("heartbeat", envelope, kill)

    def _named(self, version, person):
        return self.centre.policy_version(version, [card(1, person=person), card(2)], levels=2)

    @rule(version=small, person=st.sampled_from("ab"), kill=kills)
    def policy(self, version, person, kill):
        cards = [card(1, person=person), card(2)]
        envelope, chunks = self.centre.policy(version, cards, levels=2)
        self.chunks |= chunks
        self.say("policy", envelope, kill)

    @rule(count=st.integers(1, 5), kill=kills)
    def chunk(self, count, kill):
        for _ in range(count):
            if self.store.missing:
                self.deliver(self.store.add_chunk(self.chunks[self.store.missing[0]]), kill)

    @rule(kill=kills)
    def apply(self, kill):
        state, staged = self.store.state, self.store._staging
        after = []
        if staged is not None and not staged.missing:
            with suppress(SchemaError):
                after = [rules.with_policy(state, staged.candidate)]
        self.deliver(self.store.apply_staged(), kill, *after)

    @rule(subject=subjects, true=st.booleans(), back=st.integers(0, 3), kill=kills)
    def revocation(self, subject, true, back, kill):
        log = self.centre if true else self.fork
        log.revoke(*subject)
        self.say("revocation", log.log_after(max(0, len(log.entries) - 1 - back)), kill)

    @rule(true=st.booleans(), kill=kills)
    def snapshot(self, true, kill):
        envelope, chunks = (self.centre if true else self.fork).snapshot()
        self.chunks |= chunks
        self.say("snapshot", envelope, kill)

    @rule(counter=small, shut=st.booleans(), kill=kills)
    def lockdown(self, counter, shut, kill):
        self.say("lockdown", self.centre.lockdowns(counter, *[lockdown()] * shut), kill)

    @rule(
        counter=small,
        action=st.sampled_from([Action.LOCK, Action.BLOCK, Action.NORMAL, Action.PULSE]),
        kill=kills,
    )
    def command(self, counter, action, kill):
        self.say("command", self.centre.command(counter, action), kill)

    @rule(role=st.none() | st.sampled_from(list(COUNTED_BY)), kill=kills)
    def root(self, role, kill):
        if (
            self.centre.keys.version >= 4
            or self.store.state.root.version < self.centre.keys.version
        ):
            return
        envelope = self.centre.next_root(*[role] * (role is not None))
        self.say("root", envelope, kill)
        self.message("root", envelope, None)  # a kill may have kept it from being pinned
        for name in COUNTED_BY.get(role, ()):  # a new key counts anew
            self.highest[name] = 0
            self.contents = {key: held for key, held in self.contents.items() if key[0] != name}
        if role is not None:  # the heartbeat that is held names no more what the old key counted
            self.contents.pop(("heartbeat", self.highest["heartbeat"]), None)

    @rule(data=st.data(), kill=kills)
    def playback(self, data, kill):
        envelope = data.draw(st.sampled_from(self.seen))
        for name in (
            "root",
            "heartbeat",
            "policy",
            "revocation",
            "snapshot",
            "lockdown",
            "command",
        ):
            self.message(name, envelope, kill)

    @rule()
    def start_again(self):
        before, staged, missing = self.store.state, self.store.staged, set(self.store.missing)
        overrides = self.store.overrides
        self.restart()
        assert self.store.state == before
        assert (self.store.staged, set(self.store.missing)) == (staged, missing)
        assert self.store.overrides == overrides

    @invariant()
    def nothing_goes_back(self):
        if not hasattr(self, "store"):
            return
        state = self.store.state
        for name, number in _numbers(state).items():
            if any(name in COUNTED_BY[role] for role in state.renewed):
                continue  # until the new key speaks, what the old one counted is only kept
            assert number >= self.highest[name], name
            self.highest[name] = number
            content = _contents(state)[name]
            assert self.contents.setdefault((name, number), content) == content

    @invariant()
    def what_was_denied_stays_denied(self):
        if not hasattr(self, "store"):
            return
        found = {
            ("card", card(1).card): self.store.find(card(1).card).denial is not None,
            ("card", "f" * 16): self.store.find("f" * 16).denial is not None,
            ("key-version", "front/3"): 3 in self.store.denied_versions("front"),
        }
        if self.store.find(card(2).card).card is not None:
            found["person", "p2"] = self.store.find(card(2).card).denial is not None
        for subject, denied in found.items():
            assert denied or subject not in self.denied, subject
            if denied:
                self.denied.add(subject)

    @invariant()
    def a_lockdown_ends_by_a_newer_statement_alone(self):
        if not hasattr(self, "store"):
            return
        lockdowns = self.store.state.lockdowns
        if lockdowns is not None:
            assert bool(self.store.lockdowns) is bool(lockdowns.active)
        shut = self.store.lockdowns != ()
        if self.shut and not shut:
            assert lockdowns.counter > self.shut_by
        self.shut, self.shut_by = shut, 0 if lockdowns is None else lockdowns.counter

    @invariant()
    def every_card_of_the_policy_in_force_is_found(self):
        if not hasattr(self, "store"):
            return
        applied = self.store.applied
        assert (applied and applied.hash) == self.store.state.policy_hash
        for number in (1, 2):
            held = self.store.find(card(number).card).card
            assert (held is not None) is (applied is not None)


def _numbers(state):
    policy, lockdowns, heartbeat = state.policy, state.lockdowns, state.heartbeat
    return {
        "root": state.root.version,
        "heartbeat": 0 if heartbeat is None else heartbeat.counter,
        "policy": 0 if policy is None else policy.counter,
        "revocation": state.revocation.sequence,
        "lockdown": 0 if lockdowns is None else lockdowns.counter,
        "command": state.command,
    }


def _contents(state):
    return {
        "root": state.root,
        "heartbeat": state.heartbeat,
        "policy": state.policy_hash,
        "revocation": state.revocation.hash,
        "lockdown": state.lockdowns,
        "command": None,
    }


TrustMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_an_agent_never_goes_back = TrustMachine.TestCase
