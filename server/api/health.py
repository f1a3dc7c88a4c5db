"""For those who watch the server: is it alive, is it ready, how is it doing."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Query
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from server.api.events import json_response
from server.api.models import Alive, Health, NoQuery
from server.api.problems import INVALID, NOT_READY, Problem, documented
from server.clock import microseconds
from server.feed.cloudevents import timestamp
from server.state import ServerState
from server.store.tables import events

_log = structlog.get_logger(__name__)


def router(state: ServerState) -> APIRouter:
    """`/livez`, `/healthz` and `/metrics`."""
    routes = APIRouter(tags=["operation"])

    @routes.get(
        "/livez",
        summary="Is the process alive?",
        response_model=Alive,
        responses=documented(INVALID),
    )
    async def alive(_query: Annotated[NoQuery, Query()]) -> Response:
        """Always `alive`, if anything. Restart the server when this fails, not the next."""
        return json_response({"status": "alive"})

    @routes.get(
        "/healthz",
        summary="Is the server ready?",
        response_model=Health,
        responses=documented(INVALID, NOT_READY),
    )
    async def healthy(_query: Annotated[NoQuery, Query()]) -> Response:
        """Whether events can be received, stored and shown: the broker link and the database."""
        database, last_commit = await _database(state)
        link = state.link
        since = f" since {timestamp(microseconds(link.since))}" if link.since else ""
        broker = {
            "ok": link.connected,
            "detail": f"{'connected' if link.connected else 'not connected'}{since}",
        }
        checks = {"broker": broker, "database": database}
        if not all(check["ok"] for check in checks.values()):
            missing = ", ".join(name for name, check in checks.items() if not check["ok"])
            raise Problem(
                NOT_READY, f"not ready: {missing}", checks=checks, last_commit=last_commit
            )
        return json_response({"status": "ready", "checks": checks, "last_commit": last_commit})

    @routes.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **documented(INVALID),
        },
    )
    async def metrics(_query: Annotated[NoQuery, Query()]) -> Response:
        """Counters, gauges and histograms in the Prometheus text format."""
        return Response(generate_latest(state.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


async def _database(state: ServerState) -> tuple[dict[str, object], str | None]:
    newest = select(events.c.recorded_us).order_by(events.c.position.desc()).limit(1)
    try:
        async with state.engine.connect() as connection:
            recorded_us = await connection.scalar(newest)
    except (SQLAlchemyError, OSError) as error:
        _log.error("database_unreadable", exc_info=error)
        return {"ok": False, "detail": "can't be read; the reason is in the server's log"}, None
    return {"ok": True, "detail": "answers"}, timestamp(recorded_us) if recorded_us else None
