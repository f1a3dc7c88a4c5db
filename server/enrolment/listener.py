"""Where devices knock: HTTPS with the site's own certificate, two routes, and nothing else.

Strangers reach this. What it costs them, in this order: a connection (few at once), a request of
bounded size within bounded time, an allowance by address, and a claim's secret. Before that nothing
is verified, stored or told.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Annotated, Any

import structlog
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from schemas.enrolment import MAX_REQUEST_BYTES, SECRET_BYTES
from schemas.errors import first_problem
from server.clock import Clock
from server.core.allowance import Allowance
from server.enrolment.reception import Reception, Turned
from server.tls import TlsFiles, listener_context

BODY_S = 10.0
MOST_CONNECTIONS = 64
HANDSHAKE_S = 10.0
LIFE_S = 60.0
"""Of a connection, whatever it is used for: who says nothing is not waited for."""
BURST, RATE_S, FAILURE_COSTS = 20.0, 2.0, 5.0
"""A device asks once in two seconds; who fails pays for it."""

log = structlog.get_logger(__name__)


class RequestBody(BaseModel):
    """What a device posts, each time the same until it is answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    secret: Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{2 * SECRET_BYTES}}}$")] = Field(
        repr=False
    )
    enrolment: str


def build_listener(reception: Reception, clock: Clock) -> FastAPI:
    """The application that devices enrol with."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    allowance = Allowance(BURST, RATE_S)

    def admit(request: Request) -> None:
        if not allowance.spend(_address(request), clock.monotonic()):
            raise Turned(429, "too many requests from this address: wait a minute")

    def fine(request: Request) -> None:
        allowance.fine(_address(request), FAILURE_COSTS, clock.monotonic())

    @app.exception_handler(Turned)
    async def turned(request: Request, error: Turned) -> Response:
        address = _address(request)
        log.warning("enrolment_turned_away", address=address, status=error.status, why=str(error))
        return _answer({"detail": str(error)}, error.status)

    @app.exception_handler(HTTPException)
    async def not_here(_request: Request, error: HTTPException) -> Response:
        return _answer({"detail": "not here"}, error.status_code)

    @app.exception_handler(Exception)
    async def failed(_request: Request, error: Exception) -> Response:
        log.error("enrolment_failed", exc_info=error)
        return _answer({"detail": "the server failed: its log says why"}, 500)

    @app.get("/enrol/v1/root")
    async def root(request: Request) -> Response:
        admit(request)
        return Response(reception.site.root_envelope, media_type="application/json")

    @app.post("/enrol/v1/requests")
    async def ask(request: Request) -> Response:
        admit(request)
        try:
            body = RequestBody.model_validate_json(await _bounded(request), strict=True)
        except ValidationError as error:
            fine(request)
            raise Turned(400, f"not an enrolment request: {first_problem(error)}") from None
        try:
            answer = await reception.receive(
                bytes.fromhex(body.secret), body.enrolment.encode("utf-8", "replace")
            )
        except Turned:
            fine(request)
            raise
        return Response(answer.model_dump_json(), media_type="application/json", headers=_FRESH)

    return app


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


async def _bounded(request: Request) -> bytes:
    """The body, unless it is too long or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > 2 * MAX_REQUEST_BYTES:
                    raise Turned(413, "the request is too long")
    except TimeoutError:
        raise Turned(408, "the request came too slowly") from None
    return bytes(body)


_FRESH = {"Cache-Control": "no-store"}


def _answer(body: dict[str, str], status: int) -> Response:
    return JSONResponse(body, status, headers={**_FRESH, "Connection": "close"})


class _Http(H11Protocol):
    """What comes right behind the handshake waits until `begin`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ended = asyncio.Event()
        self._early = b""
        self._begun = False

    def begin(self, transport: asyncio.Transport) -> None:
        """Serve the connection, whose handshake is done."""
        self._begun = True
        self.connection_made(transport)
        if self._early:  # no bytes are the end of a stream to h11
            self.data_received(self._early)

    def data_received(self, data: bytes) -> None:
        if self._begun:
            super().data_received(data)
        else:
            self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        if self._begun:
            super().connection_lost(exc)
        self.ended.set()


class _Knock(asyncio.Protocol):
    """A connection at its first moment, before TLS."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._listener.knocked(transport)


class Listener(uvicorn.Server):
    """The application on sockets that were bound already; `serve(sockets=[...])` runs it.

    Set `should_exit` to end it. It leaves signals alone: the program stops in its own order. It
    counts connections from their first moment: uvicorn bounds neither those that have not come to
    an end of their handshake nor those that ask nothing, and each costs the server a file.
    """

    def __init__(self, app: FastAPI, tls: TlsFiles) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=5,
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=8 * 1024,
        )
        config.load()
        super().__init__(config)
        self._tls = listener_context(tls)  # uvicorn's own would speak TLS 1.2 too
        self._open: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(lambda: _Knock(self), sock=each, backlog=MOST_CONNECTIONS)
            for each in sockets or ()
        ]
        self.started = True

    def knocked(self, transport: asyncio.Transport) -> None:
        """Serve a connection, unless there are as many as there may be."""
        if len(self._open) >= MOST_CONNECTIONS:
            transport.abort()
            return
        transport.pause_reading()
        task = asyncio.create_task(self._attend(transport))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _attend(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        http = _Http(config=self.config, server_state=self.server_state, app_state={}, _loop=loop)
        try:
            async with asyncio.timeout(LIFE_S):
                secured = await loop.start_tls(
                    transport,
                    http,
                    self._tls,
                    server_side=True,
                    ssl_handshake_timeout=HANDSHAKE_S,
                )
                assert secured is not None
                if not http.ended.is_set():
                    http.begin(secured)
                await http.ended.wait()
        except OSError as error:  # among them a handshake that failed, and the time that is over
            log.debug("connection_ended", why=str(error))
        finally:
            transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket for the listener. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
