"""Is this message what it claims to be? Pure, and safe to run in any thread.

The order is fixed and no step looks at what a later one is to establish: topic, size, envelope,
key, signature, and only then the lines, which must be of the very agent that signed them, of this
site, and on that agent's topic. Where the message stands in its chain is for `heads` to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from schemas.chain import EVENTS_TYPE, Link, split_lines
from schemas.envelope import KeyRing, open_envelope
from schemas.errors import (
    BadSignature,
    BrokenChain,
    MalformedEnvelope,
    MalformedEvent,
    MalformedSignature,
    MalformedTopic,
    SchemaError,
    UnknownKey,
    WrongPurpose,
)
from schemas.events import agent_source
from schemas.suites import Suite
from schemas.topics import EVENTS, parse_up


class AlarmKind(StrEnum):
    """What the server refused or missed: the `kind` of an `alarm.raised` event."""

    BAD_SIGNATURE = "bad_signature"
    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown_key"
    WRONG_TOPIC = "wrong_topic"
    GAP = "gap"
    FORK = "fork"
    NEW_CHAIN = "new_chain"
    BROKEN_CHAIN = "broken_chain"
    EVENTS_LOST = "events_lost"
    DOOR_TAKEN = "door_taken"
    REPLAYED = "replayed"
    STALE_REPORT = "stale_report"
    IDENTITY_CLONED = "identity_cloned"
    RECEIPT_MISMATCH = "receipt_mismatch"
    STATE_BEHIND = "state_behind"
    """An agent has applied what this server does not know: the server was restored, or forked."""
    REVOCATION_LOG_BEHIND = "revocation_log_behind"
    """The same for the revocation log, which goes on above what the agent has."""
    KEY_REFUSED = "key_refused"
    """An agent asked for keys that it is not to have, or the key authority can't use its keys."""
    BINDING_REFUSED = "binding_refused"
    """An agent said that a card was bound or unbound, which no operator's window allows."""


ALARM_KINDS: dict[type[SchemaError], AlarmKind] = {
    MalformedTopic: AlarmKind.WRONG_TOPIC,
    MalformedEnvelope: AlarmKind.MALFORMED,
    WrongPurpose: AlarmKind.MALFORMED,
    UnknownKey: AlarmKind.UNKNOWN_KEY,
    MalformedSignature: AlarmKind.BAD_SIGNATURE,
    BadSignature: AlarmKind.BAD_SIGNATURE,
    MalformedEvent: AlarmKind.MALFORMED,
    BrokenChain: AlarmKind.BROKEN_CHAIN,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something to raise an alarm for. `agent` is as the topic claims, unless a key proved it."""

    kind: AlarmKind
    agent: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Verified:
    """Lines of one chain that `agent` signed, contiguous and linked among themselves."""

    agent: str
    chain: str
    links: tuple[Link, ...]
    keyid: str
    signature: bytes

    @property
    def first(self) -> int:
        """The sequence of the first line."""
        return self.links[0].event.number

    @property
    def last(self) -> int:
        """The sequence of the last line."""
        return self.links[-1].event.number


def verify_message(
    topic: str, payload: bytes, trusted: KeyRing, site: str, suite: Suite
) -> Verified | Refusal:
    """The lines in a message, or why it is refused."""
    agent: str | None = None
    try:
        up = parse_up(topic)
        agent = up.agent
        if up.site != site or up.channel != EVENTS:
            return Refusal(AlarmKind.WRONG_TOPIC, agent, f"events came on {topic[:200]!r}")
        opened = open_envelope(payload, trusted, EVENTS_TYPE)
        if opened.holder != agent:
            detail = f"events signed by {opened.holder} came on the topic of {agent}"
            return Refusal(AlarmKind.WRONG_TOPIC, opened.holder, detail)
        links = tuple(split_lines(opened.payload, suite.digest))
    except SchemaError as error:
        return Refusal(ALARM_KINDS[type(error)], agent, str(error))
    refusal = _foreign(links, agent, site)
    if refusal is not None:
        return refusal
    return Verified(agent, links[0].event.chain, links, opened.keyid, opened.signature)


def _foreign(links: tuple[Link, ...], agent: str, site: str) -> Refusal | None:
    """Why a line is not `agent`'s own, if one isn't."""
    source = agent_source(site, agent)
    for event in (link.event for link in links):
        if event.source != source:
            detail = f"line {event.number} says it is from {event.source}, signed by {agent}"
            return Refusal(AlarmKind.WRONG_TOPIC, agent, detail)
    return None
