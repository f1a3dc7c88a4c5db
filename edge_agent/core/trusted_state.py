"""What an agent believes, and the rules by which it comes to believe more. No input, no output.

After python-tuf's `TrustedMetadataSet`: the caller owns network, files and clock; each `after_*`
takes the bytes of one message and gives the state after it, or raises the refusal by its name
(`schemas.errors`). States are values: a refusal changes nothing. The broker is the attacker here,
and so may be the holder of any one key but root's.

The order of checks is the same for all: size, envelope, key and purpose, signature, form, site and
audience, time (`schemas.statement`), and only then the numbers:

1. Root N + 1 is signed by the thresholds of N and of N + 1. Any other version is refused.
2. Nothing goes back: a counter, version or sequence below the newest one accepted is a Rollback; so
   is a heartbeat that names less than the one before it, and a policy, log or lockdown statement
   below what the newest heartbeat names.
3. Under one number there is one content: another is an Equivocation, the same changes nothing.
4. Nothing leaps by more than MAX_LEAP (FastForward): it would shut out every honest one after it.
   Only the first that an agent hears of, or that new keys sign, may have any number: the site is
   older than the agent, and the numbers go on where a thief of the old keys took them.
5. The policy, log entry and snapshot that the newest heartbeat names by number must have the hash
   it names, else they are MixAndMatch. What is newer than the heartbeat may come before it.
6. A command is for this session, and each counter counts once.

Denials stay: a snapshot adds to the denials that are held, a key version's floor never sinks, and a
lockdown ends by a newer statement that has it no more.

When a root document gives a role none but new keys, the numbers of the old keys bind the new ones
no more (TUF's recovery from a fast-forward): see `_renew`. Denials stay then too. While one of the
keys goes on, the numbers do: else whoever kept its old statements could play them again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from edge_agent.core.trusted_base import (
    Candidate,
    TrustedState,
    differ,
    is_repeated,
    known_lockdown,
    known_policy,
    known_sequence,
    lockdown_counter,
    no_leap,
    number_of,
    opened,
    payload_of,
)
from edge_agent.core.trusted_log import after_revocation, after_snapshot, open_snapshot
from schemas.command import Command
from schemas.errors import (
    Equivocation,
    FastForward,
    MixAndMatch,
    Replayed,
    Rollback,
    WrongSession,
)
from schemas.heartbeat import Heartbeat
from schemas.lockdown import Lockdowns
from schemas.policy import Policy
from schemas.root import RoleName, open_next_root
from schemas.statement import CLOCK_TOLERANCE
from schemas.versions import LogHead, Version

__all__ = [
    "Candidate",
    "Lacks",
    "TrustedState",
    "after_command",
    "after_heartbeat",
    "after_lockdowns",
    "after_policy",
    "after_revocation",
    "after_root",
    "after_snapshot",
    "answered",
    "lacks",
    "open_snapshot",
    "with_policy",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Lacks:
    """What the newest heartbeat names and the state has not."""

    root_after: int | None = None
    policy: bool = False
    revocation_after: int | None = None
    lockdown: bool = False

    def __bool__(self) -> bool:
        return self != Lacks()


def lacks(state: TrustedState) -> Lacks:
    """What to ask the server for. Without a heartbeat nobody can say: nothing."""
    named = state.heartbeat
    if named is None:
        return Lacks()
    after = None
    if "revoke" in state.renewed and named.revocation != state.revocation:
        after = 0
    elif named.revocation.sequence > state.revocation.sequence:
        after = state.revocation.sequence
    return Lacks(
        root_after=state.root.version if named.root > state.root.version else None,
        policy=named.policy is not None and _lacks_policy(state, named.policy),
        revocation_after=after,
        lockdown=named.lockdown > lockdown_counter(state),
    )


def _lacks_policy(state: TrustedState, named: Version) -> bool:
    if state.policy is None or "policy" in state.renewed:
        return named.hash != state.policy_hash
    return named.version > state.policy.counter


def answered(state: TrustedState) -> TrustedState:
    """The state that counts its newest heartbeat as heard, if all that it names is here.

    Else whoever holds a revocation back could keep a door fresh with the heartbeats that name it.
    One whose keys were renewed says nothing any more.
    """
    newest = state.heartbeat
    if newest is None or newest.counter == 0 or newest.issued == state.heard or lacks(state):
        return state
    return replace(state, heard=newest.issued)


def after_root(state: TrustedState, envelope: bytes) -> TrustedState:
    """The state with the next root document; the one that is pinned changes nothing.

    Raises what `open_next_root` raises.
    """
    root = open_next_root(envelope, state.root)
    if root.version == state.root.version:
        return state
    ring = root.key_ring()
    renewed = frozenset(
        role
        for role in _COUNTING
        if set(root.roles[role].keyids).isdisjoint(state.root.roles[role].keyids)
    )
    return _renew(replace(state, root=root, ring=ring), renewed)


_COUNTING: tuple[RoleName, ...] = ("policy", "revoke", "online")


def _renew(state: TrustedState, roles: frozenset[RoleName]) -> TrustedState:
    """What the old keys of these roles counted binds no more; what they denied does.

    The heartbeat keeps its age: a change of keys makes no door stale. The policy stays in force and
    the log at its head until the new keys speak; floors stay until their first heartbeat.
    """
    heartbeat, lockdowns, command = state.heartbeat, state.lockdowns, state.command
    forgotten: dict[str, object] = {}
    if "policy" in roles:
        forgotten |= {"policy": None}
    if "revoke" in roles:
        forgotten |= {"revocation": LogHead()}
    if "online" in roles:
        forgotten = {
            "counter": 0,
            "root": 1,
            "policy": None,
            "revocation": LogHead(),
            "lockdown": 0,
        }
        command = 0
        if lockdowns is not None:
            lockdowns = lockdowns.model_copy(update={"counter": 0})
    if heartbeat is not None:
        heartbeat = heartbeat.model_copy(update=forgotten)
    return replace(
        state,
        heartbeat=heartbeat,
        lockdowns=lockdowns,
        command=command,
        renewed=state.renewed | roles,
    )


def after_heartbeat(
    state: TrustedState, envelope: bytes, agent: str, now: datetime
) -> TrustedState:
    """The state with a newer heartbeat; the same one changes nothing.

    Raises what `open_statement` raises, Equivocation, Rollback or FastForward.
    """
    new = opened(state, envelope, Heartbeat, agent, now)
    held = state.heartbeat
    if held is not None and is_repeated(new.counter, held.counter, new == held, "heartbeat"):
        return state
    if new.counter > _microseconds(now + CLOCK_TOLERANCE):
        raise FastForward(f"heartbeat counter {new.counter} is of a time yet to come")
    _names_no_less(state, new)
    _names_nothing_too_far(state, new)
    _names_what_is_held(state, new)
    floors = new.key_floors
    if "online" not in state.renewed:
        # A server of an old backup names lower ones. None sinks; and the doors stay fresh by it.
        known = state.key_floors
        higher = {name: floor for name, floor in floors.items() if floor > known.get(name, 0)}
        floors = {**known, **higher}
    return replace(state, heartbeat=new, key_floors=floors, renewed=state.renewed - {"online"})


def _names_no_less(state: TrustedState, new: Heartbeat) -> None:
    before = state.heartbeat
    if before is None:
        return
    pairs = {
        "root": (new.root, before.root),
        "policy": (number_of(new.policy), number_of(before.policy)),
        "revocation": (new.revocation.sequence, before.revocation.sequence),
        "lockdown": (new.lockdown, before.lockdown),
    }
    for what, (names, named) in pairs.items():
        if names < named:
            raise Rollback(f"heartbeat names {what} {names}, the one before named {named}")
    if differ(new.policy, before.policy):
        raise Equivocation(f"heartbeat names another policy {number_of(new.policy)} than before")
    if differ(new.revocation, before.revocation):
        raise Equivocation(
            f"heartbeat names another log entry {new.revocation.sequence} than before"
        )


def _names_nothing_too_far(state: TrustedState, new: Heartbeat) -> None:
    no_leap("root", new.root, state.root.version)
    no_leap("policy", number_of(new.policy), known_policy(state))
    no_leap("revocation", new.revocation.sequence, known_sequence(state))
    no_leap("lockdown", new.lockdown, known_lockdown(state))


def _names_what_is_held(state: TrustedState, new: Heartbeat) -> None:
    if state.policy is not None and state.policy_hash is not None:
        held = Version(version=state.policy.counter, hash=state.policy_hash)
        if "policy" not in state.renewed and differ(new.policy, held):
            raise Equivocation(f"heartbeat names another policy {held.version} than is in force")
    if "revoke" not in state.renewed and differ(new.revocation, state.revocation):
        raise Equivocation(
            f"heartbeat names another log entry {new.revocation.sequence} than the one held"
        )


def after_policy(state: TrustedState, envelope: bytes, agent: str, now: datetime) -> Candidate:
    """A policy that may come into force: `with_policy` is for when its chunks are there.

    The one in force comes back too: see its hash. Raises what `open_statement` raises,
    Equivocation, Rollback, FastForward or MixAndMatch.
    """
    policy = opened(state, envelope, Policy, agent, now)
    candidate = Candidate(policy, state.digest(payload_of(envelope, Policy)))
    _follows_policy(state, candidate)
    no_leap("policy", policy.counter, known_policy(state))
    named = None if state.heartbeat is None else state.heartbeat.policy
    if named is not None and policy.counter < named.version:
        raise Rollback(f"policy {policy.counter} is older than {named.version}, which is announced")
    return candidate


def with_policy(state: TrustedState, candidate: Candidate) -> TrustedState:
    """The state with the candidate in force.

    Other statements may have come since it was one: raises Equivocation, Rollback or MixAndMatch.
    That the newest heartbeat names a newer policy is no reason against: this one is a step there.
    """
    _follows_policy(state, candidate)
    return replace(
        state,
        policy=candidate.policy,
        policy_hash=candidate.hash,
        renewed=state.renewed - {"policy"},
    )


def _follows_policy(state: TrustedState, candidate: Candidate) -> None:
    held, version = state.policy, candidate.version
    if held is not None and "policy" not in state.renewed:
        same = candidate.hash == state.policy_hash
        is_repeated(version.version, held.counter, same, "policy")
    named = None if state.heartbeat is None else state.heartbeat.policy
    if differ(version, named):
        raise MixAndMatch(f"policy {version.version} is not the one the newest heartbeat names")


def after_lockdowns(
    state: TrustedState, envelope: bytes, agent: str, now: datetime
) -> TrustedState:
    """The state with the newest lockdowns; the same ones change nothing.

    Raises what `open_statement` raises, Equivocation, Rollback or FastForward.
    """
    new = opened(state, envelope, Lockdowns, agent, now)
    held = state.lockdowns
    if held is not None and is_repeated(new.counter, held.counter, new == held, "lockdown"):
        return state
    named = 0 if state.heartbeat is None else state.heartbeat.lockdown
    if new.counter < named:
        raise Rollback(f"lockdown {new.counter} is older than {named}, which is announced")
    no_leap("lockdown", new.counter, known_lockdown(state))
    return replace(state, lockdowns=new)


def after_command(
    state: TrustedState, envelope: bytes, agent: str, session: str, now: datetime
) -> tuple[TrustedState, Command]:
    """The state that has counted a command, and the command: it may be carried out this once.

    `session` is that of the connection it came by. Raises what `open_statement` raises (Expired
    above all), WrongSession, Replayed, Rollback or FastForward.
    """
    command = opened(state, envelope, Command, agent, now)
    if command.session != session:
        raise WrongSession(f"command {command.id} is for session {command.session}, not {session}")
    if command.counter == state.command:
        raise Replayed(f"command {command.counter} was taken already")
    if command.counter < state.command:
        raise Rollback(f"command {command.counter} is older than {state.command}")
    no_leap("command", command.counter, state.command)
    return replace(state, command=command.counter), command


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)
