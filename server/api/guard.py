"""What every request meets first: the checks of host and size, and what responses carry."""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.headers import SECURITY_HEADERS
from server.api.problems import WRONG_HOST, problem_response

MAX_BODY_BYTES = 1024 * 1024
DOCUMENT_PATH = "/api/v1/site-document"
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""Of a whole site: 100,000 persons with a card each are some 30 MB."""
LOOPBACK_HOST = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?\Z", re.IGNORECASE)


class Guard:
    """Refuses foreign host names, answers HEAD as GET without the body, adds security headers.

    The host check is what stops DNS rebinding: to a browser, a page at evil.example that resolves
    to 127.0.0.1 is of the same origin as this server, and only the Host header tells.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) != 1 or not LOOPBACK_HOST.match(hosts[0]):
            asked = hosts[0][:100] if hosts else ""
            refusal = problem_response(WRONG_HOST, f"the request is for host {asked!r}")
            await refusal(scope, receive, send_guarded)
            return
        if scope["method"] == "HEAD":
            await self._app({**scope, "method": "GET"}, receive, _Headless(send_guarded))
            return
        most = MAX_DOCUMENT_BYTES if scope["path"] == DOCUMENT_PATH else MAX_BODY_BYTES
        await self._app(scope, _Capped(receive, most), send_guarded)


class _Capped:
    """Ends a request whose body grows beyond a size, announced or not."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._left = receive, most, most

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413, f"the body is larger than {self._most} bytes")
        return message


class _Headless:
    """Passes a response's head and drops its body (RFC 9110 9.3.2), even an endless one."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._send(message)
            # Ends the response at once: a stream then sees its client leave.
            await self._send({"type": "http.response.body", "body": b""})
