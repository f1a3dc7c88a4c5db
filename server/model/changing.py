"""A change of the model: one transaction, checked, announced, and known to the compiler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel
from sqlalchemy import bindparam, delete, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.server_event_data import ModelChanged
from server.clock import microseconds
from server.model.altered import altered
from server.model.bindings import EVERYWHERE, end
from server.model.bodies import Area, Body, Door, Rule, Site
from server.model.checks import check_doors, check_nesting, check_references, check_unnamed
from server.model.errors import NotThere
from server.model.kinds import AREAS, BY_NAME, CARDS, DOORS, PERSONS, RULES, Kind
from server.model.paths import path
from server.model.revisions import STRUCTURE_ONLY, Altered, next_revision, touch, touch_all
from server.model.stored import fetch, fetch_site, in_chunks
from server.state import ServerState
from server.store.announcements import announce_all
from server.store.model_tables import areas, model_state

Action = Literal["created", "updated", "deleted"]
B = TypeVar("B", bound=Body)
TOLD_ONE_BY_ONE = 1000
"""Of one kind and action in one change; more are told as one event, with their number."""


class Change:
    """A change in the making. All of it happens, or, after an exception, nothing."""

    def __init__(self, connection: AsyncConnection, revision: int, state: ServerState) -> None:
        self.connection, self.revision = connection, revision
        self._suite = state.suite.name
        self._everyone = False
        self._done: dict[tuple[str, Action], list[str]] = {}
        self.replaced: dict[tuple[str, str], tuple[Body, Body]] = {}
        """(name of the kind, id) -> the body before and after, of what was there already."""

    @property
    def done(self) -> Mapping[tuple[str, Action], list[str]]:
        """(name of the kind, action) -> ids, of what really changed."""
        return self._done

    async def put(self, kind: Kind[B], objects: Mapping[str, B]) -> None:
        """Create or replace these. What is as it was is left alone. Raises InvalidModel."""
        if kind.name == AREAS.name:  # which name each other
            await self._put(kind, objects)
            return
        for some in in_chunks(list(objects.items())):
            await self._put(kind, dict(some))
        if kind is DOORS:
            await check_doors(self.connection, objects, self._suite)

    async def _put(self, kind: Kind[B], objects: Mapping[str, B]) -> None:
        before = await fetch(self.connection, kind, objects)
        new = [key for key in objects if key not in before]
        other = [key for key, old in before.items() if not old.is_as(objects[key])]
        if not new and not other:
            return
        changed = {key: objects[key] for key in [*new, *other]}
        await check_references(self.connection, kind, changed)
        if kind is AREAS:
            await check_nesting(self.connection, cast("Mapping[str, Area]", changed))
        pairs = [(key, before[key].body, objects[key]) for key in other]
        structure = [key for key, old, now in pairs if _structure(old) != _structure(now)]
        moved = [key for key, old, now in pairs if _place(old) != _place(now)]
        await self._alters(kind, structure, structure_only=not moved)
        await self._write(kind, changed, new, other)
        if kind is not AREAS:  # one that was not there leads nowhere yet
            structure += new
        await self._alters(kind, structure, structure_only=not moved and not new)
        self._note(kind.name, "created", new)
        self._note(kind.name, "updated", other)
        self.replaced |= {(kind.name, key): (old, now) for key, old, now in pairs}

    async def remove(self, kind: Kind[Any], ids: Collection[str]) -> None:
        """Delete these and what belongs to them. Raises NotThere or StillNamed."""
        if not ids:
            return
        known = await fetch(self.connection, kind, ids)
        for key in ids:
            if key not in known:
                raise NotThere(f"there is no {kind.name} {key}")
        await check_unnamed(self.connection, kind, ids)
        if kind is not AREAS:  # into which no door leads any more
            await self._alters(kind, ids)
        for some in in_chunks(sorted(ids)):
            for table, owner in kind.parts.items():
                await self.connection.execute(delete(table).where(table.c[owner].in_(some)))
            if kind is AREAS:  # which may lie in each other
                await self.connection.execute(
                    update(areas).where(areas.c.id.in_(some)).values(parent=None)
                )
        for some in in_chunks(sorted(ids)):
            await self.connection.execute(delete(kind.table).where(kind.table.c.id.in_(some)))
            if kind is CARDS:
                await end(self.connection, some, EVERYWHERE, self.revision)
        self._note(kind.name, "deleted", sorted(ids))

    async def put_site(self, body: Site) -> None:
        """Replace the site's name and time zone."""
        _, before = await fetch_site(self.connection)
        if before == body:
            return
        await self.connection.execute(
            update(model_state).values(
                name=body.name, timezone=body.timezone, site_revision=self.revision
            )
        )
        if before.timezone != body.timezone:
            await self._all_altered()
        self.replaced["site", "site"] = (before, body)
        self._note("site", "updated", ["site"])

    async def clear(self, kind: Kind[Any], key: str, sequence: int) -> None:
        """Answer all revocations of a person or card up to `sequence` of the log."""
        assert kind is PERSONS or kind is CARDS
        values = {"cleared": sequence, "revision": self.revision}
        moved = await self.connection.execute(
            update(kind.table)
            .where(kind.table.c.id == key, kind.table.c.cleared < sequence)
            .values(**values)
        )
        if moved.rowcount:
            await self._alters(kind, [key])
            self._note(kind.name, "updated", [key])

    async def _write(
        self, kind: Kind[B], objects: Mapping[str, B], new: list[str], other: list[str]
    ) -> None:
        table, extra = kind.table, {"cleared": 0} if "cleared" in kind.table.c else {}
        if kind is AREAS:
            new = self._outermost_first(objects, new)
        rows = {
            key: {"id": key, "revision": self.revision, **kind.row(key, objects[key])}
            for key in [*new, *other]
        }
        if new:
            await self.connection.execute(insert(table), [rows[key] | extra for key in new])
        if other:
            await self.connection.execute(
                update(table)
                .where(table.c.id == bindparam("of_id"))
                .values({name: bindparam(name) for name in rows[other[0]] if name != "id"}),
                [{"of_id": key, **rows[key]} for key in other],
            )
        for part, owner in kind.parts.items():
            for some in in_chunks(other):
                await self.connection.execute(delete(part).where(part.c[owner].in_(some)))
            parts = [
                {owner: key, **row}
                for key in rows
                for row in kind.rows_of_parts(objects[key]).get(part, ())
            ]
            if parts:
                await self.connection.execute(insert(part), parts)

    def _outermost_first(self, objects: Mapping[str, Any], new: list[str]) -> list[str]:
        """So that each row's parent is there when it is inserted."""
        parents = {key: objects[key].parent for key in new}
        return sorted(new, key=lambda key: len(path(key, parents)))

    async def _alters(
        self, kind: Kind[Any], ids: Collection[str], *, structure_only: bool = False
    ) -> None:
        if not ids:
            return
        policies = None if self._everyone else await altered(self.connection, kind, ids)
        if policies is None:
            await self._all_altered()
        elif structure_only and kind in (DOORS, RULES):
            only: Altered = {agent: {STRUCTURE_ONLY} for agent in policies}
            await touch(self.connection, self.revision, only)
        else:
            await touch(self.connection, self.revision, policies)

    async def _all_altered(self) -> None:
        if not self._everyone:
            await touch_all(self.connection, self.revision)
            self._everyone = True

    def _note(self, kind: str, action: Action, ids: list[str]) -> None:
        if ids:
            self._done.setdefault((kind, action), []).extend(ids)


@asynccontextmanager
async def changing(state: ServerState, by: str, *, dry_run: bool = False) -> AsyncIterator[Change]:
    """A change by `by`: committed at the end, unless it was none, failed, or is a rehearsal.

    Raises ModelError, as what is called inside does.
    """
    async with state.engine.connect() as connection, connection.begin() as transaction:
        change = Change(connection, await next_revision(connection), state)
        yield change
        if dry_run or not change.done:
            await transaction.rollback()
            return
        await _announce(change, by, state)
    state.model_changed()
    state.announced()


async def _announce(change: Change, by: str, state: ServerState) -> None:
    news: list[tuple[str, str, BaseModel]] = []
    for (name, action), ids in change.done.items():
        if name == "site" or len(ids) > TOLD_ONE_BY_ONE:
            what = state.site if name == "site" else f"{len(ids)} of them"
            told = [(f"sites/{state.site}", what)]
        else:
            told = [(f"{BY_NAME[name].plural}/{key}", key) for key in ids]
        for subject, key in told:
            data = ModelChanged(by=by, kind=name, id=key, action=action)
            news.append(("model.changed", subject, data))
    await announce_all(change.connection, news, microseconds(state.clock.now()))


def _structure(body: Body) -> Body:
    """The body without what doors never learn."""
    return body.model_copy(
        update={name: "" for name in ("name", "note") if name in type(body).model_fields}
    )


def _place(body: Body) -> object:
    """What decides which cards matter to which agent, as far as the body says it."""
    if isinstance(body, Door):
        return body.agent, body.area, body.settings.domain
    if isinstance(body, Rule):
        return body.group, body.doors, body.areas
    return body
