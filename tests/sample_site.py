"""A site's server for tests: a real SQLite store, the API over it, and events to fill it with."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.chain import EVENTS_TYPE, Head, compose_line
from schemas.envelope import Signer, pae
from schemas.events import event_type
from schemas.suites import suite
from server.api import build_api
from server.clock import microseconds
from server.feed.hub import Hub
from server.link_status import LinkStatus
from server.state import ServerState
from server.store.database import open_database
from server.store.tables import chains, door_states, events
from server.store.tokens import token_hash

SUITE = suite("intl")
SIGNER = Signer.of(SUITE.private_key(bytes(31) + b"\x07"))
MOMENT = datetime(2026, 11, 24, 8, 15, 30, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LOCAL_TOKEN = "a" * 64
OPEN = frozenset(
    {
        "/api/v1/events",
        "/api/v1/events/stream",
        "/api/v1/events/{id}/proof",
        "/api/v1/doors",
        "/livez",
        "/healthz",
        "/metrics",
        "/problems/{name}",
    }
)
"""Paths whose GET needs no token; every other route of the API needs one."""


@dataclass
class Site:
    """The state of a server, and a pen to write events into its store."""

    engine: AsyncEngine
    state: ServerState
    heads: dict[str, Head] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    """`announced` and `model_changed`, as they were called."""

    @property
    def hub(self) -> Hub:
        return self.state.hub

    async def add(
        self,
        name: str = "rex.pressed",
        *,
        door: str = "front",
        data: dict[str, Any] | None = None,
        time: datetime = MOMENT,
        recorded: datetime | None = None,
        agent: str = "front-agent",
        announce: bool = True,
    ) -> str:
        """Store one signed line, as ingest does, ring the bell, and return the event's id."""
        head = self.heads.get(agent) or Head(SUITE.digest(agent.encode()).hex()[:16])
        line, head = compose_line(
            head,
            SUITE.digest,
            source=f"/sites/{self.state.site}/agents/{agent}",
            type=event_type(name),
            subject=f"doors/{door}",
            time=time,
            data={"door": door} | (data or {}),
        )
        return await self._store(line, head, name, door, time, recorded or time, agent, announce)

    async def add_raw(self, line: bytes) -> None:
        """Store these bytes as they are, as if an exit button had been pressed."""
        head = Head("f" * 16, len(self.heads) + 1, "0" * 64)
        await self._store(
            line, head, "rex.pressed", "front", MOMENT, MOMENT, f"raw-{head.sequence}", True
        )

    async def _store(
        self,
        line: bytes,
        head: Head,
        name: str,
        door: str,
        time: datetime,
        recorded: datetime,
        agent: str,
        announce: bool,
    ) -> str:
        row = {
            "source": agent,
            "chain": head.chain,
            "sequence": head.sequence,
            "line": line,
            "type": event_type(name),
            "subject": f"doors/{door}",
            "time_us": microseconds(time),
            "recorded_us": microseconds(recorded),
            "signed_from": head.sequence,
            "keyid": SIGNER.keyid,
            "signature": SIGNER.key.sign(pae(EVENTS_TYPE, line)),
        }
        async with self.engine.begin() as connection:
            added = await connection.execute(insert(events).returning(events.c.position), row)
            position = added.scalar_one()
            ours = (chains.c.source == agent) & (chains.c.chain == head.chain)
            moved = await connection.execute(
                chains.update().where(ours).values(sequence=head.sequence, hash=head.hash)
            )
            if not moved.rowcount:
                await connection.execute(
                    insert(chains).values(
                        source=agent,
                        chain=head.chain,
                        first_seen_us=row["recorded_us"],
                        sequence=head.sequence,
                        hash=head.hash,
                    )
                )
        self.heads[agent] = head
        if announce:
            self.hub.committed(position)
        return f"{head.chain}-{head.sequence}"

    async def set_door(self, door: str, *, agent: str = "front-agent", **state: str) -> None:
        """Make a door's state this, whatever it was."""
        values = {"contact": "closed", "mode": "locked", "alarm": "normal"} | state
        changed = microseconds(datetime.now(UTC))
        async with self.engine.begin() as connection:
            await connection.execute(door_states.delete().where(door_states.c.door == door))
            await connection.execute(
                insert(door_states).values(
                    door=door, agent=agent, changed_us=changed, position=0, **values
                )
            )

    def client(self, *, token: str | None = LOCAL_TOKEN) -> httpx.AsyncClient:
        """Speaks to the API in this process, by default as who may do all."""
        transport = httpx.ASGITransport(build_api(self.state), raise_app_exceptions=False)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers)


@asynccontextmanager
async def open_site(path: Path, *, name: str = "demo") -> AsyncIterator[Site]:
    """A site whose store is at `path`, made or opened again."""
    engine = await open_database(path)
    link = LinkStatus("127.0.0.1:1883", connected=True, since=MOMENT)
    site = Site(engine, ServerState(engine, Hub(), name, SUITE, link))
    site.state.local_token = token_hash(LOCAL_TOKEN)
    site.state.announced = lambda: site.changes.append("announced")
    site.state.model_changed = lambda: site.changes.append("model_changed")
    try:
        yield site
    finally:
        await engine.dispose()


class _Quiet(uvicorn.Server):
    """Leaves the process's signals alone."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._serve(sockets)


@asynccontextmanager
async def serving(site: Site, port: int = 0) -> AsyncIterator[str]:
    """The API over a real socket; yields its address. Leaving ends streams as a shutdown does."""
    # A hub that was closed stays closed: a server that starts again has a new one.
    if site.hub.closed:
        site.state.hub = Hub()
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(build_api(site.state), log_config=None, lifespan="off")
    server = _Quiet(config)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            site.hub.close()
            server.should_exit = True
            await running
