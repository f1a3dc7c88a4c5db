"""A broker of our own, for a house, a demo and tests. mosquitto or a cluster beyond.

It is as untrusted as any: its rights keep neighbours from making noise and from reading along, and
nothing else rests on them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

from amqtt.errors import AMQTTError, BrokerError

from schemas.root import Root
from server.broker.admission import Admission, Entry, Unguarded
from server.broker.guarded import GuardedBroker
from server.site import Site
from server.tls import TlsFiles

LOOPBACK = "127.0.0.1"
WATCH_S = 0.25
"""Who is expelled is cut off this much later at the most."""


class BrokerUnavailable(Exception):
    """The built-in broker could not start."""


@asynccontextmanager
async def guarded_broker(
    site: Site, files: TlsFiles, port: int, address: str = LOOPBACK
) -> AsyncIterator[int]:
    """A broker with mutual TLS while the context lasts; gives its port (0 asks for a free one).

    It lets in the site's server, and the agents that the server has written into the site
    directory. Raises BrokerUnavailable or SiteError.
    """
    entry = Admission(site.name, site.path)
    async with _serving(address, port, entry, broker_context(files, site.root)) as bound:
        yield bound


@asynccontextmanager
async def insecure_broker(port: int, server: str | None = None) -> AsyncIterator[int]:
    """A broker on 127.0.0.1 for anyone there, without TLS: for tests and fleets.

    `server` is the client id that may publish downwards: in one process with the server a fresh
    random one, which nobody can take over. None, for servers in other processes, stands for the
    usual one of each site. Raises BrokerUnavailable.
    """
    async with _serving(LOOPBACK, port, Unguarded(server), None) as bound:
        yield bound


def broker_context(files: TlsFiles, root: Root) -> ssl.SSLContext:
    """TLS 1.3 for clients that have a certificate of the site, and for no others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata="\n".join(root.authorities))
    context.load_cert_chain(files.certificate, files.key)
    # else the handshake ends with tickets, and a resumed one would not check the certificate again
    context.num_tickets = 0
    return context


@asynccontextmanager
async def _serving(
    address: str, port: int, entry: Entry, tls: ssl.SSLContext | None
) -> AsyncIterator[int]:
    _quiet()
    if tls is None and not ip_address(address).is_loopback:
        raise BrokerUnavailable(f"no TLS on {address}: anyone who reaches it would be let in")
    broker = GuardedBroker(address, port, entry, tls)
    try:
        await broker.start()
    except (AMQTTError, BrokerError) as error:
        raise BrokerUnavailable(
            f"the built-in broker can't listen on {address}:{port}: {_why(error)}; stop what "
            "uses it, choose another port, or name your own broker with --broker mqtts://host:port"
        ) from error
    watching = asyncio.create_task(_watch(broker))
    try:
        yield broker.port
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await broker.shutdown()


async def _watch(broker: GuardedBroker) -> None:
    while True:
        await asyncio.sleep(WATCH_S)
        broker.refresh()


def _why(error: Exception) -> str:
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno:  # asyncio's own words repeat the address
        return os.strerror(cause.errno)
    return str(cause or error)


def _quiet() -> None:
    """Each packet and each client that went away is logged by amqtt; none is ours to act on."""
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
