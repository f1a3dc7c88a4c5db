"""A whole site as one document: read out, compared with what is, and applied as one change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.names import CardId, Name
from server.model.bodies import (
    Area,
    Body,
    Calendar,
    Card,
    Door,
    Group,
    Person,
    Rule,
    Schedule,
    Site,
)
from server.model.changing import Action, Change, changing
from server.model.errors import ChangedMeanwhile
from server.model.kinds import KINDS, Kind
from server.model.stored import Stored, fetch, fetch_ids, fetch_site
from server.state import ServerState


class SiteDocument(BaseModel):
    """All objects of a site, by kind and id. A section that is left out stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: Site | None = None
    calendars: dict[Name, Calendar] | None = None
    schedules: dict[Name, Schedule] | None = None
    areas: dict[Name, Area] | None = None
    doors: dict[Name, Door] | None = None
    groups: dict[Name, Group] | None = None
    persons: dict[Name, Person] | None = None
    cards: dict[CardId, Card] | None = None
    rules: dict[Name, Rule] | None = None

    def section(self, kind: Kind[Any]) -> Mapping[str, Body] | None:
        """The objects of a kind, or None if the document says nothing of it."""
        found: Mapping[str, Body] | None = getattr(self, kind.plural)
        return found


@dataclass(frozen=True)
class Difference:
    """One field that is not as it was; the path leads into the object."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Step:
    """One object that a document makes, changes or removes."""

    kind: str
    id: str
    action: Action
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What applying a document changes. `unlisted`: (kind, id) left alone for want of `prune`."""

    applied: bool
    revision: int
    steps: tuple[Step, ...]
    unlisted: tuple[tuple[str, str], ...]


async def export(connection: AsyncConnection) -> SiteDocument:
    """The site as it is. Applying it changes nothing."""
    sections: dict[str, Any] = {"site": (await fetch_site(connection))[1]}
    for kind in KINDS:
        stored = await fetch(connection, kind)
        # in another thread: the doors' events must not wait for 100,000 persons
        sections[kind.plural] = await asyncio.to_thread(_bodies, stored)
    return SiteDocument.model_construct(**sections)


def _bodies(stored: Mapping[str, Stored[Any]]) -> dict[str, Body]:
    return {key: each.body for key, each in stored.items()}


async def apply(
    state: ServerState,
    by: str,
    document: SiteDocument,
    *,
    prune: bool,
    dry_run: bool,
    expected: int | None = None,
) -> Outcome:
    """Make the site what the document says, in one change; with `dry_run` only say what it takes.

    `prune` deletes what a section does not list. `expected` is the revision of the model that the
    caller has seen. Raises ModelError; then nothing was changed.
    """
    unlisted: list[tuple[str, str]] = []
    async with changing(state, by, dry_run=dry_run) as change:
        if expected is not None and change.revision != expected + 1:
            raise ChangedMeanwhile(
                f"the model is at revision {change.revision - 1}, not {expected} any more"
            )
        if document.site is not None:
            await change.put_site(document.site)
        before = {kind: await fetch_ids(change.connection, kind) for kind in KINDS}
        for kind in KINDS:
            await change.put(kind, document.section(kind) or {})
        for kind in reversed(KINDS):  # what names others goes before them
            section = document.section(kind)
            extra = [] if section is None else [key for key in before[kind] if key not in section]
            if prune:
                await change.remove(kind, extra)
            else:
                unlisted += [(kind.name, key) for key in extra]
        steps = await asyncio.to_thread(_steps, change)
        changed = bool(change.done)
    applied = changed and not dry_run
    revision = change.revision if applied else change.revision - 1
    return Outcome(applied, revision, tuple(steps), tuple(unlisted))


def _steps(change: Change) -> list[Step]:
    return [
        Step(
            kind,
            key,
            action,
            _differences(*change.replaced[kind, key]) if action == "updated" else (),
        )
        for (kind, action), ids in change.done.items()
        for key in ids
    ]


def _differences(before: Body, after: Body) -> tuple[Difference, ...]:
    old, new = (_flat(body.model_dump(mode="json")) for body in (before, after))
    return tuple(
        Difference(path, old.get(path), new.get(path))
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path)
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            found |= _flat(inner, f"{prefix}{name}.")
        else:
            found[prefix + name] = inner
    return found
