"""A site's certificate authority for tests, and what clients and brokers show of it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.pki import Authority, pem_of


class SiteAuthority:
    """Issues into files of `directory`; `authority` is the site's own kind."""

    def __init__(self, directory: Path, site: str = "demo") -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.authority, _ = Authority.make(site, token_bytes, datetime.now(UTC))

    def issue(self, name: str, *, listener: bool = False) -> tuple[Path, Path]:
        """A certificate for a client called `name`, or a listener reached so, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        now, public = datetime.now(UTC), key.public_key()
        certificate = (
            self.authority.for_server(public, [name, "localhost", "127.0.0.1"], now)
            if listener
            else self.authority.for_client(public, name, now)
        )
        files = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        files[0].write_text(pem_of(certificate))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        files[1].chmod(0o600)
        return files

    def context(self, name: str | None) -> ssl.SSLContext:
        """How the client called `name` connects: with a new certificate; None: with none."""
        context = ssl.create_default_context(cadata=self.authority.pem)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if name is not None:
            context.load_cert_chain(*self.issue(name))
        return context
