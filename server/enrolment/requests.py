"""What a device asks for when it enrols: checked before anyone is asked to approve it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.enrolment import MAX_REQUEST_BYTES, Enrolment
from schemas.envelope import TrustedKey, open_envelope, unverified_payload
from schemas.errors import SchemaError
from schemas.names import SERVER
from schemas.statement import parse_statement, payload_type
from schemas.suites import Suite, keyid
from server.pki import BadRequest, requested_key

_TYPE = payload_type("enrolment")


@dataclass(frozen=True)
class Applicant:
    """A device that holds the keys it asks to have accepted."""

    keyid: str
    point: bytes
    chain: str
    csr: str


def open_request(envelope: bytes, *, site: str, suite: Suite, agent: str) -> Applicant:
    """Read a request. Raises BadRequest.

    It vouches for itself alone: signed by the very key it names, with a certificate request signed
    by its TLS key. The device's clock may be anything yet, so no time counts; that it is fresh
    follows from the claim.
    """
    try:
        payload = unverified_payload(envelope, _TYPE, max_bytes=MAX_REQUEST_BYTES)
        request = parse_statement(payload, Enrolment)
        if request.suite != suite.name:
            raise BadRequest(f"keys of suite {request.suite}, but the site uses {suite.name}")
        point = bytes.fromhex(request.public_key)
        key = suite.public_key(point)
        name = keyid(key)
        ring = {name: TrustedKey(key, agent, frozenset({_TYPE}))}
        open_envelope(envelope, ring, _TYPE, max_bytes=MAX_REQUEST_BYTES)
    except SchemaError as error:
        raise BadRequest(str(error)) from None
    if (request.site, request.agent, request.audience) != (site, agent, SERVER):
        raise BadRequest(
            f"the request is of {request.agent} at {request.site},"
            f" the claim is for {agent} at {site}"
        )
    requested_key(request.csr, agent)
    return Applicant(name, point, request.chain, request.csr)
