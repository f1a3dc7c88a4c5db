"""DSSE v1: the one envelope for everything that is signed.

https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md

The signature is over the pre-authentication encoding (PAE) of the payload's exact bytes and its
type, so a payload of one purpose can't be passed off as another. The order of work on receipt is
fixed: size, shape, key known and allowed for this purpose, signature; only then may a caller parse
what `open_envelope` returns. The key fixes the algorithm; the message has no say in it.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schemas.errors import (
    MalformedEnvelope,
    SchemaError,
    ThresholdNotMet,
    UnknownKey,
    WrongPurpose,
)
from schemas.strict_json import NotStrictJson, read_json
from schemas.suites import PrivateKey, PublicKey, keyid

MAX_ENVELOPE_BYTES = 512 * 1024
MAX_SIGNATURES = 16


@dataclass(frozen=True)
class Signer:
    """A private key and the name envelopes carry for it."""

    key: PrivateKey = field(repr=False)
    keyid: str

    @classmethod
    def of(cls, key: PrivateKey) -> Signer:
        """The signer whose keyid is computed from the key itself."""
        return cls(key, keyid(key.public))


@dataclass(frozen=True)
class TrustedKey:
    """A public key, whose it is, and the payload types it may sign."""

    key: PublicKey
    holder: str
    payload_types: frozenset[str]


KeyRing = Mapping[str, TrustedKey]
"""keyid -> key: what a receiver trusts, and for what."""


@dataclass(frozen=True)
class Opened:
    """A payload whose signature held."""

    payload: bytes
    holder: str
    keyid: str
    signature: bytes


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE pre-authentication encoding."""
    type_bytes = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(type_bytes), type_bytes, len(payload), payload)


def seal_envelope(payload_type: str, payload: bytes, signers: Sequence[Signer]) -> bytes:
    """The JSON envelope over `payload`, signed by each signer."""
    message = pae(payload_type, payload)
    return envelope_json(payload_type, payload, [(s.keyid, s.key.sign(message)) for s in signers])


def envelope_json(
    payload_type: str, payload: bytes, signatures: Sequence[tuple[str, bytes]]
) -> bytes:
    """The envelope as JSON from parts already signed: how a store gives one back."""
    return json.dumps(
        {
            "payloadType": payload_type,
            "payload": b64encode(payload).decode(),
            "signatures": [
                {"keyid": name, "sig": b64encode(signature).decode()}
                for name, signature in signatures
            ],
        },
        separators=(",", ":"),
    ).encode()


def open_envelope(
    data: bytes,
    trusted: KeyRing,
    payload_type: str,
    *,
    max_bytes: int = MAX_ENVELOPE_BYTES,
) -> Opened:
    """The payload, if a key trusted for `payload_type` signed it.

    Raises MalformedEnvelope, WrongPurpose, UnknownKey, MalformedSignature or BadSignature. As DSSE
    asks, signatures by unknown keys are passed over; one good signature suffices.
    """
    payload, signatures = _parts(data, payload_type, max_bytes)
    message = pae(payload_type, payload)
    refusal: SchemaError = UnknownKey("no signature is by a key trusted for this purpose")
    for name, signature in signatures:
        trust = trusted.get(name)
        if trust is None or payload_type not in trust.payload_types:
            continue
        try:
            trust.key.verify(message, signature)
        except SchemaError as error:
            refusal = error
            continue
        return Opened(payload, trust.holder, name, signature)
    raise refusal


def unverified_payload(data: bytes, payload_type: str, *, max_bytes: int) -> bytes:
    """The payload of an envelope nobody has vouched for yet: to be verified by what it says itself.

    Only a document that carries its own keys needs this. Raises MalformedEnvelope or WrongPurpose.
    """
    return _parts(data, payload_type, max_bytes)[0]


def open_by_threshold(
    data: bytes,
    trusted: KeyRing,
    payload_type: str,
    threshold: int,
    *,
    max_bytes: int = MAX_ENVELOPE_BYTES,
) -> bytes:
    """The payload, if at least `threshold` different keys trusted for `payload_type` signed it.

    Raises as `open_envelope` does, and ThresholdNotMet. A key that signs twice counts once, and a
    bad signature counts for nothing.
    """
    payload, signatures = _parts(data, payload_type, max_bytes)
    message = pae(payload_type, payload)
    good: set[str] = set()
    for name, signature in signatures:
        trust = trusted.get(name)
        if trust is None or name in good or payload_type not in trust.payload_types:
            continue
        try:
            trust.key.verify(message, signature)
        except SchemaError:
            continue
        good.add(name)
    if len(good) < threshold:
        raise ThresholdNotMet(f"{len(good)} good signatures of the {threshold} that are needed")
    return payload


def _parts(data: bytes, payload_type: str, max_bytes: int) -> tuple[bytes, list[tuple[str, bytes]]]:
    if len(data) > max_bytes:
        raise MalformedEnvelope(f"envelope is {len(data)} bytes long, the limit is {max_bytes}")
    found_type, payload, signatures = _shape(data)
    if found_type != payload_type:
        raise WrongPurpose(f"envelope is of type {found_type[:100]!r}, not {payload_type!r}")
    return payload, signatures


def _shape(data: bytes) -> tuple[str, bytes, list[tuple[str, bytes]]]:
    try:
        envelope = read_json(data)
    except NotStrictJson as error:
        raise MalformedEnvelope(f"envelope {error}") from None
    match envelope:
        case {
            "payloadType": str(payload_type),
            "payload": str(payload),
            "signatures": list(signatures),
        } if 0 < len(signatures) <= MAX_SIGNATURES:
            return payload_type, _base64(payload), [_signature(s) for s in signatures]
    raise MalformedEnvelope("envelope lacks payloadType, payload or 1 to 16 signatures")


def _signature(entry: object) -> tuple[str, bytes]:
    match entry:
        case {"keyid": str(name), "sig": str(signature)}:
            return name, _base64(signature)
    raise MalformedEnvelope("a signature lacks keyid or sig")


def _base64(text: str) -> bytes:
    try:
        data = b64decode(text)
    except (binascii.Error, ValueError):
        raise MalformedEnvelope("payload or signature is not base64") from None
    if b64encode(data).decode() != text:  # other characters, unused bits, surplus padding
        raise MalformedEnvelope("payload or signature is not canonical base64")
    return data
