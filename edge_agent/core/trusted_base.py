"""What an agent believes, as a value, and how what comes is held against it.

The rules themselves are in `trusted_state` and `trusted_log`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from schemas.envelope import KeyRing, unverified_payload
from schemas.errors import Equivocation, FastForward, Rollback, WrongAudience
from schemas.heartbeat import Heartbeat
from schemas.lockdown import Lockdowns
from schemas.policy import Policy
from schemas.revocation import Revocation, RevocationSnapshot
from schemas.root import RoleName, Root
from schemas.statement import S, Statement, open_statement, payload_type
from schemas.suites import suite
from schemas.versions import MAX_LEAP, LogHead, Version

MAX_STATEMENT_BYTES = 192 * 1024
"""The largest is a policy: its doors, schedules, rules and up to 64 digests."""


@dataclass(frozen=True, slots=True)
class TrustedState:
    """All that binds what may come next. Make the first with `pinned`."""

    root: Root
    ring: KeyRing = field(compare=False, repr=False)
    """The root's keys, taken out once: that costs more than a signature."""
    heartbeat: Heartbeat | None = None
    heard: datetime | None = None
    """When the newest heartbeat was issued of which nothing lacked: freshness counts from here."""
    policy: Policy | None = None
    """The one in force."""
    policy_hash: str | None = None
    revocation: LogHead = field(default_factory=LogHead)
    lockdowns: Lockdowns | None = None
    command: int = 0
    """Counter of the last command that was taken."""
    key_floors: Mapping[str, int] = field(default_factory=dict)
    """Key domain -> lowest version that counts: the highest any heartbeat said."""
    renewed: frozenset[RoleName] = frozenset()
    """Roles with new keys that have not spoken since."""

    @classmethod
    def pinned(cls, root: Root) -> TrustedState:
        """What an agent believes that knows the root document alone.

        Raises SchemaError if its keys are malformed.
        """
        return cls(root, root.key_ring())

    def hold_to(self, pinned: Root) -> None:
        """Raises WrongAudience or Equivocation if this is not a state of the pinned root's site."""
        root = self.root
        if root.site != pinned.site or root.suite != pinned.suite:
            raise WrongAudience(
                f"state of site {root.site} ({root.suite}), but the root document is of"
                f" {pinned.site} ({pinned.suite}): give this agent a state directory of its own"
            )
        if root.version == pinned.version and root != pinned:
            raise Equivocation(
                f"another root document {pinned.version} than the one pinned before: give this"
                " agent the one it was enrolled with, or a state directory of its own"
            )

    def digest(self, data: bytes) -> str:
        """The hash of the site's suite, in hex."""
        return suite(self.root.suite).digest(data).hex()


@dataclass(frozen=True)
class Candidate:
    """A policy that may come into force once its chunks are there."""

    policy: Policy
    hash: str

    @property
    def version(self) -> Version:
        """As a heartbeat names it."""
        return Version(version=self.policy.counter, hash=self.hash)


_TO_ALL = (Revocation, RevocationSnapshot, Lockdowns)
"""What may be for everyone. The rest is one agent's own."""


def opened(state: TrustedState, envelope: bytes, model: type[S], agent: str, now: datetime) -> S:
    """A statement that is signed, well formed, for this agent and in time.

    Raises what `open_statement` raises.
    """
    statement = open_statement(
        envelope,
        model,
        state.ring,
        site=state.root.site,
        audience=agent,
        now=now,
        max_bytes=MAX_STATEMENT_BYTES,
    )
    if statement.audience != agent and not issubclass(model, _TO_ALL):
        raise WrongAudience(f"{statement.purpose} is for everyone, and must be for {agent} alone")
    return statement


def payload_of(envelope: bytes, model: type[Statement]) -> bytes:
    """The exact bytes that were signed, of an envelope that `opened` took."""
    purpose: str = model.model_fields["purpose"].default
    return unverified_payload(envelope, payload_type(purpose), max_bytes=MAX_STATEMENT_BYTES)


def is_repeated(number: int, held: int, same: bool, what: str) -> bool:
    """Whether this is what is held. Raises Rollback or Equivocation."""
    if number < held:
        raise Rollback(f"{what} {number} is older than {held}, which is held")
    if number == held and not same:
        raise Equivocation(f"another {what} {number} than the one held")
    return number == held


def no_leap(what: str, number: int, known: int) -> None:
    """Raises FastForward if `number` is too far beyond what is known.

    Who knows of none (0) can't tell: the first may have any number, and so may that of new keys.
    """
    if known and number > known + MAX_LEAP:
        raise FastForward(f"{what} {number} is too far ahead of {known}")


def differ(a: Version | LogHead | None, b: Version | LogHead | None) -> bool:
    """Whether these give one number two hashes."""
    return a is not None and b is not None and number_of(a) == number_of(b) and a.hash != b.hash


def number_of(of: Version | LogHead | None) -> int:
    """The number of what a hash stands by; 0 for none."""
    match of:
        case Version():
            return of.version
        case LogHead():
            return of.sequence
    return 0


def known_policy(state: TrustedState) -> int:
    """The newest policy in force or named."""
    named = 0 if state.heartbeat is None else number_of(state.heartbeat.policy)
    if state.policy is None or "policy" in state.renewed:
        return named
    return max(named, state.policy.counter)


def known_sequence(state: TrustedState) -> int:
    """The newest log entry held or named."""
    named = 0 if state.heartbeat is None else state.heartbeat.revocation.sequence
    return max(named, state.revocation.sequence)


def known_lockdown(state: TrustedState) -> int:
    """The newest lockdown statement held or named."""
    named = 0 if state.heartbeat is None else state.heartbeat.lockdown
    return max(named, lockdown_counter(state))


def lockdown_counter(state: TrustedState) -> int:
    """The lockdown statement held; 0 for none."""
    return 0 if state.lockdowns is None else state.lockdowns.counter
