"""Who is in which group: the pairs, as a list of their own."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Column, Table, select, tuple_
from starlette.responses import Response

from schemas.names import Name
from server.api.events import json_response
from server.api.model_queries import ListQuery, MembershipsQuery
from server.api.model_routes import REFUSALS, change
from server.api.models import NoQuery
from server.api.permission import Principal, needs
from server.api.problems import INVALID, NO_SUCH_OBJECT, Problem, documented
from server.feed.cloudevents import timestamp
from server.model.bodies import Membership, Moment, Person
from server.model.kinds import PERSONS
from server.model.stored import fetch
from server.state import ServerState
from server.store.model_tables import memberships


class MembershipItem(BaseModel):
    """A person is in a group, until a time if one is given."""

    group: Name
    person: Name
    until: Moment | None = Field(description="exclusive; null: without end")


class MembershipPage(BaseModel):
    """Some memberships, by group and person."""

    items: list[MembershipItem]
    next: str | None


class MembershipBody(BaseModel):
    """What there is to say of a membership."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: Moment | None = Field(default=None, description="exclusive; null: without end")


def router(state: ServerState) -> APIRouter:
    """The routes under `/api/v1/memberships`."""
    routes = APIRouter(prefix="/api/v1", tags=["model"])

    @routes.get(
        "/memberships",
        summary="List memberships",
        response_model=MembershipPage,
        responses=documented(*REFUSALS),
    )
    async def read_memberships(
        query: Annotated[MembershipsQuery, Query()],
        _who: Annotated[Principal, Depends(needs("read"))],
    ) -> Response:
        """A page of them by group and person, ended ones too."""
        wanted = {memberships.c.group: query.group, memberships.c.person: query.person}
        order = (memberships.c.group, memberships.c.person)
        rows, more = await _page(state, memberships, order, wanted, query)
        items = [
            {
                "group": row.group,
                "person": row.person,
                "until": None if row.until_us is None else timestamp(row.until_us),
            }
            for row in rows
        ]
        return json_response({"items": items, "next": more})

    @routes.put(
        "/memberships/{group}/{person}",
        summary="Put a person into a group",
        status_code=204,
        response_class=Response,
        responses=documented(*REFUSALS, NO_SUCH_OBJECT),
    )
    async def put_membership(
        group: Name,
        person: Name,
        body: MembershipBody,
        _query: Annotated[NoQuery, Query()],
        who: Annotated[Principal, Depends(needs("manage"))],
    ) -> Response:
        """Or change until when. It is part of the person, whose revision moves on."""
        await _change_groups(state, who, person, group, Membership(group=group, until=body.until))
        return Response(status_code=204)

    @routes.delete(
        "/memberships/{group}/{person}",
        summary="Take a person out of a group",
        status_code=204,
        response_class=Response,
        responses=documented(*REFUSALS, NO_SUCH_OBJECT),
    )
    async def delete_membership(
        group: Name,
        person: Name,
        _query: Annotated[NoQuery, Query()],
        who: Annotated[Principal, Depends(needs("manage"))],
    ) -> Response:
        """The rules of the group then no longer let this person in."""
        await _change_groups(state, who, person, group, None)
        return Response(status_code=204)

    return routes


async def _change_groups(
    state: ServerState, who: Principal, key: str, group: str, now: Membership | None
) -> None:
    async with change(state, who, PERSONS, key) as making:
        found = await fetch(making.connection, PERSONS, [key])
        if key not in found:
            raise Problem(NO_SUCH_OBJECT, f"there is no person {key}")
        person = found[key].body
        others = [membership for membership in person.groups if membership.group != group]
        if now is None and len(others) == len(person.groups):
            raise Problem(NO_SUCH_OBJECT, f"person {key} is not in group {group}")
        groups = [*others, now] if now else others
        body = Person.model_validate({**dict(person), "groups": groups})
        await making.put(PERSONS, {key: body})


async def _page(
    state: ServerState,
    table: Table,
    order: tuple[Column[Any], Column[Any]],
    wanted: dict[Any, str | None],
    query: ListQuery,
) -> tuple[list[Any], str | None]:
    """Rows in order of two columns, and where to go on: both, joined by a slash."""
    found = select(table).order_by(*order).limit(query.limit)
    found = found.where(*(column == value for column, value in wanted.items() if value))
    if query.after is not None:
        first, slash, second = query.after.partition("/")
        if not slash:
            errors = [{"parameter": "after", "in": "query", "detail": "is not a page's `next`"}]
            raise Problem(INVALID, "after: is not a page's `next`", errors=errors)
        found = found.where(tuple_(*order) > tuple_(first, second))
    async with state.engine.connect() as connection:
        rows = list((await connection.execute(found)).all())
    last = rows[-1]._mapping if len(rows) == query.limit else None
    return rows, None if last is None else "/".join(last[column.name] for column in order)
