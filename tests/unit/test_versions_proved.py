"""A card that was taken away at the last moment of a re-keying: its next tap tells the server."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import select

from schemas.chain import Head, compose_line
from schemas.events import EventLine, event_type
from server.clock import SystemClock
from server.distribution.lock_keys import LockKeys
from server.model.bindings import bind
from server.model.document import SiteDocument, apply
from server.store.model_tables import bindings
from tests.sample_site import MOMENT, SUITE, open_site

CARD = "0102030405060708"
SITE = {
    "doors": {
        "lab": {"agent": "a-lab", "settings": {"domain": "labs"}},
        "gate": {"agent": "a-gate", "settings": {"domain": "gate"}},
    },
    "persons": {"mei": {}},
    "cards": {CARD: {"person": "mei"}},
}


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path / "ostiary.db") as site:
        whole = SiteDocument.model_validate(SITE)
        await apply(site.state, "test", whole, prune=False, dry_run=False)
        async with site.engine.begin() as connection:
            await bind(connection, CARD, "labs", 1, "0123456789abcdef-1", MOMENT)
        yield site


def granted(version, *, minutes=1):
    data = {"door": "lab", "card": CARD, "domain": "labs", "key_version": version}
    line, _ = compose_line(
        Head("0123456789abcdef"),
        SUITE.digest,
        source="/sites/demo/agents/a-lab",
        type=event_type("access.granted"),
        subject="doors/lab",
        time=MOMENT + timedelta(minutes=minutes),
        data=data | {"clock": {"status": "synced"}},
    )
    return EventLine.model_validate_json(line)


async def known_after(site, *events, watched=frozenset({1, 2}), agent="a-lab"):
    projection = LockKeys(SystemClock())
    projection.watched = {"labs": watched} if watched else {}
    rows = [SimpleNamespace(source=agent, link=SimpleNamespace(event=event)) for event in events]
    async with site.engine.begin() as connection:
        await projection.project(connection, rows)
        query = select(bindings.c.key_version, bindings.c.other_version)
        return tuple((await connection.execute(query)).one())


async def test_a_version_that_a_door_proved_is_on_the_card_beside_the_other(site):
    assert await known_after(site, granted(1)) == (1, None)
    assert await known_after(site, granted(2)) == (2, 1)
    assert await known_after(site, granted(1, minutes=2)) == (2, 1)


async def test_out_of_a_rotation_and_of_its_versions_nothing_is_looked_at(site):
    assert await known_after(site, granted(2), watched=None) == (1, None)
    assert await known_after(site, granted(3)) == (1, None)


@pytest.mark.parametrize("version", [None, "2", 2.5, [2], {}])
async def test_what_makes_no_sense_is_passed_over(site, version):
    assert await known_after(site, granted(version)) == (1, None)


async def test_older_news_than_the_binding_changes_nothing(site):
    assert await known_after(site, granted(2, minutes=-1)) == (1, None)


async def test_only_who_serves_the_domain_is_believed(site):
    assert await known_after(site, granted(2), agent="a-gate") == (1, None)
