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


def parse_up(topic: str) -> Up:
    """Raises MalformedTopic."""
    match = _UP.match(topic)
    if match is None:
        raise MalformedTopic(f"not an agent's topic: {topic[:200]!r}")
    return Up(*match.groups())


EVENTS = "events"
ACKNOWLEDGEMENT = "ack"
