"""The server's side of one site, by hand: says to one agent whatever a test wants said."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.card_chunks import slots, write_index, write_leaf
from schemas.command import Action, Command
from schemas.heartbeat import Heartbeat
from schemas.lockdown import Lockdown, Lockdowns
from schemas.policy import WEEKDAYS, DoorSettings, Policy, PolicyCard, Rule, Schedule, Window
from schemas.revocation import (
    Denied,
    Revocation,
    RevocationEntry,
    RevocationReason,
    RevocationSnapshot,
    write_denied,
)
from schemas.root import RoleName
from schemas.statement import Statement, sign_statement
from schemas.suites import SuiteName
from schemas.versions import LogHead, Version
from tests.site_keys import SiteKeys

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
SITE, AGENT, DOOR, SESSION = "demo", "front-agent", "front", "00112233445566aa"
ALWAYS = Schedule(windows=(Window(start="00:00", end="24:00", days=WEEKDAYS),))


def microseconds(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def card(number: int, **changes: Any) -> PolicyCard:
    values = {"person": f"p{number}", "groups": ("staff",), "domains": (DOOR,)} | changes
    return PolicyCard(card=f"{number:016x}", **values)


class Centre:
    """Counts nothing by itself but the log's entries and the root's versions."""

    def __init__(self, suite_name: SuiteName = "intl", agent: str = AGENT, **keys: Any) -> None:
        self.keys = SiteKeys(suite_name, SITE, **keys)
        self.agent = agent
        self.entries: list[RevocationEntry] = []
        self.heads = [LogHead()]
        """After each entry, from none on."""

    @property
    def head(self) -> LogHead:
        return self.heads[-1]

    def digest(self, data: bytes) -> str:
        return self.keys.suite.digest(data).hex()

    def sign(self, statement: Statement) -> bytes:
        return self.keys.sign(statement)

    def heartbeat(self, at: datetime = NOW, **changes: Any) -> bytes:
        """Names nothing, unless told to."""
        values: dict[str, Any] = {
            "site": SITE,
            "audience": self.agent,
            "issued": at,
            "counter": microseconds(at),
            "root": self.keys.version,
            "policy": None,
            "revocation": LogHead(),
            "lockdown": 0,
        }
        return self.sign(Heartbeat.model_validate(values | changes))

    def policy(
        self, version: int, cards: Iterable[PolicyCard] = (), *, levels: int = 1, **changes: Any
    ) -> tuple[bytes, dict[str, bytes]]:
        """The envelope, and the chunks by their digest."""
        chunks: dict[str, bytes] = {}

        def keep(body: bytes) -> str:
            chunks[self.digest(body)] = body
            return self.digest(body)

        places: defaultdict[str, defaultdict[str, list[PolicyCard]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for each in cards:
            first, second = slots(each.card)
            places[first][second if levels == 2 else ""].append(each)
        top = {}
        for first, below in places.items():
            leaves = {second: keep(write_leaf(held)) for second, held in below.items()}
            top[first] = keep(write_index(leaves)) if levels == 2 else leaves[""]
        values: dict[str, Any] = {
            "site": SITE,
            "audience": self.agent,
            "issued": NOW,
            "counter": version,
            "doors": {DOOR: DoorSettings(domain=DOOR, suite=self.keys.suite_name)},
            "schedules": {"always": ALWAYS},
            "rules": (Rule(group="staff", doors=(DOOR,), schedule="always"),),
            "levels": levels,
            "cards": top,
        }
        return self.sign(Policy.model_validate(values | changes)), chunks

    def policy_version(self, version: int, *args: Any, **changes: Any) -> Version:
        """What a heartbeat says of the policy that `policy` makes of the same."""
        envelope, _ = self.policy(version, *args, **changes)
        return Version(version=version, hash=self.digest(payload(envelope)))

    def revoke(
        self,
        kind: str,
        subject: str,
        reason: RevocationReason = RevocationReason.REVOKED,
        *,
        at: datetime = NOW,
    ) -> bytes:
        """Adds an entry to the log; the message with it alone."""
        sequence = len(self.entries) + 1
        entry = RevocationEntry.model_validate(
            {"kind": kind, "subject": subject, "sequence": sequence, "reason": reason, "time": at}
        )
        self.entries.append(entry)
        at = entry.hash_after(self.head.hash, self.keys.suite.digest)
        self.heads.append(LogHead(sequence=sequence, hash=at))
        return self.log_after(sequence - 1)

    def log_after(self, sequence: int, until: int | None = None, **changes: Any) -> bytes:
        """The entries that follow."""
        entries = self.entries[sequence:until]
        values: dict[str, Any] = {
            "site": SITE,
            "audience": "all",
            "issued": NOW,
            "counter": entries[-1].sequence,
            "previous": self.heads[sequence].hash,
            "entries": tuple(entries),
        }
        return self.sign(Revocation.model_validate(values | changes))

    def snapshot(self, per_chunk: int = 2, **changes: Any) -> tuple[bytes, dict[str, bytes]]:
        """The whole log in short, and its chunks by their digest."""
        latest = {
            (e.kind, e.subject): Denied(**e.model_dump(exclude={"time"})) for e in self.entries
        }
        lines = list(latest.values())
        bodies = [write_denied(lines[i : i + per_chunk]) for i in range(0, len(lines), per_chunk)]
        chunks = {self.digest(body): body for body in bodies}
        values: dict[str, Any] = {
            "site": SITE,
            "audience": self.agent,
            "issued": NOW,
            "counter": self.head.sequence,
            "hash": self.head.hash,
            "chunks": tuple(chunks),
        }
        return self.sign(RevocationSnapshot.model_validate(values | changes)), chunks

    def lockdowns(self, counter: int, *active: Lockdown, **changes: Any) -> bytes:
        values: dict[str, Any] = {
            "site": SITE,
            "audience": "all",
            "issued": NOW,
            "counter": counter,
            "active": active,
        }
        return self.sign(Lockdowns.model_validate(values | changes))

    def command(
        self, counter: int, action: Action = Action.LOCK, at: datetime = NOW, **changes: Any
    ) -> bytes:
        values: dict[str, Any] = {
            "site": SITE,
            "audience": self.agent,
            "issued": at,
            "expires": at + timedelta(seconds=5),
            "counter": counter,
            "id": f"{counter % 2**64:016x}",
            "session": SESSION,
            "action": action,
            "door": DOOR,
        }
        if action is Action.UNLOCK:
            values["until"] = at + timedelta(hours=1)
        return self.sign(Command.model_validate(values | changes))

    def next_root(self, *renewed: RoleName, **changes: Any) -> bytes:
        """The root document that follows, with new keys for these roles."""
        signers = list(self.keys.signers["root"])
        for role in renewed:
            self.keys.signers[role] = [self.keys.new_signer() for _ in self.keys.signers[role]]
        self.keys.version += 1
        signers += [each for each in self.keys.signers["root"] if each not in signers]
        return sign_statement(self.keys.root_document(**changes), *signers)


def payload(envelope: bytes) -> bytes:
    """What was signed."""
    return b64decode(json.loads(envelope)["payload"])


def lockdown(name: str = SITE, scope: str = "site", **changes: Any) -> Lockdown:
    values = {"id": "fire", "scope": scope, "name": name, "since": NOW} | changes
    return Lockdown.model_validate(values)
