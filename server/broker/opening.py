"""The broker that the settings name: started if it is our own, and how to connect to it."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address

from server.broker.builtin import LOOPBACK, guarded_broker, insecure_broker
from server.broker.dynamic_security import MosquittoRights
from server.broker.grants import server_id
from server.broker.rights import AdmittedFile, Rights, Unenforced, admitted_file
from server.config import BUILTIN, ServerConfig, broker_address
from server.pki import Authority
from server.site import Site
from server.tls import client_context, client_files, listener_files


@dataclass(frozen=True)
class Access:
    """How this server connects to its broker, and tells it who else may."""

    url: str
    client_id: str
    tls: ssl.SSLContext | None
    rights: Rights
    control: Callable[[bytes], None] | None = None
    """Takes what the broker answers to orders about rights."""


@asynccontextmanager
async def open_broker(
    site: Site,
    config: ServerConfig,
    authority: Authority,
    *,
    now: datetime,
    publish: Callable[[str, bytes], Awaitable[None]],
    host: str | None = None,
) -> AsyncIterator[Access]:
    """The broker while the context lasts.

    `publish` is the link's, which is made afterwards. `host` is how doors reach this machine, for
    the built-in broker's certificate. Raises BrokerUnavailable, SiteError or OSError.
    """
    own = server_id(site.name)
    if config.broker != BUILTIN:
        if not broker_address(config.broker)[0]:
            yield Access(config.broker, own, None, Unenforced())
            return
        tls = client_context(client_files(site.path, authority, own, now), site.root)
        yield _of_others(site, config, own, tls, publish)
    elif config.insecure_loopback:
        own = server_id(secrets.token_hex(8))  # nobody can end the session of whom he can't name
        async with insecure_broker(config.broker_port, own) as port:
            yield Access(f"mqtt://{LOOPBACK}:{port}", own, None, Unenforced())
    else:
        address = config.broker_listen
        files = listener_files(site.path, authority, host or address, now)
        tls = client_context(client_files(site.path, authority, own, now), site.root)
        admitted = AdmittedFile(site.name, admitted_file(site.path))
        async with guarded_broker(site, files, config.broker_port, address) as port:
            yield Access(f"mqtts://{_reached(address, host)}:{port}", own, tls, admitted)


def _of_others(
    site: Site,
    config: ServerConfig,
    own: str,
    tls: ssl.SSLContext,
    publish: Callable[[str, bytes], Awaitable[None]],
) -> Access:
    match config.broker_rights:
        case "mosquitto":
            orders = MosquittoRights(site.name, publish)
            return Access(config.broker, own, tls, orders, orders.heard)
        case "file":
            admitted = AdmittedFile(site.name, admitted_file(site.path))
            return Access(config.broker, own, tls, admitted)
        case "none":
            return Access(config.broker, own, tls, Unenforced())


def _reached(address: str, host: str | None) -> str:
    """Where a client on this machine finds a listener, by a name that its certificate has."""
    listens = ip_address(address)
    if listens.is_unspecified or listens.is_loopback:
        return "[::1]" if listens.version == 6 else LOOPBACK
    return host or (f"[{address}]" if listens.version == 6 else address)
