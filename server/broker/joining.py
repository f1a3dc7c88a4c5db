"""How the server joins its broker: with which certificate, and what it makes of agents' rights."""

from __future__ import annotations

import ssl

from server.broker.dynamic_security import MosquittoRights
from server.broker.link import Link
from server.broker.rights import AdmittedFile, NoRights, Rights, admitted_file
from server.clock import Clock
from server.config import BUILTIN, ServerConfig, broker_address
from server.pki import Authority
from server.site import Site
from server.tls import client_context, client_files


def tls_to_broker(
    site: Site, authority: Authority, broker: str, client_id: str, clock: Clock
) -> ssl.SSLContext | None:
    """None: the broker's URL says that there is none."""
    secured, _, _ = broker_address(broker)
    if not secured:
        return None
    files = client_files(site.path, authority, client_id, clock.now())
    return client_context(files, site.root)


def rights_at(site: Site, config: ServerConfig, link: Link) -> Rights:
    """Who tells the broker what each agent may do."""
    secured = config.broker != BUILTIN and broker_address(config.broker)[0]
    guarded = config.broker == BUILTIN and not config.insecure_loopback
    if guarded or (secured and config.broker_rights == "file"):
        return AdmittedFile(site.name, admitted_file(site.path))
    if secured and config.broker_rights == "mosquitto":
        return MosquittoRights(site.name, link.publish)
    return NoRights()
