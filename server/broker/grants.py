"""Who may say and hear what at the broker: one table, for whichever broker enforces it. Pure.

A client is who its certificate says it is. The protocol trusts no broker, so these rights keep
neighbours from making noise and from reading along; that nothing else rests on them is the point.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.topics import EVENTS, KEYS, PULL, RENEWAL, REPORT, TRANSPORT, WILL, up

CONTROL = "$CONTROL/dynamic-security/v1"
"""Where mosquitto's plugin takes orders."""
CONTROL_ANSWERS = f"{CONTROL}/response"
PROBE, VICTIM = "broker-probe", "broker-victim"
"""The agents that `ostiary broker check` plays: one that tries, and one it tries things on."""
UP_CHANNELS = (EVENTS, REPORT, PULL, RENEWAL, KEYS, TRANSPORT, WILL)
MOST_NAME = 64
"""X.520 allows a common name no more."""


@dataclass(frozen=True)
class Grant:
    """Topic filters a client may publish on, and subscribe to and receive."""

    publish: tuple[str, ...] = ()
    receive: tuple[str, ...] = ()
    retain: bool = False
    """Whether a broker that can tell keeps what it asks to be kept."""

    def may_publish(self, topic: str) -> bool:
        """Whether a message on `topic` is let in."""
        return any(covers(granted, topic) for granted in self.publish)

    def may_subscribe(self, wanted: str) -> bool:
        """Whether everything that `wanted` asks for is granted."""
        return any(covers(granted, wanted) for granted in self.receive)


def server_id(site: str) -> str:
    """The name of a site's server: its certificate's subject and its MQTT client id."""
    return f"server-{site}"[:MOST_NAME]


def checker_id(site: str) -> str:
    """The name of `ostiary broker check`."""
    return f"check-{site}"[:MOST_NAME]


def refuse_reserved(site: str, agent: str) -> None:
    """Raise ValueError for a name that no device may have: its certificate has other rights."""
    if agent in (PROBE, VICTIM):
        raise ValueError(
            f"an agent can't be named {agent!r}: `ostiary broker check` plays that one"
        )
    refuse_own(site, agent)


def refuse_own(site: str, agent: str) -> str:
    """The name, unless it is one of the server's own. Raises ValueError."""
    if agent in (server_id(site), checker_id(site)):
        raise ValueError(f"an agent can't be named {agent!r}: that is a name of the server's own")
    return agent


def agent_grant(site: str, agent: str) -> Grant:
    """What an admitted agent may do.

    The channels up are named one by one: each may hold a retained message, and with a wildcard an
    agent could leave as many as it likes.
    """
    return Grant(
        publish=tuple(up(site, agent, channel) for channel in UP_CHANNELS),
        receive=(f"ostiary/{site}/down/{agent}/#", f"ostiary/{site}/all/#"),
    )


def server_grant(site: str) -> Grant:
    """What the site's server may do; no door hears it on `up/`, nor anyone of another site."""
    return Grant(
        publish=(
            f"ostiary/{site}/down/#",
            f"ostiary/{site}/all/#",
            f"ostiary/{site}/feed/#",
            CONTROL,
        ),
        receive=(f"ostiary/{site}/up/#", CONTROL_ANSWERS),
        retain=True,
    )


def checker_grant(site: str) -> Grant:
    """What `ostiary broker check` may do: look on, and speak to the two that it plays."""
    return Grant(
        publish=(
            f"ostiary/{site}/down/{PROBE}/#",
            f"ostiary/{site}/down/{VICTIM}/#",
            f"ostiary/{site}/feed/{PROBE}",
            CONTROL,
        ),
        receive=(f"ostiary/{site}/#", CONTROL_ANSWERS),
    )


def grants(site: str, agents: Iterable[str]) -> dict[str, Grant]:
    """What each client may do that may do anything. Raises ValueError for a reserved agent name."""
    found = {server_id(site): server_grant(site), checker_id(site): checker_grant(site)}
    for agent in agents:
        found[refuse_own(site, agent)] = agent_grant(site, agent)
    return found


def covers(granted: str, wanted: str) -> bool:
    """Whether every topic that matches the filter or topic `wanted` matches `granted` too.

    MQTT 3.1.1 4.7. `wanted` with wildcards it has no right to, or `$share/...`, is not covered.
    """
    have, ask = granted.split("/"), wanted.split("/")
    for index, level in enumerate(have):
        if level == "#":
            # 4.7.2-1: a wildcard in front says nothing of topics that begin with $
            return index > 0 or not wanted.startswith("$")
        if index >= len(ask) or ask[index] == "#" or level not in ("+", ask[index]):
            return False
    return len(have) == len(ask)
