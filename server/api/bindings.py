"""Bindings: which card holds keys of which domain."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import Row, Select, select, tuple_
from starlette.responses import Response

from schemas.names import CardId, Name
from schemas.server_event_data import ModelChanged
from server.api.events import json_response
from server.api.model_routes import REFUSALS, IfMatch
from server.api.models import NoQuery
from server.api.permission import Principal, needs
from server.api.problems import CHANGED_MEANWHILE, INVALID, NO_SUCH_OBJECT, Problem, documented
from server.clock import microseconds
from server.feed.cloudevents import timestamp
from server.model.bindings import unbind
from server.model.revisions import next_revision
from server.state import ServerState
from server.store.announcements import announce
from server.store.model_tables import bindings, cards

MOST = 1000


class Binding(BaseModel):
    """A card has keys of a domain, as the door that wrote them has signed."""

    card: str
    domain: str
    person: str | None = Field(description="whose card it is; null: the model knows no such card")
    key_version: int
    other_version: int | None = Field(description="another version that is on the card too")
    event: str = Field(description="the event that said so last; also the `ETag`")
    time: AwareDatetime = Field(description="of that event")


class BindingPage(BaseModel):
    """Some bindings, and where to go on."""

    items: list[Binding] = Field(description="by card and domain")
    next: str | None = Field(description="go on after this; null: this was the last page")


class BindingQuery(BaseModel):
    """Which bindings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: Annotated[str | None, Field(description="`next` of the page before", max_length=80)] = (
        None
    )
    limit: Annotated[int, Field(ge=1, le=MOST)] = 100
    card: Annotated[CardId | None, Field(description="only of this card")] = None
    person: Annotated[Name | None, Field(description="only of this person's cards")] = None
    domain: Annotated[Name | None, Field(description="only of this key domain")] = None


_CARD = Path(examples=["0102030405060708"])
_DOMAIN = Path(examples=["front"])


def router(state: ServerState) -> APIRouter:
    """The routes of bindings."""
    routes = APIRouter(prefix="/api/v1", tags=["cards"])

    @routes.get(
        "/bindings",
        summary="List bindings",
        response_model=BindingPage,
        responses=documented(*REFUSALS),
        dependencies=[Depends(needs("read"))],
    )
    async def read_list(query: Annotated[BindingQuery, Query()]) -> Response:
        """A page of them. Go on with `after` = `next` until that is null."""
        wanted = _bindings().order_by(bindings.c.card, bindings.c.domain).limit(query.limit)
        if query.after is not None:
            card, mark, domain = query.after.partition("/")
            if not mark:
                raise Problem(INVALID, "`after` is not what a page gave as `next`", errors=[])
            key = tuple_(bindings.c.card, bindings.c.domain)
            wanted = wanted.where(key > tuple_(card, domain))
        for column, value in (
            (bindings.c.card, query.card),
            (cards.c.person, query.person),
            (bindings.c.domain, query.domain),
        ):
            if value is not None:
                wanted = wanted.where(column == value)
        async with state.engine.connect() as connection:
            found = (await connection.execute(wanted)).all()
        last = found[-1] if len(found) == query.limit else None
        more = None if last is None else f"{last.card}/{last.domain}"
        return json_response({"items": [_shown(row) for row in found], "next": more})

    @routes.get(
        "/cards/{card}/bindings/{domain}",
        summary="Read one binding",
        response_model=Binding,
        responses=documented(*REFUSALS, NO_SUCH_OBJECT),
        dependencies=[Depends(needs("read"))],
    )
    async def read_one(
        card: Annotated[CardId, _CARD],
        domain: Annotated[Name, _DOMAIN],
        _query: Annotated[NoQuery, Query()],
    ) -> Response:
        """The binding and, as `ETag`, the event it is from."""
        async with state.engine.connect() as connection:
            found = (await connection.execute(_one(card, domain))).one_or_none()
        if found is None:
            raise _not_bound(card, domain)
        response = json_response(_shown(found))
        response.headers["ETag"] = f'"{found.event}"'
        return response

    @routes.delete(
        "/cards/{card}/bindings/{domain}",
        summary="Unbind a card that is not at hand",
        status_code=204,
        response_class=Response,
        responses=documented(*REFUSALS, NO_SUCH_OBJECT, CHANGED_MEANWHILE),
    )
    async def delete_one(
        card: Annotated[CardId, _CARD],
        domain: Annotated[Name, _DOMAIN],
        by: Annotated[Principal, Depends(needs("manage"))],
        _query: Annotated[NoQuery, Query()],
        if_match: IfMatch = None,
    ) -> Response:
        """No door of the domain lets it in any more. Its keys stay on it: `revoke` a card that is
        lost or stolen, and use a window to erase one that is at hand.
        """
        now = state.clock.now()
        async with state.engine.begin() as connection:
            revision = await next_revision(connection)  # what is seen below stays so
            found = (await connection.execute(_one(card, domain))).one_or_none()
            if found is None:
                raise _not_bound(card, domain)
            tags = [tag.strip() for tag in (if_match or "*").split(",")]
            if "*" not in tags and f'"{found.event}"' not in tags:
                detail = f'the binding has the ETag "{found.event}" now'
                raise Problem(CHANGED_MEANWHILE, detail)
            changed = await unbind(connection, card, domain, revision)
            said = ModelChanged(by=by.name, kind="binding", id=f"{card}/{domain}", action="deleted")
            await announce(connection, "model.changed", f"cards/{card}", said, microseconds(now))
        state.announced()
        if changed:
            state.model_changed()
        return Response(status_code=204)

    return routes


def _bindings() -> Select[Any]:
    return select(bindings, cards.c.person).outerjoin(cards, cards.c.id == bindings.c.card)


def _one(card: str, domain: str) -> Select[Any]:
    return _bindings().where(bindings.c.card == card, bindings.c.domain == domain)


def _not_bound(card: str, domain: str) -> Problem:
    return Problem(NO_SUCH_OBJECT, f"card {card} is not bound in {domain}")


def _shown(row: Row[Any]) -> dict[str, Any]:
    return {
        "card": row.card,
        "domain": row.domain,
        "person": row.person,
        "key_version": row.key_version,
        "other_version": row.other_version,
        "event": row.event,
        "time": timestamp(row.time_us),
    }
