"""The objects of the model: the same routes for every kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query
from pydantic import BaseModel, Field, ValidationError, create_model
from starlette.responses import Response

from schemas.names import CardId, Name
from server.api.events import json_response
from server.api.model_queries import QUERIES, ListQuery, NamedQuery
from server.api.models import NoQuery
from server.api.permission import Principal, needs
from server.api.problems import (
    CHANGED_MEANWHILE,
    FORBIDDEN,
    INVALID,
    NO_SUCH_OBJECT,
    STILL_NAMED,
    TOO_LARGE,
    UNAUTHORISED,
    Problem,
    documented,
    named_errors,
)
from server.model.bodies import Body
from server.model.changing import Change, changing
from server.model.errors import ChangedMeanwhile, InvalidModel, ModelError, NotThere, StillNamed
from server.model.kinds import CARDS, DOORS, KINDS, REVOCABLE, Kind
from server.model.stored import Stored, fetch, fetch_page
from server.state import ServerState

PATHS = {kind.name: f"/api/v1/{kind.plural}" for kind in KINDS} | {
    DOORS.name: "/api/v1/door-configurations"  # /api/v1/doors is how they are, not how meant to be
}
REFUSALS = (UNAUTHORISED, FORBIDDEN, INVALID)
_MAX_DEPTH = 20
IfMatch = Annotated[
    str | None,
    Header(description="the `ETag` you have seen; if it is not that any more, nothing is changed"),
]
IfNoneMatch = Annotated[
    str | None, Header(description="`*`: only if there is none yet", pattern=r"^\*$")
]


def router(state: ServerState) -> APIRouter:
    """The routes of every kind."""
    routes = APIRouter()
    for kind in KINDS:
        routes.include_router(_routes(state, kind))
    return routes


def _routes(state: ServerState, kind: Kind[Any]) -> APIRouter:
    routes = APIRouter(prefix=PATHS[kind.name], tags=["model"])
    item, page = _answers(kind)
    ids: Any = CardId if kind is CARDS else Name
    key_type: Any = Annotated[ids, Path(description=f"the {kind.name}'s id")]

    def typed(**types: Any) -> Callable[[Any], Any]:
        """Say the types that differ from kind to kind, for FastAPI to read and check by."""

        def say(endpoint: Any) -> Any:
            endpoint.__annotations__ |= types
            return endpoint

        return say

    @routes.get(
        "",
        summary=f"List {kind.plural}",
        response_model=page,
        responses=documented(*REFUSALS),
    )
    @typed(query=Annotated[QUERIES.get(kind.name, NamedQuery), Query()])
    async def read_list(
        query: ListQuery, _who: Annotated[Principal, Depends(needs("read"))]
    ) -> Response:
        """A page of them by id. Go on with `after` = `next` until that is null."""
        async with state.engine.connect() as connection:
            found = await fetch_page(
                connection, kind, query.conditions(kind), query.after, query.limit
            )
        more = found[-1].id if len(found) == query.limit else None
        return json_response({"items": [shown(each) for each in found], "next": more})

    @routes.get(
        "/{key}",
        summary=f"Read one {kind.name}",
        response_model=item,
        responses=documented(*REFUSALS, NO_SUCH_OBJECT),
    )
    @typed(key=key_type)
    async def read_one(
        key: str,
        _query: Annotated[NoQuery, Query()],
        _who: Annotated[Principal, Depends(needs("read"))],
    ) -> Response:
        """The object and, as `ETag`, its revision."""
        async with state.engine.connect() as connection:
            return _answer(_there(await fetch(connection, kind, [key]), kind, key))

    @routes.put(
        "/{key}",
        summary=f"Create or replace one {kind.name}",
        response_model=item,
        responses={
            201: {"description": "It was not there before", "model": item},
            **documented(*REFUSALS, CHANGED_MEANWHILE, TOO_LARGE),
        },
    )
    @typed(key=key_type, body=kind.body)
    async def put_one(
        key: str,
        body: Body,
        _query: Annotated[NoQuery, Query()],
        who: Annotated[Principal, Depends(needs("manage"))],
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> Response:
        """What is left out takes its default. To change single fields use PATCH."""
        async with change(state, who, kind, key) as making:
            before = (await fetch(making.connection, kind, [key])).get(key)
            revision = None if before is None else before.revision
            check_match(key, revision, if_match, only_new=if_none_match is not None)
            await making.put(kind, {key: body})
            after = (await fetch(making.connection, kind, [key]))[key]
        return _answer(after, 200 if before else 201)

    @routes.patch(
        "/{key}",
        summary=f"Change fields of one {kind.name}",
        response_model=item,
        responses=documented(*REFUSALS, NO_SUCH_OBJECT, CHANGED_MEANWHILE, TOO_LARGE),
    )
    @typed(key=key_type)
    async def patch_one(
        key: str,
        body: dict[str, Any],
        _query: Annotated[NoQuery, Query()],
        who: Annotated[Principal, Depends(needs("manage"))],
        if_match: IfMatch = None,
    ) -> Response:
        """A JSON merge patch (RFC 7396): fields given replace, null gives back the default."""
        async with change(state, who, kind, key) as making:
            before = _there(await fetch(making.connection, kind, [key]), kind, key)
            check_match(key, before.revision, if_match)
            await making.put(kind, {key: _patched(kind, before.body, body)})
            after = (await fetch(making.connection, kind, [key]))[key]
        return _answer(after)

    @routes.delete(
        "/{key}",
        summary=f"Delete one {kind.name}",
        status_code=204,
        response_class=Response,
        responses=documented(*REFUSALS, NO_SUCH_OBJECT, STILL_NAMED, CHANGED_MEANWHILE),
    )
    @typed(key=key_type)
    async def delete_one(
        key: str,
        _query: Annotated[NoQuery, Query()],
        who: Annotated[Principal, Depends(needs("manage"))],
        if_match: IfMatch = None,
    ) -> Response:
        """Refused while something else names it."""
        async with change(state, who, kind, key) as making:
            before = _there(await fetch(making.connection, kind, [key]), kind, key)
            check_match(key, before.revision, if_match)
            await making.remove(kind, [key])
        return Response(status_code=204)

    if kind.name in REVOCABLE:

        @routes.post(
            "/{key}/reinstate",
            summary=f"Let a {kind.name} in again that was revoked",
            response_model=item,
            responses=documented(*REFUSALS, NO_SUCH_OBJECT),
        )
        @typed(key=key_type)
        async def reinstate(
            key: str,
            _query: Annotated[NoQuery, Query()],
            who: Annotated[Principal, Depends(needs("manage"))],
        ) -> Response:
            """All revocations until now are answered; a card becomes `active`.

            The revocation log keeps them: it only ever grows. A later revocation counts again.
            """
            async with change(state, who, kind, key) as making:
                before = _there(await fetch(making.connection, kind, [key]), kind, key)
                if kind.name == CARDS.name:
                    await making.put(kind, {key: _patched(kind, before.body, {"state": "active"})})
                await making.clear(kind, key, state.revocations.head.sequence)
                after = (await fetch(making.connection, kind, [key]))[key]
            return _answer(after)

    return routes


@asynccontextmanager
async def change(
    state: ServerState, who: Principal, kind: Kind[Any], key: str
) -> AsyncIterator[Change]:
    """A change of one object, whose refusal becomes a problem with paths into the body."""
    try:
        async with changing(state, who.name) as making:
            yield making
    except ModelError as error:
        raise problem_of(error, f"{kind.plural}.{key}.") from None


def problem_of(error: ModelError, prefix: str = "") -> Problem:
    """The problem that tells of a refused change; `prefix` of paths says nothing new."""
    match error:
        case InvalidModel():
            errors = [
                {"parameter": f.path.removeprefix(prefix), "in": "body", "detail": f.detail}
                for f in error.faults
            ]
            first = errors[0]
            return Problem(INVALID, f"{first['parameter']}: {first['detail']}", errors=errors)
        case StillNamed():
            return Problem(STILL_NAMED, str(error))
        case ChangedMeanwhile():
            return Problem(CHANGED_MEANWHILE, str(error))
        case NotThere():
            return Problem(NO_SUCH_OBJECT, str(error))
    raise error


def check_match(
    what: str, revision: int | None, seen: str | None, *, only_new: bool = False
) -> None:
    """The preconditions of RFC 9110 13.1; no revision: it is not there. Raises Problem."""
    if only_new and revision is not None:
        raise Problem(CHANGED_MEANWHILE, f"{what} is there already")
    if seen is None:
        return
    if revision is None:
        raise Problem(CHANGED_MEANWHILE, f"{what} is not there any more")
    if seen != "*" and etag(revision) not in [tag.strip() for tag in seen.split(",")]:
        raise Problem(CHANGED_MEANWHILE, f"{what} has the ETag {etag(revision)} now")


def etag(revision: int) -> str:
    """The entity tag of a revision."""
    return f'"{revision}"'


def shown(stored: Stored[Any]) -> dict[str, Any]:
    """An object as the API gives it."""
    cleared = {} if stored.cleared is None else {"cleared": stored.cleared}
    body = stored.body.model_dump(mode="json")
    return {"id": stored.id, **body, **cleared, "revision": stored.revision}


def _answer(stored: Stored[Any], status: int = 200) -> Response:
    response = json_response(shown(stored))
    response.status_code = status
    response.headers["ETag"] = etag(stored.revision)
    return response


def _there(found: dict[str, Stored[Any]], kind: Kind[Any], key: str) -> Stored[Any]:
    if key not in found:
        raise Problem(NO_SUCH_OBJECT, f"there is no {kind.name} {key}")
    return found[key]


def _patched(kind: Kind[Any], body: Body, patch: dict[str, Any]) -> Body:
    merged = _merge(body.model_dump(mode="json"), patch)
    try:
        made: Body = kind.body.model_validate(merged)
    except ValidationError as error:
        raise named_errors(error) from None
    return made


def _merge(target: Any, patch: Any, depth: int = 0) -> Any:
    """RFC 7396, 2. Raises Problem."""
    if not isinstance(patch, dict):
        return patch
    if depth > _MAX_DEPTH:
        raise Problem(INVALID, f"the patch is nested more than {_MAX_DEPTH} deep", errors=[])
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value, depth + 1)
    return merged


def _answers(kind: Kind[Any]) -> tuple[type[BaseModel], type[BaseModel]]:
    """The models of one object and of a page, for OpenAPI."""
    title = kind.body.__name__
    fields: dict[str, Any] = {
        "id": (str, Field(description=f"the {kind.name}'s id")),
        "revision": (int, Field(description="of the last change; also the `ETag`")),
    }
    if kind.name in REVOCABLE:
        text = "revocations up to this sequence of the log are answered"
        fields["cleared"] = (int, Field(description=text))
    item = create_model(f"{title}Item", __base__=kind.body, **fields)
    return item, create_model(
        f"{title}Page",
        items=(list[item], Field(description="by id")),  # type: ignore[valid-type]
        next=(str | None, Field(description="go on after this; null: this was the last page")),
    )
