"""The site's certificate authority, and requests from whoever knocks."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from server.pki import Authority, BadRequest, Revoked, open_authority, requested_key

NOW = datetime(2026, 11, 25, 8, tzinfo=UTC)


@pytest.fixture(scope="module")
def made() -> tuple[Authority, bytes]:
    return Authority.make("demo", os.urandom, NOW)


@pytest.fixture(scope="module")
def authority(made) -> Authority:
    return made[0]


def request(name: str = "front", key=None, *, also=(), names=(), digest=None) -> str:
    """A certificate request as a device would make it, or worse."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name), *names]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    for extension in also:
        builder = builder.add_extension(extension, critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else digest or hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def extension(certificate: x509.Certificate, kind: type):
    return certificate.extensions.get_extension_for_class(kind)


def test_an_authority_is_found_again_by_its_key(made):
    authority, scalar = made
    assert open_authority(authority.pem, scalar).certificate == authority.certificate
    with pytest.raises(ValueError, match="another key"):
        open_authority(authority.pem, bytes(31) + b"\x07")


def test_a_client_certificate_names_the_agent_and_is_good_for_90_days(authority):
    certificate = authority.client(request(), "front", NOW)
    certificate.verify_directly_issued_by(authority.certificate)
    assert certificate.subject.rfc4514_string() == "CN=front"
    assert certificate.not_valid_after_utc == NOW + timedelta(days=90)
    usage = extension(certificate, x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not extension(certificate, x509.BasicConstraints).value.ca


def test_a_request_gets_nothing_but_what_is_given(authority):
    wishes = (
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName([x509.DNSName("server-demo")]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    )
    certificate = authority.client(request(also=wishes), "front", NOW)
    assert not extension(certificate, x509.BasicConstraints).value.ca
    with pytest.raises(x509.ExtensionNotFound):
        extension(certificate, x509.SubjectAlternativeName)
    usage = extension(certificate, x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def forged() -> str:
    """Signed by another key than the one it is for."""
    good = x509.load_pem_x509_csr(request().encode())
    other = x509.load_pem_x509_csr(request().encode())
    der = good.public_bytes(serialization.Encoding.DER)
    wrong = der.replace(good.signature[-16:], other.signature[-16:])
    from base64 import encodebytes

    text = encodebytes(wrong).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize(
    ("csr", "why"),
    [
        (lambda: request("vault"), "subject is not"),
        (lambda: request("front\x00"), "subject is not"),
        (
            lambda: request(names=[x509.NameAttribute(NameOID.COMMON_NAME, "vault")]),
            "subject is not",
        ),
        (
            lambda: request(names=[x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x")]),
            "subject is not",
        ),
        (lambda: request(key=rsa.generate_private_key(65537, 2048)), "not on P-256"),
        (lambda: request(key=ec.generate_private_key(ec.SECP384R1())), "not on P-256"),
        (lambda: request(key=ed25519.Ed25519PrivateKey.generate()), "not on P-256"),
        (lambda: request(digest=hashes.SHA512()), "not signed with SHA-256"),
        (forged, "own key did not sign"),
        (lambda: "", "not a PKCS #10"),
        (lambda: "-----BEGIN CERTIFICATE REQUEST-----\n\n", "not a PKCS #10"),
        (lambda: request() + "x" * 20_000, "characters"),
        (lambda: request().replace("CERTIFICATE REQUEST", "CERTIFICATE"), "not a PKCS #10"),
        (lambda: "\ud800", "not a PKCS #10"),
    ],
)
def test_a_request_that_is_not_for_a_key_of_its_own_name_is_refused(csr, why):
    with pytest.raises(BadRequest, match=why):
        requested_key(csr(), "front")


GOOD = request()


@given(st.integers(min_value=0, max_value=len(GOOD) - 1), st.characters(max_codepoint=255))
def test_a_damaged_request_is_a_refusal_and_never_an_error(place, character):
    damaged = GOOD[:place] + character + GOOD[place + 1 :]
    try:
        key = requested_key(damaged, "front")
    except BadRequest:
        return
    assert key == requested_key(GOOD, "front")  # blanks, say: nothing that is signed


def test_a_server_certificate_is_for_names_and_addresses(authority):
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    certificate = authority.for_server(key, ["doors.example", "10.0.0.5", "::1"], NOW)
    names = extension(certificate, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["doors.example"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.5", "::1"]


def test_the_list_of_revoked_certificates_is_signed_and_rises(authority):
    first = x509.load_pem_x509_crl(authority.crl([], NOW))
    second = x509.load_pem_x509_crl(authority.crl([Revoked(7, NOW)], NOW + timedelta(seconds=1)))
    assert list(first) == []
    assert [entry.serial_number for entry in second] == [7]
    numbers = [extension(crl, x509.CRLNumber).value.crl_number for crl in (first, second)]
    assert numbers[0] < numbers[1]
    assert second.is_signature_valid(authority.certificate.public_key())


def test_openssl_takes_the_chain_as_strictly_as_it_can(authority, tmp_path):
    """With every check that later versions of Python make by default."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    fresh, _ = Authority.make("demo", os.urandom, now)
    certificate = fresh.for_server(key.public_key(), ["localhost"], now)
    context = ssl.create_default_context(cadata=fresh.pem)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    file = tmp_path / "both.pem"
    pem = serialization.Encoding.PEM
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, form, none))
    listening.load_cert_chain(file)
    out, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(back, out, server_hostname="localhost")
    server = listening.wrap_bio(out, back, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.version() == "TLSv1.3"
