"""Events: pages, long-poll, the stream, and the proof of each."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from starlette.responses import Response

from schemas.events import door_subject, event_type
from server.api.models import EVENT_ID, EventPage, EventProof, EventsQuery, NoQuery, StreamQuery
from server.api.problems import CURSOR_GONE, INVALID, NO_SUCH_EVENT, Problem, documented
from server.feed import cursor
from server.feed.cloudevents import as_json, deliver
from server.feed.cursor import BadCursor, ForeignCursor
from server.feed.reading import CursorAhead, Feed, Filter
from server.feed.sse import EventStream, stream
from server.state import ServerState
from server.store.events import proof_of

_STREAM_EXAMPLE = (
    'id: 1kO8yT3bNqM4AAAAAAAAAKc\nevent: alive\ndata: {"cursor":"1kO8yT3bNqM4AAAAAAAAAKc"}\n'
    'retry: 2000\n\nid: 1kO8yT3bNqM4AAAAAAAAAKg\ndata: {"specversion":"1.0",...}\n\n'
)


def json_response(body: object, status: int = 200) -> Response:
    """`body` as JSON, not to be kept by caches."""
    return Response(
        as_json(body),
        status_code=status,
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def router(state: ServerState, feed: Feed) -> APIRouter:
    """The routes under `/api/v1/events`."""
    routes = APIRouter(prefix="/api/v1/events", tags=["events"])

    @routes.get(
        "",
        summary="Read events, oldest first",
        response_model=EventPage,
        responses=documented(INVALID, CURSOR_GONE),
    )
    async def read_events(query: Annotated[EventsQuery, Query()]) -> Response:
        """Events in the order they arrived, each exactly once if you go on from `next`.

        With `wait` the answer comes as soon as there is an event (long-poll).
        """
        if query.last is not None and query.after is not None:
            raise _invalid("last", "can't stand beside `after`: choose one")
        if query.last is not None:
            position = max(0, await feed.newest() - query.last)
        elif query.after is not None:
            position = await _position(feed, query.after, "after")
        else:
            position = 0
        wanted = _filter(query.type, query.door)
        page = await feed.read_or_wait(position, query.limit, wanted, query.wait)
        store_id = await feed.store_id()
        return json_response(
            {
                "events": [deliver(event, store_id) for event in page.events],
                "next": cursor.encode(store_id, page.position),
                "more": page.more,
            }
        )

    @routes.get(
        "/stream",
        summary="Follow events as they arrive",
        status_code=200,
        response_class=EventStream,
        responses={
            200: {
                "description": "Server-sent events, without end. A message's `data` is an event "
                "and its `id` the cursor. A message named `alive` comes at least every 10 s and "
                "holds only the cursor: if it stays away, you are cut off.",
                "content": {
                    "text/event-stream": {"schema": {"type": "string"}, "example": _STREAM_EXAMPLE}
                },
            },
            **documented(INVALID, CURSOR_GONE),
        },
    )
    async def stream_events(
        query: Annotated[StreamQuery, Query()],
        last_event_id: Annotated[
            str | None,
            Header(description="Go on just after this cursor. Stands above `after`."),
        ] = None,
    ) -> Response:
        """Every event after the given cursor, or from now, once, in order, without a gap."""
        if last_event_id:
            position = await _position(feed, last_event_id, "Last-Event-ID")
        elif query.after is not None:
            position = await _position(feed, query.after, "after")
        else:
            position = await feed.newest()
        return EventStream(stream(feed, position, _filter(query.type, query.door)))

    @routes.get(
        "/{id}/proof",
        summary="Prove an event",
        response_model=EventProof,
        responses=documented(INVALID, NO_SUCH_EVENT),
    )
    async def prove_event(
        id: Annotated[str, Path(pattern=EVENT_ID, examples=["5f0c1a2b3c4d5e6f-42"])],
        _query: Annotated[NoQuery, Query()],
    ) -> Response:
        """The exact line and the signed envelope that covers it, to be verified anywhere."""
        proof = await proof_of(state.engine, id)
        if proof is None:
            raise Problem(NO_SUCH_EVENT, f"event {id} is not in this store")
        return json_response(
            {
                "event": id,
                "line": proof.line.decode(),
                "index": proof.index,
                "lines": len(proof.signed.lines),
                "suite": state.suite.name,
                "envelope": json.loads(proof.envelope),
            }
        )

    return routes


def _filter(types: list[str], door: str | None) -> Filter:
    subject = None if door is None else door_subject(door)
    return Filter([event_type(name) for name in types], subject)


async def _position(feed: Feed, text: str, parameter: str) -> int:
    try:
        return await feed.position_of(text)
    except BadCursor as error:
        raise _invalid(parameter, str(error)) from None
    except (ForeignCursor, CursorAhead) as error:
        raise Problem(CURSOR_GONE, str(error)) from None


def _invalid(parameter: str, detail: str) -> Problem:
    place = "header" if parameter == "Last-Event-ID" else "query"
    errors = [{"parameter": parameter, "in": place, "detail": detail}]
    return Problem(INVALID, f"{parameter}: {detail}", errors=errors)
