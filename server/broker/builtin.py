"""A broker of our own, on loopback: for a house, a demo and tests. mosquitto or a cluster beyond.

It is as untrusted as any: that only the server may publish on `down/` keeps neighbours on this
machine from making noise, and nothing rests on it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from amqtt.broker import Broker
from amqtt.contexts import Action, BrokerConfig, ListenerConfig
from amqtt.errors import AMQTTError, BrokerError
from amqtt.plugins.base import BaseTopicPlugin
from amqtt.session import Session

from server.broker.link import server_id

LOOPBACK = "127.0.0.1"


class BrokerUnavailable(Exception):
    """The built-in broker could not start."""


class TopicRules(BaseTopicPlugin):  # type: ignore[misc]  # amqtt is untyped
    """Only the server may publish on `ostiary/<site>/down/...`."""

    @dataclass
    class Config:
        """The one client id that may publish downwards; none: that of the topic's site."""

        server: str | None = None

    async def topic_filtering(
        self,
        *,
        session: Session | None = None,
        topic: str | None = None,
        action: Action | None = None,
    ) -> bool:
        """Whether `session` may do `action` on `topic`."""
        if action is not Action.PUBLISH or topic is None:
            return True
        levels = topic.split("/")
        if len(levels) < 3 or levels[0] != "ostiary" or levels[2] != "down":
            return True
        server = self.config.server or server_id(levels[1])
        return session is not None and session.client_id == server


@asynccontextmanager
async def builtin_broker(port: int, server: str | None = None) -> AsyncIterator[int]:
    """A broker on 127.0.0.1 while the context lasts; gives its port (0 asks for a free one).

    `server` is the client id that may publish on `down/`. amqtt drops an older session of the same
    id before it asks who is there, so in one process with the server it is a fresh random name;
    none, for servers in other processes, stands for the usual one of each site.

    Raises BrokerUnavailable.
    """
    _quiet()
    config = BrokerConfig(
        listeners={"default": ListenerConfig(bind=f"{LOOPBACK}:{port}", max_connections=10_000)},
        plugins={
            # sessions then keep nothing for absent clients: agents keep their events themselves
            "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
            f"{__name__}.TopicRules": {"server": server},
        },
    )
    broker = Broker(config)
    try:
        await broker.start()
    except (AMQTTError, BrokerError) as error:
        raise BrokerUnavailable(
            f"the built-in broker can't listen on {LOOPBACK}:{port}: {_why(error)}; stop what "
            "uses it, choose another port, or name your own broker with --broker mqtt://host:port"
        ) from error
    try:
        yield _port_of(broker)
    finally:
        await broker.shutdown()


def _why(error: Exception) -> str:
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno:  # asyncio's own words repeat the address
        return os.strerror(cause.errno)
    return str(cause or error)


def _port_of(broker: Broker) -> int:
    instance = broker._servers["default"].instance  # amqtt has no public way to ask
    return int(instance.sockets[0].getsockname()[1])


def _quiet() -> None:
    """Each packet and each client that went away is logged by amqtt; none is ours to act on."""
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
