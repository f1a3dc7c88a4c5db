"""Where the master keys are, and what may be asked of that place. None of it shows a key.

There are two homes: the database, sealed under the site's key-encryption key
(`server.keys.sealed`), and a PKCS #11 token (`server.keys.pkcs11`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from schemas.esam import KeyPlace
from schemas.keys import CheckValues

HomeName = Literal["sealed", "pkcs11"]


class KeysError(Exception):
    """What is refused, of what, why, and what to do. It never has a key in it."""


class HomeUnavailable(KeysError):
    """The place of the keys can't be opened or does not answer."""


@dataclass(frozen=True)
class NewVersion:
    """Three keys that were made: what the database keeps of them, and their check values."""

    stored: bytes = field(repr=False)
    check_values: CheckValues


@dataclass(frozen=True)
class Source:
    """Which version of which domain a key is taken from, as the database keeps it."""

    domain: str
    version: int
    stored: bytes = field(repr=False)


class KeyHome(Protocol):
    """Every call may block, and raises HomeUnavailable."""

    @property
    def name(self) -> HomeName: ...

    def new_version(self, domain: str, version: int) -> NewVersion:
        """Make the three keys of a version."""

    def keep_control_key(self, serial: bytes, key: bytes) -> bytes:
        """Take an ESAM's control key; what is returned is for the database."""

    def forget_control_key(self, control: bytes) -> None:
        """Another has taken its place in the database; again is no error."""

    def package(
        self, source: Source, control: bytes, challenge: bytes, place: KeyPlace
    ) -> tuple[bytes, bytes]:
        """The data of WRITE KEY for `place`, and the check value of the key in it."""

    def floor(self, control: bytes, challenge: bytes, place: KeyPlace) -> bytes:
        """The data of RAISE FLOOR."""

    def destroy(self, source: Source) -> None:
        """Make the keys of a version useless, wherever they are; again is no error."""
