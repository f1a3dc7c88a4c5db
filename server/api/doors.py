"""The doors as they last reported themselves."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.responses import Response

from server.api.events import json_response
from server.api.models import Doors, NoQuery
from server.api.problems import INVALID, documented
from server.clock import microseconds
from server.feed import cursor
from server.feed.cloudevents import timestamp
from server.feed.reading import Feed
from server.state import ServerState
from server.store.tables import chains, door_states, events


def router(state: ServerState, feed: Feed) -> APIRouter:
    """The routes under `/api/v1/doors`."""
    routes = APIRouter(prefix="/api/v1/doors", tags=["doors"])

    @routes.get(
        "",
        summary="See all doors",
        response_model=Doors,
        responses=documented(INVALID),
    )
    async def read_doors(_query: Annotated[NoQuery, Query()]) -> Response:
        """What each door last said, and when it was last heard of.

        `unknown` is a state of its own: a door that is not heard is never shown as closed.
        """
        # Before the doors: what changes in between is then told twice rather than not at all.
        position = await feed.newest()
        link = state.link
        return json_response(
            {
                "site": state.site,
                "link": {
                    "connected": link.connected,
                    "since": timestamp(microseconds(link.since)) if link.since else None,
                },
                "doors": await _doors(state.engine, current=link.connected),
                "cursor": cursor.encode(await feed.store_id(), position),
            }
        )

    return routes


async def _doors(db: AsyncEngine, *, current: bool) -> list[dict[str, object]]:
    heads = (
        # By the head of each chain, not over all events: a door has few chains and many events.
        select(chains.c.source, func.max(events.c.recorded_us).label("heard_us"))
        .join(
            events,
            (events.c.source == chains.c.source)
            & (events.c.chain == chains.c.chain)
            & (events.c.sequence == chains.c.sequence),
        )
        .group_by(chains.c.source)
        .subquery()
    )
    query = (
        select(door_states, heads.c.heard_us)
        .outerjoin(heads, heads.c.source == door_states.c.agent)
        .order_by(door_states.c.door)
    )
    async with db.connect() as connection:
        rows = await connection.execute(query)
        return [
            {
                "door": row.door,
                "agent": row.agent,
                "current": current,
                "contact": row.contact,
                "mode": row.mode,
                "alarm": row.alarm,
                "changed": timestamp(row.changed_us),
                "last_heard": None if row.heard_us is None else timestamp(row.heard_us),
            }
            for row in rows
        ]
