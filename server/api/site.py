"""The site itself, and all of it as one document."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from schemas.strict_json import NotStrictJson, read_json
from server.api.events import json_response
from server.api.guard import DOCUMENT_PATH
from server.api.model_routes import REFUSALS, IfMatch, check_match, etag, problem_of
from server.api.models import NoQuery
from server.api.permission import Principal, needs
from server.api.problems import (
    CHANGED_MEANWHILE,
    INVALID,
    STILL_NAMED,
    TOO_LARGE,
    Problem,
    documented,
    named_errors,
)
from server.feed.cloudevents import as_json
from server.model.bodies import Body, Site
from server.model.changing import changing
from server.model.document import Outcome, SiteDocument, apply, export
from server.model.errors import ModelError
from server.model.kinds import KINDS
from server.model.reading import model_revision
from server.model.stored import fetch_site
from server.state import ServerState


class SiteItem(Site):
    """The site."""

    id: str = Field(description="its name in the root of trust; never changes")
    suite: str = Field(description="its algorithms: `gm` or `intl`")
    revision: int


class ApplyQuery(BaseModel):
    """How a document is applied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dry_run: Annotated[bool, Field(description="only say what would change")] = False
    prune: Annotated[
        bool, Field(description="delete what a section that is there doesn't list")
    ] = False


class DifferenceShown(BaseModel):
    """One field that is not as it was."""

    path: str
    before: Any
    after: Any


class StepShown(BaseModel):
    """One object that is made, changed or removed."""

    kind: str
    id: str
    action: Literal["created", "updated", "deleted"]
    differences: list[DifferenceShown]


class Applied(BaseModel):
    """What the document changes."""

    applied: bool = Field(description="false: a dry run, or nothing to change")
    revision: int = Field(description="of the model; send it as `If-Match` with what follows")
    steps: list[StepShown]
    unlisted: list[tuple[str, str]] = Field(
        description="(kind, id) of what the document doesn't list; `prune` would delete it"
    )


def router(state: ServerState) -> APIRouter:
    """`/api/v1/site` and `/api/v1/site-document`."""
    routes = APIRouter(tags=["model"])

    @routes.get(
        "/api/v1/site",
        summary="Read the site",
        response_model=SiteItem,
        responses=documented(*REFUSALS),
    )
    async def read_site(
        _query: Annotated[NoQuery, Query()], _who: Annotated[Principal, Depends(needs("read"))]
    ) -> Response:
        """Its name for people and its time zone; `ETag` is its revision."""
        async with state.engine.connect() as connection:
            return _site(state, *await fetch_site(connection))

    @routes.put(
        "/api/v1/site",
        summary="Name the site and its time zone",
        response_model=SiteItem,
        responses=documented(*REFUSALS, CHANGED_MEANWHILE, TOO_LARGE),
    )
    async def put_site(
        body: Site,
        _query: Annotated[NoQuery, Query()],
        who: Annotated[Principal, Depends(needs("manage"))],
        if_match: IfMatch = None,
    ) -> Response:
        """A new time zone moves every schedule: all doors get a new policy."""
        async with changing(state, who.name) as change:
            check_match("the site", (await fetch_site(change.connection))[0], if_match)
            await change.put_site(body)
            after = await fetch_site(change.connection)
        return _site(state, *after)

    @routes.get(
        DOCUMENT_PATH,
        summary="Export the whole site",
        response_model=SiteDocument,
        responses=documented(*REFUSALS),
    )
    async def read_document(
        _query: Annotated[NoQuery, Query()], _who: Annotated[Principal, Depends(needs("read"))]
    ) -> Response:
        """Every object, by kind and id, without what is as by default. `ETag`: the model's."""
        async with state.engine.connect() as connection, connection.begin():
            revision = await model_revision(connection)
            document = await export(connection)
        response = await asyncio.to_thread(_exported, document)
        response.headers["ETag"] = etag(revision)
        return response

    @routes.post(
        DOCUMENT_PATH,
        summary="Apply a document of the site",
        response_model=Applied,
        responses=documented(*REFUSALS, CHANGED_MEANWHILE, STILL_NAMED, TOO_LARGE),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/SiteDocument"}}
                },
            }
        },
    )
    async def apply_document(
        request: Request,
        query: Annotated[ApplyQuery, Query()],
        who: Annotated[Principal, Depends(needs("manage"))],
        if_match: IfMatch = None,
    ) -> Response:
        """In one change: all of it, or nothing. It is also the way to put many objects at once.

        A section that is left out stays as it is; so does what a section doesn't list, unless
        `prune` is asked for. With `If-Match` it is refused if the model is not at that revision.
        """
        # Read here, not by the framework: nobody without a token makes us hold 64 MiB.
        document = await asyncio.to_thread(_document, await request.body())
        expected = None if if_match is None else _revision(if_match)
        try:
            outcome = await apply(
                state,
                who.name,
                document,
                prune=query.prune,
                dry_run=query.dry_run,
                expected=expected,
            )
        except ModelError as error:
            raise problem_of(error) from None
        return await asyncio.to_thread(_outcome, outcome)

    return routes


def _exported(document: SiteDocument) -> Response:
    assert document.site is not None
    shown: dict[str, Any] = {"site": _plain(document.site)}
    for kind in KINDS:
        bodies = document.section(kind) or {}
        shown[kind.plural] = {key: _plain(body) for key, body in bodies.items()}
    return _large(shown)


def _outcome(outcome: Outcome) -> Response:
    return _large(vars(outcome) | {"steps": [asdict(step) for step in outcome.steps]})


def _plain(body: Body) -> dict[str, Any]:
    return body.model_dump(mode="json", exclude_defaults=True)


def _large(members: Mapping[str, Any]) -> Response:
    """A response whose parts are written one by one: in one go, the encoder lets no thread run."""
    written = []
    for name, value in members.items():
        if isinstance(value, dict):
            inner = ",".join(f"{as_json(key)}:{as_json(each)}" for key, each in value.items())
            text = f"{{{inner}}}"
        elif isinstance(value, list | tuple):
            text = f"[{','.join(as_json(each) for each in value)}]"
        else:
            text = as_json(value)
        written.append(f"{as_json(name)}:{text}")
    headers = {"Cache-Control": "no-store"}
    return Response(f"{{{','.join(written)}}}", media_type="application/json", headers=headers)


def _document(body: bytes) -> SiteDocument:
    try:
        return SiteDocument.model_validate(read_json(body))
    except NotStrictJson as error:
        errors = [{"parameter": "body", "in": "body", "detail": str(error)}]
        raise Problem(INVALID, f"the body {error}", errors=errors) from None
    except ValidationError as error:
        raise named_errors(error) from None


def _revision(tag: str) -> int:
    digits = tag.strip().strip('"')
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        errors = [{"parameter": "If-Match", "in": "header", "detail": "is not one of our ETags"}]
        raise Problem(INVALID, "If-Match: is not one of our ETags", errors=errors)
    return int(digits)


def _site(state: ServerState, revision: int, site: Site) -> Response:
    body = site.model_dump(mode="json")
    shown = {"id": state.site, "suite": state.suite.name, **body, "revision": revision}
    response = json_response(shown)
    response.headers["ETag"] = etag(revision)
    return response
