"""The server's own TLS: certificates for its listeners and its MQTT client, made when needed.

<site>/tls/listener.pem, listener.key   what doors see: the broker and the enrolment listener
<site>/tls/client.pem, client.key       what the broker sees of the server
<site>/crl.pem                          certificates of agents that count no more

TLS 1.3 alone, and no authority but the site's own. These keys are not sealed, as brokers must read
them, but 0600: they are worth a certificate that the next start replaces.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from schemas.root import Root
from server.files import write_durably
from server.pki import Authority, pem_of

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Whoever is on this machine reaches the listeners so, whatever else they are called."""


@dataclass(frozen=True)
class TlsFiles:
    """A certificate and its key."""

    certificate: Path
    key: Path


def listener_files(site_dir: Path, authority: Authority, address: str, now: datetime) -> TlsFiles:
    """The listeners' certificate, for `address` and this machine's own names."""
    hosts = list(dict.fromkeys([address, *LOCAL]))
    return _files(
        site_dir,
        "listener",
        authority,
        now,
        lambda key: authority.for_server(key, hosts, now),
    )


def client_files(site_dir: Path, authority: Authority, name: str, now: datetime) -> TlsFiles:
    """The certificate by which the server, as MQTT client `name`, shows itself to the broker."""
    return _files(
        site_dir, "client", authority, now, lambda key: authority.for_client(key, name, now)
    )


def listener_context(files: TlsFiles) -> ssl.SSLContext:
    """For a listener that asks for no client certificate, such as that of enrolment."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.certificate, files.key)
    return context


def client_context(files: TlsFiles, root: Root) -> ssl.SSLContext:
    """For the server's link: only a broker with a certificate of the site is spoken to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata="\n".join(root.authorities))
    context.load_cert_chain(files.certificate, files.key)
    return context


def _files(
    site_dir: Path,
    name: str,
    authority: Authority,
    now: datetime,
    issue: Callable[[ec.EllipticCurvePublicKey], x509.Certificate],
) -> TlsFiles:
    folder = site_dir / "tls"
    folder.mkdir(mode=0o700, exist_ok=True)
    files = TlsFiles(folder / f"{name}.pem", folder / f"{name}.key")
    key = ec.generate_private_key(ec.SECP256R1())
    wanted = issue(key.public_key())
    if not _good(files, wanted, authority, now):
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_durably(files.key, private)
        write_durably(files.certificate, pem_of(wanted).encode(), mode=0o644)
    return files


def _good(files: TlsFiles, wanted: x509.Certificate, authority: Authority, now: datetime) -> bool:
    """Whether what is there says the same as `wanted`, and will for half its time."""
    try:
        there = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
        there.verify_directly_issued_by(authority.certificate)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    half = (wanted.not_valid_after_utc - wanted.not_valid_before_utc) / 2
    return (
        there.public_key() == key.public_key()
        and there.subject == wanted.subject
        and _names(there) == _names(wanted)
        and there.not_valid_after_utc - now > half
    )


def _names(certificate: x509.Certificate) -> Sequence[x509.GeneralName]:
    try:
        return list(
            certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        )
    except x509.ExtensionNotFound:
        return []
