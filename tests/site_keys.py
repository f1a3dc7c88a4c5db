"""A site's root of trust for tests: every role's key, the root document, and who signs what."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from secrets import token_bytes
from typing import Any

from schemas.envelope import Signer
from schemas.root import ROLE_PURPOSES, Role, Root
from schemas.statement import Statement, sign_statement
from schemas.suites import SuiteName, suite

ISSUED = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class SiteKeys:
    """One key a role; the root role has `root_keys` of them and a threshold."""

    suite_name: SuiteName = "intl"
    site: str = "demo"
    root_keys: int = 1
    threshold: int = 1
    authorities: tuple[str, ...] = ()
    version: int = 1
    signers: dict[str, list[Signer]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.suite = suite(self.suite_name)
        for role in ROLE_PURPOSES:
            count = self.root_keys if role == "root" else 1
            self.signers.setdefault(role, [self.new_signer() for _ in range(count)])

    def new_signer(self) -> Signer:
        return Signer.of(self.suite.generate(token_bytes))

    def signer(self, role: str) -> Signer:
        return self.signers[role][0]

    @property
    def root(self) -> Root:
        return self.root_document()

    def root_document(self, **changes: Any) -> Root:
        """The root document these keys make; `changes` replace fields of it."""
        every = [signer for holders in self.signers.values() for signer in holders]
        values: dict[str, Any] = {
            "site": self.site,
            "issued": ISSUED,
            "counter": self.version,
            "suite": self.suite_name,
            "keys": {each.keyid: each.key.public.point.hex() for each in every},
            "roles": {
                role: Role(
                    keyids=tuple(each.keyid for each in holders),
                    threshold=self.threshold if role == "root" else 1,
                )
                for role, holders in self.signers.items()
            },
            "authorities": self.authorities,
        }
        return Root.model_validate(values | changes)

    @property
    def root_envelope(self) -> bytes:
        """The root document, signed by all its root keys."""
        return sign_statement(self.root, *self.signers["root"])

    def sign(self, statement: Statement) -> bytes:
        """Signed by the role whose statement this is."""
        role = next(
            role
            for role, purposes in ROLE_PURPOSES.items()
            if any(f".{statement.purpose}.v1" in purpose for purpose in purposes)
        )
        return sign_statement(statement, self.signer(role))
