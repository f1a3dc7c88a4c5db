"""What a site's server says to one agent: every statement signed as it should be, or as asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from secrets import token_bytes, token_hex
from typing import Any

from schemas.card_chunks import slots, write_index, write_leaf
from schemas.command import MOVES_THE_STRIKE, PATIENT, PROMPT, Action, Command
from schemas.heartbeat import Heartbeat
from schemas.lockdown import Lockdown, Lockdowns
from schemas.policy import Policy, PolicyCard
from schemas.report import Pull
from schemas.revocation import (
    Denied,
    Revocation,
    RevocationEntry,
    RevocationReason,
    RevocationSnapshot,
    RevokedKind,
    write_denied,
)
from schemas.sealed_to import seal_to
from schemas.statement import sign_statement
from schemas.topics import CHUNK, LOCKDOWN, POLICY, REVOCATION, ROOT, SNAPSHOT
from schemas.transport import (
    TRANSPORT_LIFE,
    TransportKey,
    TransportRequest,
    TransportSource,
    transport_context,
)
from schemas.versions import LogHead, Version
from tests.site_keys import SiteKeys

ALL_WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass
class SiteVoice:
    """Knows what it published; `now` is a wall clock that a test may set."""

    keys: SiteKeys
    agent: str
    roots: list[bytes] = field(default_factory=list)
    policy: Policy | None = None
    policy_envelope: bytes = b""
    chunks: dict[str, bytes] = field(default_factory=dict)
    heads: list[LogHead] = field(default_factory=lambda: [LogHead()])
    entries: list[RevocationEntry] = field(default_factory=list)
    lockdowns: Lockdowns | None = None
    lockdown_envelope: bytes = b""
    commands: int = 0
    last_beat_us: int = 0

    def __post_init__(self) -> None:
        self.roots.append(self.keys.root_envelope)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def digest(self, data: bytes) -> str:
        return self.keys.suite.digest(data).hex()

    def common(self, **changes: Any) -> dict[str, Any]:
        return {"site": self.keys.site, "audience": self.agent, "issued": self.now(), **changes}

    def new_root(self, **changes: Any) -> bytes:
        """The next version, signed by the root keys of both; `changes` are of SiteKeys."""
        before = self.keys.signers["root"]
        self.keys.version += 1
        for name, value in changes.items():
            setattr(self.keys, name, value)
        signers = {each.keyid: each for each in [*before, *self.keys.signers["root"]]}
        self.roots.append(sign_statement(self.keys.root, *signers.values()))
        return self.roots[-1]

    def new_policy(
        self, cards: Iterable[PolicyCard | dict[str, Any]] = (), *, levels: int = 1, **changes: Any
    ) -> bytes:
        """The next version, in force from now on; its chunks are kept."""
        leaves: dict[tuple[str, ...], list[PolicyCard]] = {}
        for card in map(PolicyCard.model_validate, cards):
            leaves.setdefault(slots(card.card)[:levels], []).append(card)
        named = {place: self._keep(write_leaf(each)) for place, each in leaves.items()}
        if levels == 2:
            tops = {place[0] for place in named}
            indexes = {
                top: {place[1]: name for place, name in named.items() if place[0] == top}
                for top in tops
            }
            tree = {top: self._keep(write_index(index)) for top, index in indexes.items()}
        else:
            tree = {place[0]: name for place, name in named.items()}
        version = 1 if self.policy is None else self.policy.counter + 1
        values = {"counter": version, "levels": levels, "cards": tree, **changes}
        self.policy = Policy.model_validate(self.common(**values))
        self.policy_envelope = self.keys.sign(self.policy)
        return self.policy_envelope

    def _keep(self, body: bytes) -> str:
        name = self.digest(body)
        self.chunks[name] = body
        return name

    @property
    def policy_version(self) -> Version | None:
        if self.policy is None:
            return None
        payload = self.policy.model_dump_json().encode()
        return Version(version=self.policy.counter, hash=self.digest(payload))

    def heartbeat(self, **changes: Any) -> bytes:
        """It names what is the newest of everything."""
        now = self.now()
        counter = int(now.timestamp() * 1_000_000)
        self.last_beat_us = max(self.last_beat_us + 1, counter)
        values = self.common(
            issued=now,
            counter=self.last_beat_us,
            root=self.keys.version,
            policy=self.policy_version,
            revocation=self.heads[-1],
            lockdown=0 if self.lockdowns is None else self.lockdowns.counter,
        )
        return self.keys.sign(Heartbeat.model_validate(values | changes))

    def revoke(
        self,
        subject: str,
        kind: RevokedKind = "card",
        reason: RevocationReason = RevocationReason.LOST,
    ) -> bytes:
        """One more entry, and the message that tells all agents of it."""
        before = self.heads[-1]
        entry = RevocationEntry(
            kind=kind,
            subject=subject,
            reason=reason,
            sequence=before.sequence + 1,
            time=self.now().replace(microsecond=0),
        )
        digest = entry.hash_after(before.hash, self.keys.suite.digest)
        self.entries.append(entry)
        self.heads.append(LogHead(sequence=entry.sequence, hash=digest))
        return self.revocations_after(before.sequence)

    def revocations_after(self, sequence: int, **changes: Any) -> bytes:
        """All entries after that one, in one message."""
        values = self.common(
            audience="all",
            counter=len(self.entries),
            previous=self.heads[sequence].hash,
            entries=self.entries[sequence:],
        )
        return self.keys.sign(Revocation.model_validate(values | changes))

    def snapshot(self, each: int = 100) -> bytes:
        """The log in short; its chunks are kept."""
        lines = [
            Denied.model_validate(entry.model_dump(exclude={"time"})) for entry in self.entries
        ]
        bodies = [write_denied(lines[i : i + each]) for i in range(0, len(lines), each)]
        values = self.common(
            counter=len(self.entries),
            hash=self.heads[-1].hash,
            chunks=[self._keep(body) for body in bodies],
        )
        return self.keys.sign(RevocationSnapshot.model_validate(values))

    def lock_down(self, *active: Lockdown) -> bytes:
        """These, and no others, are in force from now on."""
        counter = 1 if self.lockdowns is None else self.lockdowns.counter + 1
        values = self.common(audience="all", counter=counter, active=active)
        self.lockdowns = Lockdowns.model_validate(values)
        self.lockdown_envelope = self.keys.sign(self.lockdowns)
        return self.lockdown_envelope

    def command(self, action: Action, session: str, door: str | None, **changes: Any) -> bytes:
        """The next command, in time for the session."""
        self.commands += 1
        now = self.now()
        values = self.common(
            issued=now,
            expires=now + (PROMPT if action in MOVES_THE_STRIKE else PATIENT),
            counter=self.commands,
            id=token_hex(8),
            session=session,
            action=action,
            door=door,
        )
        if action is Action.UNLOCK:
            values["until"] = now + timedelta(minutes=10)
        return self.keys.sign(Command.model_validate(values | changes))

    def transport_key(
        self,
        request: TransportRequest,
        key: bytes | None,
        /,
        *,
        loan: bytes | None = None,
        **changes: Any,
    ) -> bytes:
        """The answer to an agent's question: this key, sealed to it, or `changes` say why none."""
        now = self.now()
        values = self.common(
            issued=now,
            expires=now + TRANSPORT_LIFE,
            counter=int(now.timestamp() * 1_000_000),
            session=request.session,
            command=request.command,
            card=request.card,
            request=request.counter,
            loan=None if loan is None else loan.hex(),
        )
        if key is not None:
            context = transport_context(
                self.keys.site, self.agent, request.session, request.counter, request.card
            )
            recipient = bytes.fromhex(request.recipient)
            sealed = seal_to(self.keys.suite, recipient, key, context, token_bytes)
            values |= {"sealed": sealed.hex(), "source": TransportSource.LIST}
        return self.keys.sign(TransportKey.model_validate(values | changes))

    def answers(self, pull: Pull) -> list[tuple[str, bytes]]:
        """What an honest server sends for this, as channel and payload."""
        found: list[tuple[str, bytes]] = []
        if pull.root_after is not None:
            found += [(ROOT, envelope) for envelope in self.roots[pull.root_after :]]
        if pull.policy and self.policy_envelope:
            found.append((POLICY, self.policy_envelope))
        if pull.revocation_after is not None and pull.revocation_after < len(self.entries):
            behind = len(self.entries) - pull.revocation_after
            if behind > 250:
                found.append((SNAPSHOT, self.snapshot()))
            else:
                found.append((REVOCATION, self.revocations_after(pull.revocation_after)))
        if pull.lockdown and self.lockdown_envelope:
            found.append((LOCKDOWN, self.lockdown_envelope))
        found += [(CHUNK, self.chunks[name]) for name in pull.chunks if name in self.chunks]
        return found
