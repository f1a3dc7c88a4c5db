"""The feed as server-sent events (WHATWG HTML, 9.2).

Each subscriber is a loop of its own over the store: read to the end, wait for the bell, read on.
What it was not sent yet is not held in memory but in the database, so a slow client costs nobody
else anything, and a client that comes back with its last id goes on exactly there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import structlog
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from server.feed import cursor
from server.feed.cloudevents import as_json, deliver
from server.feed.reading import Feed, Filter

_log = structlog.get_logger(__name__)

KEEP_ALIVE_S = 10.0
RETRY_MS = 2000
SEND_TIMEOUT_S = 30.0
PAGE = 100
_LINE_END = "\n"


class EventStream(EventSourceResponse):
    """A response that never ends by itself, and drops a client that stops reading."""

    media_type = "text/event-stream"

    def __init__(self, messages: AsyncIterator[bytes]) -> None:
        # ping=0: the keep-alives below carry the cursor, which a comment can't.
        super().__init__(messages, ping=0, sep=_LINE_END, send_timeout=SEND_TIMEOUT_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            _log.info("subscriber_dropped", reason="not_reading", after_s=SEND_TIMEOUT_S)


async def stream(
    feed: Feed, position: int, wanted: Filter, *, keep_alive_s: float = KEEP_ALIVE_S
) -> AsyncIterator[bytes]:
    """Every wanted event after `position`, as it is committed, until the server shuts down.

    Begins with an `alive` message and sends one whenever it has nothing else to say for
    `keep_alive_s`. It carries the cursor: a client that saw no event yet can resume all the same,
    and one that hears nothing knows that it is cut off.
    """
    store_id = await feed.store_id()
    yield _alive(cursor.encode(store_id, position), retry_ms=RETRY_MS)
    while not feed.closed:
        page = await feed.read(position, PAGE, wanted)
        position = page.position
        if page.events:
            delivered = (deliver(event, store_id) for event in page.events)
            yield b"".join(_message(as_json(event), event["cursor"]) for event in delivered)
        if page.more or await feed.more_after(position, keep_alive_s):
            continue
        if not feed.closed:
            # Then read again, whatever the bell says: another process may have written.
            yield _alive(cursor.encode(store_id, position))


def _message(data: str, id: str) -> bytes:
    return ServerSentEvent(data, id=id, sep=_LINE_END).encode()


def _alive(place: str, *, retry_ms: int | None = None) -> bytes:
    return ServerSentEvent(
        as_json({"cursor": place}), event="alive", id=place, retry=retry_ms, sep=_LINE_END
    ).encode()
