"""The keys, suites and statements that the tests of `schemas` share."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from schemas.chain import Digest, Head, check_follows, compose_line, parse_line
from schemas.envelope import Signer, TrustedKey
from schemas.events import agent_source, event_type
from schemas.suites import INTL, PrivateKey, Suite, intl, sm2, sm2_openssl
from schemas.suites.gm import GmSuite
from schemas.suites.sm2_gmssl import GmsslProvider

VECTORS = Path(__file__).parent / "vectors"
MOMENT = datetime(2026, 1, 31, 7, 0, 0, 123456, tzinfo=UTC)
CHAIN = "00112233445566aa"


@dataclass(frozen=True)
class Curve:
    """A suite by one of its providers, and the numbers an attacker would pick."""

    label: str
    suite: Any
    order: int
    prime: int
    point_of_x_zero: bytes
    point_of_small_y: bytes

    @property
    def largest_scalar(self) -> int:
        return self.order - 2 if self.suite.name == "gm" else self.order - 1


def openssl_provider() -> sm2_openssl.OpensslProvider:
    provider = sm2_openssl.load()
    assert provider is not None, "this machine's OpenSSL 3 has no SM2: install Debian's libssl3"
    return provider


def _point(x: int, y: int) -> bytes:
    return b"\x04" + x.to_bytes(32) + y.to_bytes(32)


_SM2 = (
    sm2.ORDER,
    sm2.P,
    _point(0, 0x0FD4511E81736A60F07E88A83D6CF5A167FAE6D1A9C9330E76E232E00F5CDC154),
    _point(0x9C17043EFFE1A805A74A9A5E70B9D659705D3242094A566DC016F49311178D1F, 1),
)
_P256 = (
    intl.ORDER,
    2**256 - 2**224 + 2**192 + 2**96 - 1,
    _point(0, 0x66485C780E2F83D72433BD5D84A06BB6541C2AF31DAE871728BF856A174F93F4),
    _point(0xD7325D7646CD60D80A92738CEB345F844CFFAF35841022CAB176F692DE8DE1D7, 5),
)
OPENSSL = Curve("gm-openssl", GmSuite(openssl_provider()), *_SM2)
GMSSL = Curve("gm-gmssl", GmSuite(GmsslProvider()), *_SM2)
P256 = Curve("intl", INTL, *_P256)
CURVES = [OPENSSL, GMSSL, P256]
SUITES: list[Suite] = [OPENSSL.suite, INTL]


@cache
def key_of(suite: Suite, holder: str) -> PrivateKey:
    """A key that is the same wherever a test run asks for that holder's."""
    return suite.generate(secrets.token_bytes)


def signer_of(suite: Suite, holder: str) -> Signer:
    return Signer.of(key_of(suite, holder))


def trust(suite: Suite, holder: str, *payload_types: str) -> dict[str, TrustedKey]:
    """The ring of a receiver that trusts one holder."""
    signer = signer_of(suite, holder)
    return {signer.keyid: TrustedKey(signer.key.public, holder, frozenset(payload_types))}


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def chain_of(suite: Suite, count: int, *, chain: str = CHAIN, data: Any = None) -> list[bytes]:
    """The first `count` lines of a chain."""
    head, lines = Head(chain), []
    for number in range(1, count + 1):
        line, head = compose_line(
            head,
            suite.digest,
            source=agent_source("demo", "front-agent"),
            type=event_type("door.opened"),
            subject="doors/front",
            time=MOMENT,
            data={"door": "front", "number": number} if data is None else data,
        )
        lines.append(line)
    return lines


def verify_chain(lines: Sequence[bytes], digest: Digest, head: Head) -> Head:
    """Walk `lines` from `head` and return the new head. Raises MalformedEvent or BrokenChain."""
    for line in lines:
        link = parse_line(line, digest)
        check_follows(head, link)
        head = Head(head.chain, link.event.number, link.hash)
    return head
