"""How a device becomes an agent: a claim code, its own keys, an operator's approval.

The claim code says where the server is, proves that an operator invited the device, and names the
root document by its hash: so what the device pins does not depend on the network.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from schemas.errors import MalformedClaim
from schemas.names import AgentId, ChainId, DigestHex, PointHex
from schemas.statement import Statement
from schemas.suites import SuiteName

CLAIM_MINUTES = 10
SECRET_BYTES = 15
"""24 base-32 digits, 120 bits: nobody guesses it within ten minutes, or ever."""
MAX_REQUEST_BYTES = 16 * 1024
_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|[0-9a-fA-F:.]{2,45})\Z")

Pem = Annotated[str, StringConstraints(pattern=r"^-----BEGIN ", max_length=8192)]


class Claim(BaseModel):
    """What a claim code holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: int = Field(ge=1, le=65535)
    agent: AgentId
    secret: bytes = Field(repr=False)
    root: DigestHex = Field(description="SHA-256 of the root document's envelope, in hex")

    @property
    def code(self) -> str:
        """The code as text; a QR code holds the same."""
        secret = base64.b32encode(self.secret).decode().rstrip("=")
        groups = "-".join(secret[i : i + 4] for i in range(0, len(secret), 4))
        root = base64.b32encode(bytes.fromhex(self.root)).decode().rstrip("=")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ostiary://{host}:{self.port}/{self.agent}/{groups}?root={root}"

    @classmethod
    def parse(cls, code: str) -> Claim:
        """Read a code. Raises MalformedClaim."""
        try:
            parts = urlsplit(code.strip())
            agent, secret = parts.path.removeprefix("/").split("/")
            (root,) = parse_qs(parts.query, strict_parsing=True)["root"]
            if parts.scheme != "ostiary" or not _HOST.match(parts.hostname or ""):
                raise ValueError("not an ostiary:// address")
            return cls.model_validate(
                {
                    "host": parts.hostname,
                    "port": parts.port,
                    "agent": agent,
                    "secret": _base32(secret.replace("-", ""), SECRET_BYTES),
                    "root": _base32(root, 32).hex(),
                }
            )
        except (ValueError, KeyError):
            raise MalformedClaim(
                "not a claim code: copy all of it, from ostiary:// to the end, as"
                " `ostiary agents claim` printed it"
            ) from None


def _base32(text: str, length: int) -> bytes:
    data = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    if len(data) != length:
        raise ValueError("wrong length")
    return data


class Enrolment(Statement):
    """The device's request, signed by the very key it asks to have accepted.

    It goes with the claim's secret over TLS to a server whose certificate the pinned root vouches
    for. `counter` is 0.
    """

    purpose: Literal["enrolment"] = "enrolment"
    agent: AgentId
    suite: SuiteName
    public_key: PointHex
    csr: Pem = Field(description="PKCS #10 for the TLS client certificate, subject CN = agent")
    chain: ChainId = Field(
        description="the event chain the agent will write: announced, not a loss"
    )


class EnrolmentAnswer(BaseModel):
    """Where the request stands. Approved: the certificate, and where the broker is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["pending", "approved", "refused"]
    fingerprint: str = Field(description="of the device's key, as the operator sees it")
    certificate: Pem | None = None
    broker: str | None = Field(default=None, description="mqtts://host:port")
    detail: str | None = None


class Renewal(Statement):
    """A request for the next TLS certificate, signed by the agent's key. `counter` is 0."""

    purpose: Literal["renewal"] = "renewal"
    csr: Pem


class Certificate(Statement):
    """The next TLS certificate. `counter` is its time of issue in microseconds."""

    purpose: Literal["certificate"] = "certificate"
    certificate: Pem
    until: AwareDatetime


def fingerprint(keyid: str) -> str:
    """A keyid in the form that people compare: eight groups of four hex digits."""
    return " ".join(keyid[i : i + 4] for i in range(0, 32, 4))
