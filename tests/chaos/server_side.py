"""`ostiary serve` without its pages: the parts of `server.assembly`, as `server.app` runs them."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from server.app import _run
from server.assembly import Assembly, Where
from server.broker.grants import server_id
from server.config import ServerConfig
from server.enrolment.reception import Reached
from server.feed.hub import Hub
from server.link_status import LinkStatus
from server.pki import Authority
from server.site import Site, open_site
from server.state import ServerState
from server.store.database import open_database
from tests.chaos.sides import CANNOT_START, Side
from tests.chaos.simulation import Clock
from tests.chaos.wire import Wire

URL = "mqtt://localhost:1883"
MOST_AHEAD_S = 30.0
"""How far its clock may jump ahead. An agent never takes time to be earlier than what the server
signed: set right again, a server that was ahead is heard late by so much. From 90 s on that makes
doors stale for good, and beyond five minutes its heartbeats are of a time yet to come."""


class IdleDesk:
    """In place of the listener for devices that enrol: these agents are registered."""

    enrolments: Any = None
    renewals: Any = None

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    async def run(self, _listening: object) -> None:
        await self._stopped.wait()

    def stop(self) -> None:
        self._stopped.set()


class Server(Side):
    """The server, which goes by each new root document as soon as it lies in the site."""

    unsure_commits = True

    def __init__(
        self, folder: Path, seed: str, tally: Counter[str], wire: Wire, *, site: Site
    ) -> None:
        super().__init__("server", folder / "server", seed, tally, wire)
        self.clock = Clock(MOST_AHEAD_S)
        self.site = site
        self.parts: Assembly | None = None
        """What works now; None while the server is down."""
        self._authority: Authority = site.authority({})
        self._engine: AsyncEngine | None = None

    @property
    def identifier(self) -> str:
        return server_id(self.site.name)

    @property
    def database(self) -> Path:
        """The store of this life."""
        return self.disk.folder / "ostiary.db"

    async def begin(self) -> list[Any]:
        self.site = open_site(self.site.path)
        self._engine = await open_database(self.database)
        state = ServerState(
            self._engine,
            Hub(),
            self.site.name,
            self.site.suite,
            LinkStatus(URL),
            clock=self.clock,
        )
        threads = ExitStack()
        parts = await self._assemble(state, threads)
        return [self._serve(state, parts, threads)]

    async def _assemble(self, state: ServerState, threads: ExitStack) -> Assembly:
        state.registry = CollectorRegistry()
        parts = Assembly(
            site=self.site,
            authority=self._authority,
            config=ServerConfig(broker=URL, broker_rights="none"),
            environ={},
            state=state,
            where=Where(URL, self.identifier, Reached("localhost", 8443, URL)),
            stack=threads,
        )
        await parts.load()
        return parts

    async def _serve(self, state: ServerState, parts: Assembly, threads: ExitStack) -> None:
        door = cast(Any, SimpleNamespace(dup=lambda: None))
        while True:
            self.parts = parts
            with threads:
                await _run(parts, door, asyncio.Event(), lambda: None)
            self.parts = None
            self.tally["root rotations that the server took up"] += 1
            self.site = open_site(self.site.path)
            threads = ExitStack()
            try:
                parts = await self._assemble(state, threads)
            except CANNOT_START:
                self._fall()
                await asyncio.Event().wait()

    def _fall(self) -> None:
        self.parts = None
        super()._fall()

    async def abandon(self) -> None:
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None
