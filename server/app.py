"""`ostiary serve`: the parts started in order and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import structlog
import uvicorn
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.server_event_data import RootPublished
from server.api import build_api
from server.assembly import Assembly, Where
from server.broker.builtin import LOOPBACK, guarded_broker, insecure_broker
from server.broker.grants import server_id
from server.clock import SystemClock, microseconds
from server.config import BUILTIN, ServerConfig, broker_address, is_loopback, own_broker_host
from server.enrolment.reception import Reached
from server.feed.hub import Hub
from server.link_status import LinkStatus
from server.pki import Authority
from server.run_file import new_local_token, run_file
from server.site import Site, SiteError, only_server, open_site
from server.state import ServerState
from server.store.announcements import announce
from server.store.database import DATABASE_ERRORS, open_database
from server.tls import listener_files

DRAIN_S = 20.0
FAREWELL_S = 5.0
FIRST_LINK_S = 2.0
ROOT_LOOK_S = 1.0
RESTART_PAUSE_S = 5.0
_STREAMS_S = 3
MOST_CONNECTIONS = 128
"""Of HTTP; beyond it a request gets 503. Each stream reads the database at each commit."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Serving:
    """Where a running server is to be found."""

    url: str
    broker: str
    enrolment: str


async def serve(
    site: Site,
    config: ServerConfig,
    environ: Mapping[str, str],
    *,
    stop: asyncio.Event,
    ready: Callable[[Serving], None],
) -> None:
    """Run the server until `stop`: then take nothing more in, commit, acknowledge and leave.

    A new root document, as `ostiary root rotate` makes one, is told to every agent, and all that
    signs is made anew with the new keys. Raises SiteError, BrokerUnavailable or OSError if it can't
    start.
    """
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        stack.enter_context(only_server(site.path))
        http = stack.enter_context(_listen(LOOPBACK, config.port, "port"))
        door = stack.enter_context(_listen(config.enrol_listen, config.enrol_port, "enrol-port"))
        engine = await stack.enter_async_context(database(site, config))
        authority = site.authority(environ)
        url, client_id = await _broker(site, config, authority, stack)
        reached = Reached(config.address, door.getsockname()[1], _as_reached(url, config))
        token, token_hash = new_local_token()
        state = ServerState(engine, Hub(), site.name, site.suite, LinkStatus(url), clock=clock)
        state.local_token = token_hash
        serving = Serving(
            f"http://{LOOPBACK}:{http.getsockname()[1]}",
            url,
            f"https://{reached.host}:{reached.port}",
        )
        stack.enter_context(run_file(site.path, serving.url, token))
        told = False

        def once_ready() -> None:
            nonlocal told
            if not told:
                told = True
                # What a start has made stays: to go through it again with each collection would
                # stop everything for a tenth of a second, in the midst of a revocation too.
                gc.collect()
                gc.freeze()
                log.info("ready", site=site.name, url=serving.url, broker=serving.broker)
                ready(serving)

        web: _Web | None = None
        async with asyncio.TaskGroup() as outer:
            pages: asyncio.Task[None] | None = None
            while not stop.is_set():
                with ExitStack() as threads:
                    state.registry = CollectorRegistry()
                    parts = Assembly(
                        site=site,
                        authority=authority,
                        config=config,
                        environ=environ,
                        state=state,
                        where=Where(url, client_id, reached),
                        stack=threads,
                    )
                    await parts.load()
                    if web is None:  # it outlives the parts, and finds them in `state`
                        web = _Web(_http_config(state))
                        pages = outer.create_task(web.serve(sockets=[http]))
                    await _run(parts, door, stop, once_ready)
                if not stop.is_set():
                    site = open_site(site.path)
                    log.info("root_changed", version=site.root.version)
            state.hub.close()
            if web is not None and pages is not None:
                web.should_exit = True
                await pages
        log.info("stopped")


async def _run(
    parts: Assembly,
    door: socket.socket,
    stop: asyncio.Event,
    ready: Callable[[], None],
) -> None:
    """Run the parts until `stop`, or until there is a newer root document, which is told first."""
    connected, welcomed = asyncio.Event(), asyncio.Event()

    def linked() -> None:
        connected.set()
        welcomed.set()

    async with asyncio.TaskGroup() as group:
        listening = group.create_task(parts.link.run(linked))
        committing = group.create_task(parts.pipeline.run())
        answering = group.create_task(parts.acknowledger.run())
        enrolling = group.create_task(parts.desk.run(door.dup()))
        others = [
            group.create_task(_keep(name, work))
            for name, work in {
                "welcome": lambda: _welcome(parts, welcomed),
                "agents": parts.registry.watch,
                "inbox": parts.inbox.run,
                "presence": parts.presence.run,
                "revocations": parts.revocations.run,
                "policies": parts.policies.run,
                "heartbeats": parts.heartbeats.run,
                "pulls": parts.pulls.run,
                "rotations": parts.rotations.run,
                "keys": parts.keys.run,
                "convergence": parts.convergence.run,
            }.items()
        ]
        # ready: events are heard; or, with a broker that is away, the pages at least are there
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LINK_S):
                await connected.wait()
        ready()
        await _until_done(parts, stop)
        log.info("stopping", waiting=len(parts.intake))
        parts.link.stop_listening()
        parts.intake.close()
        await _finish(committing, DRAIN_S, "uncommitted events stay with their agents")
        parts.acknowledger.close()
        await _finish(answering, FAREWELL_S, "agents will be told at the next start")
        parts.desk.stop()
        await enrolling
        for task in (*others, listening):
            task.cancel()


async def _until_done(parts: Assembly, stop: asyncio.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROOT_LOOK_S):
                await stop.wait()
        parts.state.announced()  # `ostiary keys` and others announce from processes of their own
        newest = parts.site.newest_root_version()
        if newest > parts.site.root.version:
            try:
                await _announce_root(parts.state, newest)
            except DATABASE_ERRORS as error:  # its parts could not be made without it either
                log.error(
                    "root_not_taken_up",
                    version=newest,
                    why=str(error)[:500],
                    next_step="check the database; the old keys sign until it answers",
                )
                continue
            try:
                await parts.publish_root()
            except ConnectionError as error:
                log.warning("root_not_told", why=str(error), next_step="agents ask on connection")
            return


async def _announce_root(state: ServerState, version: int) -> None:
    now_us = microseconds(state.clock.now())
    data = RootPublished(by="ostiary root", version=version)
    async with state.engine.begin() as connection:
        await announce(connection, "root.published", f"sites/{state.site}", data, now_us)
    state.announced()


async def _welcome(parts: Assembly, welcomed: asyncio.Event) -> None:
    while True:
        await welcomed.wait()
        welcomed.clear()
        try:
            await parts.welcome()
        except ConnectionError as error:
            log.warning("not_welcomed", why=str(error), next_step="again at the next connection")


async def _keep(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run a part that events can do without; if it fails, say so and start it again."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("part_failed", part=name, again_in_s=RESTART_PAUSE_S)
        await asyncio.sleep(RESTART_PAUSE_S)


async def _broker(
    site: Site, config: ServerConfig, authority: Authority, stack: AsyncExitStack
) -> tuple[str, str]:
    """The broker's URL and our client id there; the built-in one is started first."""
    if config.broker != BUILTIN:
        return config.broker, server_id(site.name)
    if config.insecure_loopback:
        # its name is guessed by nobody: who takes a client's name there takes its connection
        client_id = f"server-{secrets.token_hex(8)}"
        port = await stack.enter_async_context(insecure_broker(config.broker_port, client_id))
        return f"mqtt://{LOOPBACK}:{port}", client_id
    files = listener_files(site.path, authority, config.address, SystemClock().now())
    port = await stack.enter_async_context(
        guarded_broker(site, files, config.broker_port, config.broker_listen)
    )
    return f"mqtts://{own_broker_host(config)}:{port}", server_id(site.name)


def _as_reached(url: str, config: ServerConfig) -> str:
    """The broker's address for devices: one on this machine is where this machine is reached."""
    secured, host, port = broker_address(url)
    if not secured or not is_loopback(host):
        return url
    address = config.address
    return f"mqtts://{f'[{address}]' if ':' in address else address}:{port}"


def _http_config(state: ServerState) -> uvicorn.Config:
    api = build_api(state)
    # Each route is worked out when it is first looked for: half a second of the event loop, which
    # the first revocation is not to wait for. This path is none, so all are looked at.
    nowhere = {"type": "http", "method": "GET", "path": "/-", "root_path": "", "headers": []}
    for route in api.routes:
        route.matches(nowhere)
    return uvicorn.Config(
        api,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=_STREAMS_S,
        limit_concurrency=MOST_CONNECTIONS,
    )


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
def _listen(address: str, port: int, setting: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError as error:
            raise SiteError(
                f"can't listen on {address}:{port}: {error.strerror}; "
                f"stop what uses it, or choose another with --{setting}"
            ) from None
        yield listener
