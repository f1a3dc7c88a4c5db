"""Both brokers as they are in service, behind one face, for tests of what they let whom do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes

import pytest

from edge_agent.demo.processes import free_port
from server.broker.bare import Bare, Heard, Will
from server.broker.builtin import guarded_broker
from server.broker.dynamic_security import MosquittoRights
from server.broker.grants import CONTROL_ANSWERS, server_id
from server.broker.identities import Identities
from server.broker.rights import AdmittedFile, Rights, admitted_file, probes_file
from server.broker.stage import Target
from server.site import Site, create_site
from server.tls import listener_files
from tests.broker import TlsMosquitto

SITE = "demo"
HOST = "127.0.0.1"


class SecuredBroker:
    """A broker that can be stopped and started, and whoever a test wants to be there."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True)
        self.path = path
        self.site: Site = create_site(path / "site", SITE, "intl", token_bytes, {})
        self.authority = self.site.authority({})
        self.port = free_port()
        passes = path / "passes"
        passes.mkdir()
        self.who = Identities(self.authority, SITE, passes, datetime.now(UTC))

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        """At once, and with no goodbye."""
        raise NotImplementedError

    def rights(self, server: Bare) -> Rights:
        raise NotImplementedError

    @property
    def target(self) -> Target:
        """For the check."""
        return Target(SITE, HOST, self.port, self.who.tls, self.who.stranger, None)

    def enter(
        self, name: str, client_id: str | None = None, will: Will | None = None
    ) -> AbstractAsyncContextManager[Bare]:
        return self.target.enter(name, client_id, will=will)

    @asynccontextmanager
    async def server(self, *admitted: str) -> AsyncIterator[tuple[Bare, Rights]]:
        """The site's server, which has let some agents in."""
        async with self.enter(server_id(SITE)) as server:
            rights = self.rights(server)
            await server.subscribe(f"ostiary/{SITE}/up/#")
            await server.subscribe(CONTROL_ANSWERS)
            await rights.reconcile(admitted)
            yield server, rights


class SecuredMosquitto(SecuredBroker):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        directory = path / "mosquitto"
        directory.mkdir()
        self.process = TlsMosquitto(directory, SITE, self.authority)
        self.port = self.process.port

    async def start(self) -> None:
        self.process.start()

    async def stop(self) -> None:
        self.process.kill()

    def rights(self, server: Bare) -> Rights:
        orders = MosquittoRights(SITE, server.publish)

        def answered(message: Heard) -> None:
            if message.topic == CONTROL_ANSWERS:
                orders.heard(message.payload)

        server.on_message = answered
        return orders


class SecuredBuiltin(SecuredBroker):
    _running: AsyncExitStack

    async def start(self) -> None:
        files = listener_files(self.site.path, self.authority, HOST, datetime.now(UTC))
        self._running = AsyncExitStack()
        await self._running.enter_async_context(guarded_broker(self.site, files, self.port))

    async def stop(self) -> None:
        await self._running.aclose()

    def rights(self, server: Bare) -> Rights:
        return AdmittedFile(SITE, admitted_file(self.site.path))

    @property
    def target(self) -> Target:
        probes = AdmittedFile(SITE, probes_file(self.site.path))
        return Target(SITE, HOST, self.port, self.who.tls, self.who.stranger, probes)


BROKERS = {"mosquitto": SecuredMosquitto, "builtin": SecuredBuiltin}


@pytest.fixture(params=[pytest.param("mosquitto", marks=pytest.mark.system), "builtin"])
async def secured(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SecuredBroker]:
    """Each of the two, running."""
    broker = BROKERS[request.param](tmp_path / "broker")
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
async def secured_builtin(tmp_path: Path) -> AsyncIterator[SecuredBuiltin]:
    """The built-in one, running."""
    broker = SecuredBuiltin(tmp_path / "broker")
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
async def secured_mosquitto(tmp_path: Path) -> AsyncIterator[SecuredMosquitto]:
    """mosquitto, running. Tests that use it are `system` tests."""
    broker = SecuredMosquitto(tmp_path / "broker")
    await broker.start()
    yield broker
    await broker.stop()


def wrong(findings: Iterable[object]) -> list[str]:
    """What came out wrong, in words."""
    return [str(finding) for finding in findings if not getattr(finding, "ok", False)]
