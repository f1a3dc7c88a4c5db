"""The forms of names: what may stand in a topic, a file name or a URL without escaping."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StringConstraints

NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A site, agent, door, area, person, group, schedule or key domain: a DNS label (RFC 1123)."""
DOTTED_PATTERN = r"^[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?$"
"""A name that may have dots as well: that of an API token."""

CardId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""The 8-byte serial of a card's chip, in hex."""

DigestHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A 32-byte digest or keyid, in hex."""

ChainId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""8 random bytes that name one event store of one agent, in hex."""

PointHex = Annotated[str, StringConstraints(pattern=r"^04[0-9a-f]{128}$")]
"""A public key as its uncompressed point, in hex."""

SERVER = "server"
"""The holder name of the site's own keys; no agent may have it."""

EVERYONE = "all"
"""The audience of a statement to all agents of a site; no agent may have it."""


def _of_an_agent(name: str) -> str:
    if name in (SERVER, EVERYONE):
        raise ValueError(f"an agent can't be named {name!r}: statements use that name")
    return name


AgentId = Annotated[Name, AfterValidator(_of_an_agent)]
"""The name of an agent."""
