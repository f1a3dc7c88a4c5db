"""Becoming an agent of a site, from a claim code: `ostiary-agent enrol`.

The code names the server and the hash of the root document. So the first fetch may go over a line
that nothing vouches for: what comes is the site's root, or it is refused. From then on TLS is
pinned to the authorities the root names. Keys are made here; what leaves is public, but for the
claim's secret, and that goes only to a server the root vouches for.

Each step is durable and can be done again: who runs the same command after a power cut goes on
where it stopped.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge_agent.enrolled import FILE, Enrolled
from edge_agent.files import write_private
from edge_agent.tls import TlsIdentity, server_context
from schemas.enrolment import Claim, Enrolment, EnrolmentAnswer
from schemas.envelope import Signer
from schemas.errors import SchemaError, first_problem
from schemas.names import SERVER
from schemas.root import MAX_ROOT_BYTES, Root, claim_hash, open_first_root
from schemas.statement import sign_statement

TIMEOUT_S = 15.0
POLL_S = 2.0
SLOW_POLL_S = 10.0
_MOST_ANSWER = 64 * 1024
BEFORE = ("identity.sealed", "tls.pem", "tls-next.pem", "outbox.db", "outbox.db-wal")
BEFORE_TOO = ("outbox.db-shm", "trust.db", "trust.db-wal", "trust.db-shm")


class CannotEnrol(Exception):
    """Why the device is no agent yet, and what to do."""


class _Unreached(Exception):
    """The server did not answer: it may the next time."""


def set_aside(state_dir: Path, now: datetime) -> Path:
    """Move what made this device an agent out of the way: it will have new keys and a new chain.

    The secrets of cards stay. `enrolment.json` goes last: what broke off goes on the next time.
    """
    aside = state_dir / f"before-{now:%Y%m%dT%H%M%SZ}"
    aside.mkdir(mode=0o700, exist_ok=True)
    for name in (*BEFORE, *BEFORE_TOO, FILE):
        if (state_dir / name).exists():
            (state_dir / name).rename(aside / name)
    return aside


def fetch_root(claim: Claim) -> tuple[Root, bytes]:
    """The root document the claim names. Raises CannotEnrol."""
    unpinned = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unpinned.check_hostname = False
    unpinned.verify_mode = ssl.CERT_NONE  # nothing can vouch for the server yet; the hash does
    unpinned.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        status, body = _exchange(claim, unpinned, "GET", "/enrol/v1/root", None)
    except _Unreached as error:
        raise CannotEnrol(str(error)) from None
    if status != 200:
        raise CannotEnrol(f"{_where(claim)} is no Ostiary server, or is busy (HTTP {status})")
    if claim_hash(body) != claim.root:
        raise CannotEnrol(
            f"{_where(claim)} has another root document than the claim code names: either the"
            " site's keys were changed since (ask for a new claim), or this is not your server but"
            " someone in between. Nothing was sent to it"
        )
    try:
        return open_first_root(body), body
    except SchemaError as error:
        raise CannotEnrol(
            f"the root document of {_where(claim)} can't be used: {error}; are server and agent of"
            " one version?"
        ) from None


@dataclass(frozen=True)
class Application:
    """A device's request, ready to be sent as often as it takes."""

    claim: Claim
    root: Root
    body: bytes = field(repr=False)

    @classmethod
    def make(
        cls,
        claim: Claim,
        root: Root,
        *,
        signer: Signer,
        tls: TlsIdentity,
        chain: str,
        now: datetime,
    ) -> Application:
        """The same keys and chain each time."""
        statement = Enrolment(
            site=root.site,
            audience=SERVER,
            issued=now,
            counter=0,
            agent=claim.agent,
            suite=root.suite,
            public_key=signer.key.public.point.hex(),
            csr=tls.request(claim.agent),
            chain=chain,
        )
        envelope = sign_statement(statement, signer).decode()
        body = json.dumps({"secret": claim.secret.hex(), "enrolment": envelope}).encode()
        return cls(claim, root, body)

    def ask(self) -> EnrolmentAnswer:
        """Send the request, or ask what became of it. Raises CannotEnrol or _Unreached."""
        status, body = _exchange(
            self.claim, server_context(self.root), "POST", "/enrol/v1/requests", self.body
        )
        if status in (408, 429, 500, 503):
            raise _Unreached(f"{_where(self.claim)} is busy (HTTP {status})")
        if status != 200:
            raise CannotEnrol(f"{_where(self.claim)} turned this device away: {_detail(body)}")
        try:
            return EnrolmentAnswer.model_validate_json(body)
        except ValidationError as error:
            raise CannotEnrol(
                f"{_where(self.claim)} answers what this version does not understand"
                f" ({first_problem(error)}): are server and agent of one version?"
            ) from None


def wait_for_approval(
    application: Application,
    *,
    asked: Callable[[EnrolmentAnswer], None],
    waiting: Callable[[str], None],
    sleep: Callable[[float], Any],
) -> EnrolmentAnswer:
    """Ask until an operator has decided. Raises CannotEnrol.

    `asked` is called once, when the server has the request; `waiting` at each answer that is none.
    """
    told = False
    while True:
        try:
            answer = application.ask()
        except _Unreached as error:
            waiting(f"{error}; trying again")
            sleep(SLOW_POLL_S)
            continue
        if not told:
            asked(answer)
            told = True
        if answer.state == "approved":
            return answer
        if answer.state == "refused":
            raise CannotEnrol(
                f"{answer.detail or 'the operator refused'}. If that was a mistake, ask for a new"
                " claim code"
            )
        waiting("waiting for an operator to approve")
        sleep(POLL_S)


def settle(
    application: Application,
    answer: EnrolmentAnswer,
    *,
    state_dir: Path,
    root_file: Path,
    root_envelope: bytes,
    tls: TlsIdentity,
) -> Enrolled:
    """Keep what was granted, durably; `enrolment.json` last. Raises CannotEnrol or OSError."""
    claim, root = application.claim, application.root
    host, port = _broker(answer)
    write_private(root_file, root_envelope)
    try:
        if not tls.holds(answer.certificate or ""):  # else this is the second time
            tls.take(answer.certificate or "", claim.agent, root)
    except SchemaError as error:
        raise CannotEnrol(f"the server granted a certificate that can't be used: {error}") from None
    enrolled = Enrolled(site=root.site, agent=claim.agent, broker_host=host, broker_port=port)
    write_private(state_dir / FILE, enrolled.model_dump_json(indent=1).encode() + b"\n")
    return enrolled


def _broker(answer: EnrolmentAnswer) -> tuple[str, int]:
    scheme, _, place = (answer.broker or "").partition("://")
    host, _, port = place.rpartition(":")
    # whether TLS is spoken there is for this device's own settings to say, not for a server
    if scheme not in ("mqtts", "mqtt") or not host or not port.isdigit():
        raise CannotEnrol(f"the server names no broker that can be used: {answer.broker!r}")
    return host.strip("[]"), int(port)


def _exchange(
    claim: Claim, context: ssl.SSLContext, method: str, path: str, body: bytes | None
) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection(
        claim.host, claim.port, timeout=TIMEOUT_S, context=context
    )
    headers = {"Content-Type": "application/json"} if body is not None else {}
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read(max(MAX_ROOT_BYTES, _MOST_ANSWER) + 1)
    except ssl.SSLCertVerificationError as error:
        raise CannotEnrol(
            f"{_where(claim)} is not vouched for by the site's root ({error.verify_message}):"
            " someone may be in between, or the server's `address` setting is not the name in the"
            " claim. The claim's secret was not sent"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _Unreached(
            f"{_where(claim)} does not answer ({why}): is `ostiary serve` running, and is its"
            " enrolment port open to this device?"
        ) from None
    finally:
        connection.close()
    if len(data) > max(MAX_ROOT_BYTES, _MOST_ANSWER):
        raise CannotEnrol(f"{_where(claim)} sends without end: it is no Ostiary server")
    return answer.status, data


def _where(claim: Claim) -> str:
    return f"{claim.host}:{claim.port}"


def _detail(body: bytes) -> str:
    """What the server says, fit for a terminal."""
    try:
        detail = str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        detail = "without a reason"
    return "".join(c if c.isprintable() else "?" for c in detail[:300])
