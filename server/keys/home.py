"""Where the master keys are, and what may be asked of that place. None of it shows a key.

There are two homes: the database, sealed under the site's key-encryption key
(`server.keys.sealed`), and a PKCS #11 token (`server.keys.pkcs11`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from schemas.esam import KeyPlace
from schemas.keys import CheckValues
from schemas.suites import SuiteName

HomeName = Literal["sealed", "pkcs11"]


class KeysError(Exception):
    """What is refused, of what, why, and what to do. It never has a key in it."""


class HomeUnavailable(KeysError):
    """The place of the keys can't be opened or does not answer."""


class HomeLocked(HomeUnavailable):
    """The PIN was refused: another try might lock the token for good."""


@dataclass(frozen=True)
class NewVersion:
    """Three keys that were made: what the database keeps of them, and their check values."""

    stored: bytes = field(repr=False)
    check_values: CheckValues


@dataclass(frozen=True)
class Source:
    """Which version of which domain keys are taken from, as the database keeps it."""

    domain: str
    suite: SuiteName
    version: int
    stored: bytes = field(repr=False)


@dataclass(frozen=True)
class LoanPlace:
    """Which ESAM is lent a key: for which card, and which version at which place."""

    serial: bytes
    index: int
    version: int
    card_id: bytes


class KeyHome(Protocol):
    """Every call may block, and raises HomeUnavailable."""

    @property
    def name(self) -> HomeName: ...

    def open(self) -> None:
        """See that it answers."""

    def new_version(self, domain: str, suite: SuiteName, version: int) -> NewVersion:
        """Make the three keys of a version."""

    def keep_control_key(self, suite: SuiteName, serial: bytes, key: bytes) -> bytes:
        """Take an ESAM's control key; what is returned is for the database."""

    def forget_control_key(self, control: bytes) -> None:
        """Another has taken its place in the database; again is no error."""

    def package(
        self, source: Source, control: bytes, challenge: bytes, place: KeyPlace
    ) -> tuple[bytes, CheckValues]:
        """The data of WRITE KEY for `place` in an ESAM of the keys' suite, and what is in it."""

    def floor(self, suite: SuiteName, control: bytes, challenge: bytes, place: KeyPlace) -> bytes:
        """The data of RAISE FLOOR."""

    def lend(
        self,
        suite: SuiteName,
        control: bytes,
        challenge: bytes,
        place: LoanPlace,
        transport_key: bytes,
    ) -> bytes:
        """The data of WRITE KEY that lends an ESAM the transport key of one card."""

    def destroy(self, source: Source) -> None:
        """Make the keys of a version useless, wherever they are; again is no error."""
