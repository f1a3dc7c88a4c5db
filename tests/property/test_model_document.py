"""A site as a document: what goes in comes out, whatever was there before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from server.cli.site_yaml import read_yaml, write_yaml
from server.model.document import Outcome, SiteDocument, apply, export
from server.model.kinds import KINDS
from tests.model_cast import documents
from tests.sample_site import Site, open_site

AT_LEISURE = settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Model:
    """One store for all examples of a test: each begins with what the one before left."""

    def __init__(self, run: Callable[[Any], Any], site: Site) -> None:
        self._run, self._site = run, site

    def apply(self, document: dict[str, Any], *, dry_run: bool = False) -> Outcome:
        whole = SiteDocument.model_validate(document)
        found: Outcome = self._run(
            apply(self._site.state, "test", whole, prune=True, dry_run=dry_run)
        )
        return found

    def export(self) -> dict[str, Any]:
        async def read() -> SiteDocument:
            async with self._site.engine.connect() as connection:
                return await export(connection)

        document: SiteDocument = self._run(read())
        return document.model_dump(mode="json", exclude_defaults=True)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    with asyncio.Runner() as runner:
        opening = open_site(tmp_path / "ostiary.db")
        site = runner.run(opening.__aenter__())
        yield Model(runner.run, site)
        runner.run(opening.__aexit__(None, None, None))


@AT_LEISURE
@given(document=documents())
def test_applying_what_was_exported_changes_nothing(model, document):
    model.apply(document)
    exported = model.export()
    again = model.apply(exported)
    assert not again.applied
    assert again.steps == again.unlisted == ()
    assert model.export() == exported


@AT_LEISURE
@given(document=documents())
def test_the_site_is_what_the_document_says_whatever_it_was(model, document):
    model.apply(document)
    wanted = SiteDocument.model_validate(document).model_dump(mode="json", exclude_defaults=True)
    exported = model.export()
    for kind in KINDS:
        assert exported.get(kind.plural, {}) == wanted.get(kind.plural, {})
    assert exported["site"] == wanted["site"]


@AT_LEISURE
@given(document=documents())
def test_a_rehearsal_tells_exactly_what_will_be_done_and_does_nothing(model, document):
    before = model.export()
    rehearsed = model.apply(document, dry_run=True)
    assert not rehearsed.applied
    assert model.export() == before
    assert model.apply(document).steps == rehearsed.steps


@AT_LEISURE
@given(document=documents())
def test_yaml_carries_a_document_unchanged(document):
    whole = SiteDocument.model_validate(document)
    text = write_yaml(whole.model_dump(mode="json", exclude_defaults=True))
    assert SiteDocument.model_validate(read_yaml(text.encode())) == whole
