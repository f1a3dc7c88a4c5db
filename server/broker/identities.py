"""Certificates to be whoever a check wants to be, for as long as it takes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from secrets import token_bytes

from cryptography.hazmat.primitives.asymmetric import ec

from server.broker.mosquitto import pem_of_key
from server.pki import Authority, pem_of
from server.tls import TlsFiles

LASTING_DAYS = 1 / 24


@dataclass
class Identities:
    """Issued into `directory`, which only its owner can read and which goes away afterwards."""

    authority: Authority
    site: str
    directory: Path
    now: datetime
    _made: dict[tuple[bool, str], TlsFiles] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._other, _ = Authority.make(self.site, token_bytes, self.now)

    def tls(self, name: str) -> ssl.SSLContext:
        """With a certificate of the site for `name`."""
        return self._context(self._files(self.authority, name))

    def stranger(self, name: str | None) -> ssl.SSLContext:
        """With one of an authority that only calls itself the site's, or with none."""
        return self._context(None if name is None else self._files(self._other, name))

    def _context(self, files: TlsFiles | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority.pem)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if files is not None:
            context.load_cert_chain(files.certificate, files.key)
        return context

    def _files(self, authority: Authority, name: str) -> TlsFiles:
        which = authority is self.authority, name
        if which not in self._made:
            stem = f"{name}-{len(self._made)}"
            files = TlsFiles(self.directory / f"{stem}.pem", self.directory / f"{stem}.key")
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = authority.for_client(key.public_key(), name, self.now, LASTING_DAYS)
            files.certificate.write_text(pem_of(certificate))
            files.key.touch(mode=0o600)
            files.key.write_bytes(pem_of_key(key))
            self._made[which] = files
        return self._made[which]
