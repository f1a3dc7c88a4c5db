"""The topic tree, built and taken apart in one place. Nothing is believed because of its topic."""

from __future__ import annotations

import re
from dataclasses import dataclass

from schemas.errors import MalformedTopic

_UP = re.compile(r"ostiary/([a-z0-9-]{1,63})/up/([a-z0-9-]{1,63})/([a-z]{1,32})\Z")


@dataclass(frozen=True)
class Up:
    """A topic on which an agent speaks."""

    site: str
    agent: str
    channel: str


def up(site: str, agent: str, channel: str) -> str:
    """Where `agent` publishes: only it may."""
    return f"ostiary/{site}/up/{agent}/{channel}"


def every_up(site: str, channel: str) -> str:
    """The server's subscription to one channel of all agents."""
    return f"ostiary/{site}/up/+/{channel}"


def down(site: str, agent: str, channel: str) -> str:
    """Where the server speaks to `agent` alone."""
    return f"ostiary/{site}/down/{agent}/{channel}"


def everyone(site: str, channel: str) -> str:
    """Where the server speaks to all agents at once."""
    return f"ostiary/{site}/all/{channel}"


def parse_up(topic: str) -> Up:
    """Raises MalformedTopic."""
    match = _UP.match(topic)
    if match is None:
        raise MalformedTopic(f"not an agent's topic: {topic[:200]!r}")
    return Up(*match.groups())


EVENTS = "events"
"""Up: signed event lines."""
REPORT = "report"
"""Up: what the agent has applied, and that it lives."""
PULL = "pull"
"""Up: what the agent lacks."""
RENEWAL = "renewal"
"""Up: a request for a new TLS certificate."""
KEYS = "keys"
"""Up: a request for a key package. Down: the package."""
TRANSPORT = "transport"
"""Up: a request for a card's transport key. Down: the answer."""
WILL = "will"
"""Up: the broker's word that the connection broke; unsigned, a hint and no more."""

ACKNOWLEDGEMENT = "ack"
"""Down: events that are committed."""
HEARTBEAT = "heartbeat"
"""Down, retained: the newest versions of everything, and the time."""
POLICY = "policy"
"""Down: a policy manifest."""
CHUNK = "chunk"
"""Down: the bytes of one chunk; only their digest says which."""
REVOCATION = "revocation"
"""Down and to all: entries of the revocation log."""
SNAPSHOT = "snapshot"
"""Down: the manifest of a revocation snapshot."""
LOCKDOWN = "lockdown"
"""Down, and retained to all: the lockdowns in force."""
ROOT = "root"
"""Down and to all: the next root document."""
COMMAND = "command"
"""Down: do this now."""
CERTIFICATE = "certificate"
"""Down: a new TLS certificate."""
STAGE = "stage"
"""Down: hold this version of a domain's keys."""
