"""`ostiary serve`: the parts put together, started in order and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import structlog
import uvicorn
from sqlalchemy.ext.asyncio import AsyncEngine

from server.api import build_api
from server.broker.builtin import LOOPBACK, builtin_broker
from server.broker.link import Link, server_id
from server.clock import SystemClock
from server.config import BUILTIN, ServerConfig
from server.feed.hub import Hub
from server.ingest.acknowledge import Acknowledger
from server.ingest.intake import Intake
from server.ingest.journal import Journal
from server.ingest.ledger import Ledger
from server.ingest.metrics import IngestMetrics
from server.ingest.pipeline import Pipeline
from server.ingest.registry import Registry
from server.site import Site, SiteError, only_server
from server.state import LinkStatus, ServerState
from server.store.database import open_database

VERIFY_THREADS = 2
"""Curve arithmetic releases the interpreter lock; parsing does not, so more bring nothing."""
DRAIN_S = 20.0
FAREWELL_S = 5.0
FIRST_LINK_S = 2.0
_STREAMS_S = 3
MOST_CONNECTIONS = 128
"""Of HTTP; beyond it a request gets 503. Each stream reads the database at each commit."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Serving:
    """Where a running server is to be found."""

    url: str
    broker: str


@dataclass(frozen=True)
class _Ingest:
    intake: Intake
    link: Link
    pipeline: Pipeline
    acknowledger: Acknowledger


async def serve(
    site: Site,
    config: ServerConfig,
    environ: Mapping[str, str],
    *,
    stop: asyncio.Event,
    ready: Callable[[Serving], None],
) -> None:
    """Run the server until `stop`: then take nothing more in, commit, acknowledge and leave.

    Raises SiteError, BrokerUnavailable or OSError if it can't start.
    """
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        stack.enter_context(only_server(site.path))
        http = stack.enter_context(_listen(config.port))
        engine = await stack.enter_async_context(database(site, config))
        url, client_id = config.broker, server_id(site.name)
        if url == BUILTIN:
            client_id = server_id(secrets.token_hex(8))
            port = await stack.enter_async_context(builtin_broker(config.broker_port, client_id))
            url = f"mqtt://{LOOPBACK}:{port}"
        hub = Hub()
        state = ServerState(engine, hub, site.name, site.suite, LinkStatus(url), clock=clock)
        ingest = await _assemble(site, environ, state, client_id, stack)
        serving = Serving(f"http://{LOOPBACK}:{http.getsockname()[1]}", url)
        web = _Web(
            uvicorn.Config(
                build_api(state),
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=_STREAMS_S,
                limit_concurrency=MOST_CONNECTIONS,
            )
        )
        connected = asyncio.Event()

        def welcomed() -> None:
            ingest.pipeline.greet()
            connected.set()

        async with asyncio.TaskGroup() as group:
            pages = group.create_task(web.serve(sockets=[http]))
            listening = group.create_task(ingest.link.run(welcomed))
            committing = group.create_task(ingest.pipeline.run())
            answering = group.create_task(ingest.acknowledger.run())
            # ready: events are heard; or, with a broker that is away, the pages at least are there
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_LINK_S):
                    await connected.wait()
            log.info("ready", site=site.name, url=serving.url, broker=serving.broker)
            ready(serving)
            await stop.wait()
            log.info("stopping", waiting=len(ingest.intake))
            ingest.link.stop_listening()
            ingest.intake.close()
            await _finish(committing, DRAIN_S, "uncommitted events stay with their agents")
            ingest.acknowledger.close()
            await _finish(answering, FAREWELL_S, "agents will be told at the next start")
            listening.cancel()
            hub.close()
            web.should_exit = True
            await pages
        log.info("stopped")


async def _assemble(
    site: Site,
    environ: Mapping[str, str],
    state: ServerState,
    client_id: str,
    stack: AsyncExitStack,
) -> _Ingest:
    signer = site.signer("online", environ)
    metrics, clock = IngestMetrics(state.registry), state.clock
    registry = Registry(state.engine, site.suite, clock)
    await registry.refresh()
    ledger = Ledger(state.engine)
    await ledger.load()
    intake = Intake()
    verifiers = stack.enter_context(ThreadPoolExecutor(VERIFY_THREADS, "verify"))
    signing = stack.enter_context(ThreadPoolExecutor(1, "sign"))
    link = Link(
        url=state.link.broker,
        site=site.name,
        intake=intake,
        status=state.link,
        clock=clock,
        metrics=metrics,
        uniform=random.SystemRandom().uniform,
        client_id=client_id,
    )
    acknowledger = Acknowledger(
        site=site.name,
        signer=signer,
        publish=link.publish,
        executor=signing,
        clock=clock,
        metrics=metrics,
    )
    pipeline = Pipeline(
        site=site.name,
        suite=site.suite,
        intake=intake,
        registry=registry,
        ledger=ledger,
        journal=Journal(site.name, site.suite, signer, lambda: secrets.token_hex(8)),
        acknowledger=acknowledger,
        hub=state.hub,
        clock=clock,
        metrics=metrics,
        executor=verifiers,
        threads=VERIFY_THREADS,
    )
    return _Ingest(intake, link, pipeline, acknowledger)


@asynccontextmanager
async def database(site: Site, config: ServerConfig) -> AsyncIterator[AsyncEngine]:
    """The site's database, open while the context lasts."""
    engine = await open_database(config.database or site.database)
    try:
        yield engine
    finally:
        await engine.dispose()


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _finish(task: asyncio.Task[None], within_s: float, otherwise: str) -> None:
    done, _ = await asyncio.wait([task], timeout=within_s)
    if not done:
        log.warning("gave_up_waiting", seconds=within_s, consequence=otherwise)
        task.cancel()


class _Web(uvicorn.Server):
    """uvicorn without its own signal handlers: this program stops in its own order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


@contextmanager
def _listen(port: int) -> Iterator[socket.socket]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError as error:
            raise SiteError(
                f"can't listen on {LOOPBACK}:{port}: {error.strerror}; "
                "stop what uses it, or choose another with --port"
            ) from None
        yield listener
