"""The application: routes, guard, problems and the live page, put together."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from server.api import (
    agents,
    bindings,
    commands,
    doors,
    events,
    health,
    keys,
    lockdowns,
    memberships,
    model_routes,
    policies,
    revocations,
    rotations,
    site,
    standing,
    tokens,
    windows,
)
from server.api.guard import Guard
from server.api.models import NoQuery, ProblemKind
from server.api.problems import (
    INTERNAL,
    INVALID,
    KINDS,
    NOT_FOUND,
    WRONG_HOST,
    Problem,
    ProblemDocument,
    documented,
    install,
)
from server.feed.reading import Feed
from server.state import ServerState

DESCRIPTION = """\
Read what the doors of a site saw: pages with a cursor, long-poll, server-sent events; the state
of the doors; and a proof of each event. Say who may enter where and when. Each operation that
needs a token names as its security scheme the scope that the token must have (or `admin`). Every
error is a problem document (RFC 9457).
"""
_CONSOLE = str(files("server.console"))


def build_api(state: ServerState) -> FastAPI:
    """The API and the live page over `state`.

    Call `state.hub.close()` when the server begins to shut down: it ends streams and long-polls,
    which the HTTP server otherwise waits for.
    """
    app = FastAPI(
        title="Ostiary",
        version=version("ostiary"),
        summary="Access control of one site: its events, doors, people and rules",
        description=DESCRIPTION,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        responses=documented(WRONG_HOST, INTERNAL),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=[
            {"name": "events", "description": "What happened, in order of arrival."},
            {"name": "doors", "description": "How the doors are now."},
            {"name": "model", "description": "Who may enter where and when."},
            {"name": "cards", "description": "Which card holds keys of which doors."},
            {"name": "revocations", "description": "Denials that beat everything."},
            {"name": "lockdowns", "description": "Entry refused at many doors at once."},
            {"name": "commands", "description": "Do this at this door now."},
            {"name": "keys", "description": "Key domains, their versions, and ESAMs."},
            {"name": "rotations", "description": "New keys for locks and cards."},
            {"name": "tokens", "description": "Who may use this API, and for what."},
            {"name": "operation", "description": "How the server is."},
        ],
    )
    app.state.server = state
    install(app)
    app.add_middleware(Guard)
    feed = Feed(state.engine, state.hub)
    app.include_router(events.router(state, feed))
    app.include_router(doors.router(state, feed))
    app.include_router(standing.router(state))
    app.include_router(health.router(state))
    app.include_router(site.router(state))
    app.include_router(model_routes.router(state))
    app.include_router(memberships.router(state))
    app.include_router(tokens.router(state))
    app.include_router(agents.router(state))
    app.include_router(revocations.router(state))
    app.include_router(lockdowns.router(state))
    app.include_router(commands.router(state))
    app.include_router(windows.router(state))
    app.include_router(bindings.router(state))
    app.include_router(policies.router(state))
    app.include_router(keys.router(state))
    app.include_router(rotations.router(state))
    app.include_router(_problems())
    app.add_api_route("/", _live_page, include_in_schema=False, response_class=FileResponse)
    app.mount("/console", _Console(directory=_CONSOLE), name="console")
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _live_page(_request: Request) -> Response:
    return FileResponse(f"{_CONSOLE}/index.html", headers={"Cache-Control": "no-cache"})


class _Console(StaticFiles):
    """The page's files, and nothing else of the package; asked again after an upgrade."""

    async def get_response(self, path: str, scope: Any) -> Response:
        if not path.endswith((".css", ".js", ".svg")):
            raise Problem(NOT_FOUND, f"{scope['path']} does not exist")
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _problems() -> APIRouter:
    routes = APIRouter(tags=["operation"])

    @routes.get(
        "/problems/{name}",
        summary="What a problem type means",
        response_model=ProblemKind,
        responses=documented(INVALID, NOT_FOUND),
    )
    async def explain(name: str, _query: Annotated[NoQuery, Query()]) -> Response:
        """The `type` of a problem document is this address."""
        kind = KINDS.get(name)
        if kind is None:
            raise Problem(NOT_FOUND, f"there is no kind of problem named {name[:100]!r}")
        return events.json_response(
            {
                "type": kind.type,
                "title": kind.title,
                "status": kind.status,
                "advice": kind.advice,
            }
        )

    return routes


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
            license_info=app.license_info,
        )
        problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = problem
        app.openapi_schema = document
    return app.openapi_schema
