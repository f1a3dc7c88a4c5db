"""The site's own certificate authority: ECDSA P-256 and X.509 in every suite, for TLS 1.3 alone.

What is signed end to end is signed in the site's suite; TLS keeps strangers off the wire and tells
the broker who is connected. Who relies on a certificate pins this authority: it is named in the
root document, and no public one counts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from schemas.enrolment import MAX_REQUEST_BYTES
from schemas.suites import RandomBytes
from schemas.suites.intl import INTL

AUTHORITY_DAYS = 20 * 365
CLIENT_DAYS = 90
SERVER_DAYS = 2 * 365
"""Made anew at any start with less than half of it left."""
CRL_DAYS = 365
"""Far beyond how often it is written: a list that is too old shuts every agent out."""
BACKDATED = timedelta(hours=1)
"""Clocks at doors go wrong; a certificate that is not yet valid would keep one out."""
_P256 = ec.SECP256R1()


class BadRequest(Exception):
    """A certificate request that can't be granted; the message says why."""


@dataclass(frozen=True)
class Revoked:
    """A certificate that counts no more."""

    serial: int
    since: datetime


@dataclass(frozen=True)
class Authority:
    """Issues certificates for one site."""

    certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def make(cls, site: str, random: RandomBytes, now: datetime) -> tuple[Authority, bytes]:
        """A new authority, and its private key to be sealed."""
        pair = INTL.generate(random)
        key = _private_key(pair.scalar)
        name = _name(f"{site} authority")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(int.from_bytes(random(16)) >> 1 | 1)
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key), pair.scalar

    @property
    def pem(self) -> str:
        """Its certificate, as the root document carries it."""
        return pem_of(self.certificate)

    def client(self, csr: str, name: str, now: datetime) -> x509.Certificate:
        """A certificate by which `name` shows itself to the broker. Raises BadRequest.

        Of the request only the public key is taken; it must be one for `name` itself.
        """
        return self.for_client(requested_key(csr, name), name, now)

    def for_client(
        self, key: ec.EllipticCurvePublicKey, name: str, now: datetime, days: float = CLIENT_DAYS
    ) -> x509.Certificate:
        """The same for a key that is known to be `name`'s."""
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        return self._issue(key, name, now, days, usage)

    def for_server(
        self, key: ec.EllipticCurvePublicKey, hosts: Sequence[str], now: datetime
    ) -> x509.Certificate:
        """A certificate for a listener that is reached as `hosts`: names or addresses."""
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        alternatives = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        return self._issue(key, hosts[0], now, SERVER_DAYS, usage, alternatives)

    def crl(self, revoked: Iterable[Revoked], now: datetime) -> bytes:
        """The list of certificates that count no more, as PEM."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - BACKDATED)
            .next_update(now + timedelta(days=CRL_DAYS))
            .add_extension(self._issuer(), critical=False)
            # rises with time, and needs no memory of the last one
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
        )
        for entry in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(entry.serial)
                .revocation_date(entry.since)
                .build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        now: datetime,
        days: float,
        *extensions: x509.ExtensionType,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(self._issuer(), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _issuer(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


def open_authority(pem: str, scalar: bytes) -> Authority:
    """The authority whose certificate and private key these are. Raises ValueError."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    key = _private_key(scalar)
    if certificate.public_key() != key.public_key():
        raise ValueError("the certificate is of another key")
    return Authority(certificate, key)


def requested_key(csr: str, name: str) -> ec.EllipticCurvePublicKey:
    """The key a request is for, if whoever made it holds that key and asks as `name`.

    Everything else that a request may ask for is passed over. Raises BadRequest.
    """
    if len(csr) > MAX_REQUEST_BYTES:
        raise BadRequest(f"certificate request of {len(csr)} characters")
    try:
        request = x509.load_pem_x509_csr(csr.encode())
        key = request.public_key()
        names = [str(n.value) for n in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        whole = len(request.subject)
        algorithm = request.signature_hash_algorithm
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm):
        raise BadRequest("not a PKCS #10 certificate request in PEM") from None
    # OpenSSL's other curves and RSA are not asked to verify anything for a stranger
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadRequest("certificate request for a key that is not on P-256")
    if names != [name] or whole != 1:
        raise BadRequest(f"certificate request whose subject is not CN={name} alone")
    if not isinstance(algorithm, hashes.SHA256):
        raise BadRequest("certificate request that is not signed with SHA-256")
    try:
        key.verify(request.signature, request.tbs_certrequest_bytes, ec.ECDSA(algorithm))
    except InvalidSignature:
        raise BadRequest("certificate request that its own key did not sign") from None
    return key


def pem_of(certificate: x509.Certificate) -> str:
    """RFC 7468 5."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private_key(scalar: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(scalar), _P256)


def _name(common_name: str) -> x509.Name:
    # X.520 allows 64 characters; a site's or host's name may be as long
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
