"""Whom the built-in broker lets in: names that the server wrote down, by certificates that count.

The files are read again when they change: the server, or `ostiary broker check`, may be another
process. `Unguarded` stands in for all that where there are no certificates.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
from cryptography import x509

from server.broker.grants import (
    Grant,
    agent_grant,
    checker_grant,
    checker_id,
    server_grant,
    server_id,
)
from server.broker.rights import admitted_file, probes_file, read_admitted
from server.site import SiteError

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Subject:
    """Who a certificate says is there."""

    name: str
    serial: int


class Rules(Protocol):
    """What one connection may do."""

    @property
    def retain(self) -> bool:
        """Whether the broker keeps what it asks to be kept."""
        ...

    def may_publish(self, topic: str) -> bool:
        """Whether a message on `topic` is let in."""
        ...

    def may_subscribe(self, wanted: str) -> bool:
        """Whether the filter asks for nothing that is not granted."""
        ...


class Entry(Protocol):
    """Whom a broker lets in."""

    def admits(self, who: Subject | None) -> bool:
        """Whether to hear who is there at all; asked before a word of MQTT is read."""
        ...

    def rules(self, who: Subject | None, client_id: str) -> Rules | None:
        """What the connection may do under that client id; None: not be there."""
        ...

    def refresh(self) -> bool:
        """Look at what may have changed since; whether it has."""
        ...


class Admission:
    """Mutual TLS: a client is its certificate's subject, and nobody else's client id."""

    def __init__(self, site: str, site_dir: Path) -> None:
        """Raises SiteError."""
        self._site = site
        self._files = (admitted_file(site_dir), probes_file(site_dir))
        self._crl = site_dir / "crl.pem"
        self._seen = self._stamps()
        self._agents, self._revoked = self._read()

    def admits(self, who: Subject | None) -> bool:
        """Whether the name is one that was let in, and the certificate not taken back."""
        if who is None or who.serial in self._revoked:
            return False
        return who.name in self._agents or who.name in (
            server_id(self._site),
            checker_id(self._site),
        )

    def rules(self, who: Subject | None, client_id: str) -> Grant | None:
        """By the subject alone, which has to be the client id too."""
        if who is None or client_id != who.name or not self.admits(who):
            return None
        if who.name == server_id(self._site):
            return server_grant(self._site)
        if who.name == checker_id(self._site):
            return checker_grant(self._site)
        return agent_grant(self._site, who.name)

    def refresh(self) -> bool:
        """Read the files if they are others than before.

        One that can't be read is told of, and what was known still holds: nobody gets in by it.
        """
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen = stamps
        try:
            self._agents, self._revoked = self._read()
        except SiteError as error:
            log.error("admission_unreadable", why=str(error))
            return False
        return True

    def _stamps(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_stamp(file) for file in (*self._files, self._crl))

    def _read(self) -> tuple[frozenset[str], frozenset[int]]:
        names = frozenset[str]().union(*map(read_admitted, self._files))
        return names, _revoked(self._crl)


class Unguarded:
    """No certificates: whoever reaches the broker is let in. For tests and fleets on loopback.

    Only the server speaks downwards, so that neighbours on this machine make no noise.
    """

    def __init__(self, server: str | None = None) -> None:
        """`server` is the client id of the server; none: that of the topic's site."""
        self._server = server

    def admits(self, who: Subject | None) -> bool:
        """Everyone."""
        del who
        return True

    def rules(self, who: Subject | None, client_id: str) -> Rules:
        """By what the client calls itself."""
        del who
        return _Unguarded(client_id, self._server)

    def refresh(self) -> bool:
        """Nothing changes."""
        return False


@dataclass(frozen=True)
class _Unguarded:
    client_id: str
    server: str | None
    retain: bool = True

    def may_publish(self, topic: str) -> bool:
        levels = topic.split("/")
        if len(levels) < 3 or levels[0] != "ostiary" or levels[2] not in ("down", "all"):
            return True
        return self.client_id == (self.server or server_id(levels[1]))

    def may_subscribe(self, wanted: str) -> bool:
        del wanted
        return True


def subject_of(tls: ssl.SSLObject | None) -> Subject | None:
    """Who showed a certificate that the listener found good; None if it names not just one."""
    shown = tls.getpeercert() if tls is not None else None
    if not shown:
        return None
    subject: tuple[tuple[tuple[str, str], ...], ...] = shown["subject"]  # type: ignore[assignment]
    names = [value for part in subject for kind, value in part if kind == "commonName"]
    return Subject(names[0], int(str(shown["serialNumber"]), 16)) if len(names) == 1 else None


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _revoked(file: Path) -> frozenset[int]:
    try:
        listed = x509.load_pem_x509_crl(file.read_bytes())
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError) as error:
        raise SiteError(f"{file} can't be read: {error}; `ostiary serve` writes it") from None
    return frozenset(entry.serial_number for entry in listed)
