"""An agent's hand, for tests of the server: lines, messages, and the same made wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from schemas.chain import EVENTS_TYPE, Head, compose_line, join_lines
from schemas.envelope import Signer, TrustedKey, seal_envelope
from schemas.events import agent_source, event_type
from schemas.suites import Suite, SuiteName, suite
from schemas.topics import EVENTS, up

SITE = "demo"
MOMENT = datetime(2026, 11, 24, 8, 15, 30, 123456, tzinfo=UTC)


class Pen:
    """Writes one chain of one agent. Keys are made from the agent's name."""

    def __init__(self, agent: str = "front", *, site: str = SITE, suite_name: SuiteName = "intl"):
        self.agent, self.site = agent, site
        self.suite: Suite = suite(suite_name)
        self.signer = Signer.of(self.suite.private_key(self.suite.digest(agent.encode())))
        self.lines: list[bytes] = []
        self.head = Head("")
        self.begin(self.suite.digest(b"chain of " + agent.encode()).hex()[:16])

    @property
    def topic(self) -> str:
        return up(self.site, self.agent, EVENTS)

    @property
    def ring(self) -> dict[str, TrustedKey]:
        trusted = TrustedKey(self.signer.key.public, self.agent, frozenset({EVENTS_TYPE}))
        return {self.signer.keyid: trusted}

    @property
    def identity(self) -> dict[str, str]:
        return {
            "agent": self.agent,
            "suite": self.suite.name,
            "public_key": self.signer.key.public.point.hex(),
            "keyid": self.signer.keyid,
        }

    def begin(self, chain: str) -> None:
        """Start another chain."""
        self.lines, self.head = [], Head(chain)

    def write(
        self,
        name: str = "rex.pressed",
        data: dict[str, Any] | None = None,
        *,
        time: datetime = MOMENT,
        source: str | None = None,
    ) -> bytes:
        """The next line of the chain."""
        line, self.head = compose_line(
            self.head,
            self.suite.digest,
            source=source or agent_source(self.site, self.agent),
            type=event_type(name),
            subject="doors/front",
            time=time,
            data={"door": "front", "clock": {"status": "synced"}} if data is None else data,
        )
        self.lines.append(line)
        return line

    def write_many(self, count: int) -> None:
        for _ in range(count):
            self.write()

    def message(self, first: int, last: int | None = None) -> bytes:
        """Lines `first` to `last` (sequences, both included), signed."""
        return self.seal(join_lines(self.lines[first - 1 : last or first]))

    def seal(self, payload: bytes, payload_type: str = EVENTS_TYPE) -> bytes:
        return seal_envelope(payload_type, payload, [self.signer])

    def digest(self, sequence: int) -> str:
        return self.suite.digest(self.lines[sequence - 1]).hex()
