"""The agent's TLS identity: a P-256 key made here, and the certificate the site issued for it.

<state_dir>/tls.pem        key and certificate in one file, so that they change together
<state_dir>/tls-next.pem   a key whose certificate was asked for

The keys are encrypted (PKCS #8) under the sealing key, like all secrets here. TLS is 1.3 in every
suite, and trusts the authorities of the site's root document alone.
"""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import NameOID

from edge_agent.files import write_private
from schemas.errors import BadSignature, MalformedKey, SchemaError, UnknownKey, WrongAudience
from schemas.root import Root


class TlsIdentity:
    """What one agent shows when it connects. Blocking: its files are small and rarely touched."""

    def __init__(self, state_dir: Path, kek: bytes) -> None:
        self._file = state_dir / "tls.pem"
        self._next = state_dir / "tls-next.pem"
        self._password = HKDF(hashes.SHA256(), 32, None, b"ostiary tls key").derive(kek).hex()

    @property
    def file(self) -> Path:
        """Where key and certificate are."""
        return self._file

    def certificate(self) -> x509.Certificate | None:
        """The certificate in use; None before the first. Raises MalformedKey or OSError."""
        try:
            return x509.load_pem_x509_certificate(self._file.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise MalformedKey(
                f"{self._file} is damaged ({error}): restore it from a backup, or enrol again"
            ) from None

    @property
    def until(self) -> datetime | None:
        """The end of the certificate in use."""
        certificate = self.certificate()
        return None if certificate is None else certificate.not_valid_after_utc

    def holds(self, pem: str) -> bool:
        """Whether this certificate is the one in use."""
        try:
            return self.certificate() == x509.load_pem_x509_certificate(pem.encode())
        except ValueError:
            return False

    def request(self, agent: str) -> str:
        """A certificate request (PKCS #10, PEM) for the next key, which is made if there is none.

        Asked again it is for the same key. Raises BadSignature if the sealing key is another.
        """
        self._forget_used()
        key = self._next_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, agent)])
        request = x509.CertificateSigningRequestBuilder().subject_name(name)
        signed = request.sign(key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()

    def take(self, pem: str, agent: str, root: Root) -> datetime:
        """Use this certificate and the key it was asked for, durably; gives its end.

        Raises UnknownKey if it is for another key or not by an authority of the site,
        WrongAudience if it is for another name, MalformedKey if it is no certificate.
        """
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode())
        except ValueError:
            raise MalformedKey("what came as a certificate is none") from None
        subject = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if [str(name.value) for name in subject] != [agent]:
            raise WrongAudience(f"the certificate is for {certificate.subject.rfc4514_string()}")
        if not any(_issued_by(certificate, authority) for authority in root.authorities):
            raise UnknownKey("the certificate is not by an authority of the site")
        if not self._next.exists():
            raise UnknownKey("a certificate came that was not asked for, or that is in use")
        key = self._next_key()
        if key.public_key() != certificate.public_key():
            raise UnknownKey("the certificate is for another key than the one asked for")
        write_private(self._file, self._sealed(key) + pem.encode())
        self._next.unlink()
        return certificate.not_valid_after_utc

    def context(self, root: Root) -> ssl.SSLContext:
        """For the link: shows the certificate, and speaks to the site's broker alone.

        Raises BadSignature if key and certificate can't be opened.
        """
        context = server_context(root)
        try:
            context.load_cert_chain(self._file, password=self._password)
        except ssl.SSLError as error:
            raise BadSignature(
                f"{self._file} can't be opened ({error.reason}): restore the sealing key that"
                " belongs to it, or enrol again"
            ) from None
        return context

    def _next_key(self) -> ec.EllipticCurvePrivateKey:
        if not self._next.exists():
            made = ec.generate_private_key(ec.SECP256R1())
            write_private(self._next, self._sealed(made))
            return made
        try:
            key = serialization.load_pem_private_key(
                self._next.read_bytes(), self._password.encode()
            )
        except ValueError:
            raise BadSignature(
                f"{self._next} can't be opened: restore the sealing key that belongs to it, or"
                " remove the file"
            ) from None
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    def _forget_used(self) -> None:
        """A kill between the two steps of `take` leaves a key that is in use already."""
        certificate = self.certificate() if self._next.exists() else None
        if certificate is not None and self._next_key().public_key() == certificate.public_key():
            self._next.unlink()

    def _sealed(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(self._password.encode()),
        )


def server_context(root: Root) -> ssl.SSLContext:
    """Speaks to whoever has a certificate of the site for the name that was dialled."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if not root.authorities:
        raise SchemaError("the root document names no TLS authority: enrol again")
    context.load_verify_locations(cadata="\n".join(root.authorities))
    return context


def _issued_by(certificate: x509.Certificate, authority: str) -> bool:
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
