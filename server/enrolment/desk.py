"""Enrolment of a running server, put together: what operators use, what devices reach."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass

from schemas.envelope import Signer
from server.broker.rights import Rights
from server.distribution.publish import Publish
from server.enrolment.enrolments import Enrolments
from server.enrolment.listener import Listener, build_listener
from server.enrolment.reception import Reached, Reception
from server.enrolment.renewals import Renewals
from server.ingest.registry import Registry
from server.pki import Authority
from server.site import Site
from server.state import ServerState
from server.tls import TlsFiles


@dataclass(frozen=True)
class Desk:
    """The parts of enrolment."""

    enrolments: Enrolments
    reception: Reception
    renewals: Renewals
    listener: Listener

    async def run(self, listening: socket.socket) -> None:
        """Take devices in at this socket, until cancelled or told to `stop`."""
        async with asyncio.TaskGroup() as group:
            upkeep = group.create_task(self.enrolments.run())
            await self.listener.serve(sockets=[listening])
            upkeep.cancel()

    def stop(self) -> None:
        """Answer what was asked, and end."""
        self.listener.should_exit = True


def open_desk(
    state: ServerState,
    site: Site,
    authority: Authority,
    *,
    registry: Registry,
    rights: Rights,
    signer: Signer,
    publish: Publish,
    reached: Reached,
    tls: TlsFiles,
    came: Callable[[str], None],
    went: Callable[[str], None],
) -> Desk:
    """`came` and `went` are told of each agent that is new, and that is gone."""
    engine, clock = state.engine, state.clock
    enrolments = Enrolments(
        engine=engine,
        site=site,
        authority=authority,
        registry=registry,
        rights=rights,
        reached=reached,
        clock=clock,
        random=secrets.token_bytes,
        announced=state.announced,
        came=came,
        went=went,
    )
    reception = Reception(
        engine=engine,
        site=site,
        registry=registry,
        reached=reached,
        clock=clock,
        announced=state.announced,
    )
    renewals = Renewals(
        engine=engine,
        site=site.name,
        authority=authority,
        signer=signer,
        publish=publish,
        clock=clock,
    )
    return Desk(enrolments, reception, renewals, Listener(build_listener(reception, clock), tls))
