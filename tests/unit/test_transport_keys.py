"""Transport keys at the authority: which one a card has, and what becomes of them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from sqlalchemy import event as sqla_event
from sqlalchemy import select, update

from schemas.suites import suite
from schemas.transport import TransportSource
from server.keys.home import KeysError
from server.keys.transport import Found, Imported
from server.store.transport import keep_key
from server.store.transport_tables import transport_keys
from tests.transport_rig import CARD, OTHER, transport_desk

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
LIST, DERIVED, DEFAULT = TransportSource.LIST, TransportSource.DERIVED, TransportSource.DEFAULT


@pytest.fixture
async def desk(tmp_path):
    async with transport_desk(tmp_path / "site") as opened:
        yield opened


async def give(desk, card=CARD, *, keep=False):
    async with desk.engine.begin() as connection:
        found = await desk.transport.give(connection, card)
        if keep:
            await keep_key(connection, card)
    return found


async def test_without_any_there_is_none(desk):
    assert await give(desk) is None
    standing = await desk.transport.standing()
    assert (standing.listed, standing.kept, standing.master, standing.default) == (
        0,
        0,
        None,
        False,
    )


@pytest.mark.parametrize("name", ["gm", "intl"])
async def test_a_list_goes_before_a_master_key_and_that_before_a_default(desk, name):
    await desk.transport.take_root(DEFAULT, C, "test", suite="intl")
    assert await give(desk) == Found(C, DEFAULT)
    await desk.transport.take_root(DERIVED, B, "test", suite=name)
    derived = suite(name).diversify(B, bytes.fromhex(CARD))
    assert await give(desk) == Found(derived, DERIVED)
    await desk.transport.take_list({CARD: A}, "test")
    assert await give(desk) == Found(A, LIST)
    assert (await give(desk, OTHER)).source is DERIVED


async def test_every_change_is_an_event_without_a_key(desk):
    await desk.transport.take_list({CARD: A, OTHER: B}, "test")
    await desk.transport.take_root(DERIVED, B, "test", suite="gm")
    await desk.transport.forget(LIST, "test")
    await desk.transport.forget(DERIVED, "test")
    assert await desk.told("keys.transport_changed") == [
        {"by": "test", "source": "list", "cards": 2, "action": "added"},
        {"by": "test", "source": "derived", "cards": 0, "action": "added"},
        {"by": "test", "source": "list", "cards": 2, "action": "removed"},
        {"by": "test", "source": "derived", "cards": 0, "action": "removed"},
    ]
    assert await give(desk) is None


async def test_a_list_again_is_no_change(desk):
    assert await desk.transport.take_list({CARD: A}, "test") == Imported(1, 0, 0)
    assert await desk.transport.take_list({CARD: A}, "test") == Imported(0, 0, 1)
    assert len(await desk.told("keys.transport_changed")) == 1


async def test_another_key_of_a_card_is_refused_whole_unless_it_is_meant(desk):
    await desk.transport.take_list({CARD: A}, "test")
    with pytest.raises(KeysError, match=f"another transport key is known of {CARD}\\."):
        await desk.transport.take_list({OTHER: B, CARD: B}, "test")
    assert await give(desk, OTHER) is None
    assert await give(desk) == Found(A, LIST)
    done = await desk.transport.take_list({OTHER: B, CARD: B}, "test", replace=True)
    assert done == Imported(1, 1, 0)
    assert await give(desk) == Found(B, LIST)


async def test_another_master_key_is_refused_unless_it_is_meant(desk):
    await desk.transport.take_root(DERIVED, A, "test", suite="gm")
    await desk.transport.take_root(DERIVED, A, "test", suite="gm")
    for key, name in ((B, "gm"), (A, "intl")):
        with pytest.raises(KeysError, match="--replace"):
            await desk.transport.take_root(DERIVED, key, "test", suite=name)
    assert (await desk.transport.standing()).master == "gm"
    await desk.transport.take_root(DERIVED, B, "test", suite="intl", replace=True)
    assert (await desk.transport.standing()).master == "intl"
    assert len(await desk.told("keys.transport_changed")) == 2


@pytest.mark.parametrize("key", [b"", b"x" * 15, b"x" * 17])
async def test_a_master_key_of_another_length_is_refused_and_not_shown(desk, key):
    with pytest.raises(KeysError) as refusal:
        await desk.transport.take_root(DERIVED, key, "test", suite="gm")
    assert "xxx" not in str(refusal.value)


async def test_a_key_that_a_card_was_bound_with_outlives_where_it_is_from(desk):
    await desk.transport.take_list({CARD: A, "ee" * 8: A}, "test")
    await desk.transport.take_root(DERIVED, B, "test", suite="intl")
    await give(desk, CARD, keep=True)
    derived = await give(desk, OTHER, keep=True)
    assert await desk.transport.forget(LIST, "test") == 1
    await desk.transport.forget(DERIVED, "test")
    assert await give(desk) == Found(A, LIST)
    assert await give(desk, OTHER) == derived
    assert await give(desk, "ee" * 8) is None
    assert (await desk.transport.standing()).kept == 2


async def test_a_derived_key_that_came_to_nothing_gives_way_to_a_list(desk):
    await desk.transport.take_root(DEFAULT, C, "test", suite="intl")
    await give(desk)
    assert await desk.transport.take_list({CARD: A}, "test") == Imported(1, 0, 0)
    assert await give(desk) == Found(A, LIST)


async def test_a_derived_key_that_a_card_has_shown_does_not(desk):
    await desk.transport.take_root(DEFAULT, C, "test", suite="intl")
    await give(desk, keep=True)
    with pytest.raises(KeysError, match="another transport key"):
        await desk.transport.take_list({CARD: A}, "test")
    assert await desk.transport.take_list({CARD: C}, "test") == Imported(1, 0, 0)
    await desk.transport.forget(DEFAULT, "test")
    assert await give(desk) == Found(C, LIST)


async def test_what_is_not_there_can_not_be_forgotten(desk):
    for source in (LIST, DERIVED, DEFAULT):
        with pytest.raises(KeysError, match="could be forgotten"):
            await desk.transport.forget(source, "test")


async def test_a_sealed_key_does_for_its_own_card_alone(desk):
    await desk.transport.take_list({CARD: A, OTHER: B}, "test")
    async with desk.engine.begin() as connection:
        query = select(transport_keys.c.sealed).where(transport_keys.c.card == OTHER)
        sealed = await connection.scalar(query)
        ours = transport_keys.c.card == CARD
        await connection.execute(update(transport_keys).where(ours).values(sealed=sealed))
    with pytest.raises(KeysError, match="key-encryption key"):
        await give(desk)


async def test_two_imports_at_once_leave_one_whole_list(desk):
    ours, theirs = dict.fromkeys([CARD, OTHER], A), dict.fromkeys([CARD, OTHER], B)
    done = await asyncio.gather(
        desk.transport.take_list(ours, "test"),
        desk.transport.take_list(theirs, "test"),
        return_exceptions=True,
    )
    assert sum(isinstance(each, KeysError) for each in done) == 1
    found = {(await give(desk, card)).key for card in ours}
    assert found in ({A}, {B})


@pytest.mark.parametrize("moment", ["commit", "rollback"])
async def test_a_process_that_ends_in_an_import_leaves_the_old_list_or_the_new(desk, moment):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    await desk.transport.take_list({CARD: A}, "test")
    if moment == "commit":
        sqla_event.listen(desk.engine.sync_engine, "commit", kill)
    else:
        sqla_event.listen(desk.engine.sync_engine, "before_cursor_execute", _at_update(kill))
    with suppress(Killed):
        await desk.transport.take_list({CARD: B, OTHER: B}, "test", replace=True)
    await desk.engine.dispose()
    async with transport_desk(desk.keys_desk.site.path) as again:
        keys = [await give(again, CARD), await give(again, OTHER)]
        assert keys == [Found(A, LIST), None]
        assert len(await again.told("keys.transport_changed")) == 1


def _at_update(kill):
    def look(_connection, _cursor, statement, *_):
        if statement.startswith("UPDATE transport_keys"):
            kill()

    return look
