"""Windows and bindings over HTTP."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import delete, insert

from schemas.command import Command
from schemas.envelope import unverified_payload
from schemas.statement import parse_statement, payload_type
from server.clock import microseconds
from server.distribution.commands import Session
from server.model.bindings import bind
from server.model.bound import Bound
from server.store.model_tables import bindings, cards, persons
from server.store.windows import note_given
from tests.orders_rig import MOMENT
from tests.served_orders import served
from tests.transport_rig import event

CARD, OTHER = "01" * 8, "02" * 8
WINDOWS = "/api/v1/doors/front/windows"
BIND = {"kind": "bind", "person": "mei"}


@pytest.fixture
async def site(tmp_path):
    async with served(tmp_path) as made:
        async with made.site.engine.begin() as connection:
            for name in ("mei", "bo"):
                values = {"id": name, "name": name, "note": "", "cleared": 0, "revision": 1}
                await connection.execute(insert(persons).values(values))
            for number, card in enumerate((CARD, OTHER)):
                values = {
                    "id": card,
                    "person": ("mei", "bo")[number],
                    "state": "active",
                    "note": "",
                    "offline": False,
                    "slot": number,
                    "cleared": 0,
                    "revision": 1,
                }
                await connection.execute(insert(cards).values(values))
        made.orders.sessions["front-agent"] = Session("5e" * 8, 0)
        made.site.state.clock = made.orders.clock
        yield made


@pytest.fixture
async def api(site):
    async with site.site.client() as client:
        yield client


async def opened(site, api, body=BIND, **answer):
    """The window that an order opens, with the command that its door took."""
    asking = asyncio.create_task(api.post(WINDOWS, json=body))
    sent = len(site.orders.broker.messages)
    _, payload, _ = (await site.orders.broker.until(sent + 1))[-1]
    command = parse_statement(
        unverified_payload(payload, payload_type("command"), max_bytes=10_000), Command
    )
    said = {"command": command.id, "action": command.action, "door": command.door}
    said |= {"latency_ms": 1.0, "clock": {"status": "synced"}} | answer
    name = "command.refused" if answer else "command.executed"
    site.orders.commands.result(name, said, "front-agent")
    return await asking, command


async def says(site, *events):
    """The door's events are committed."""
    rows = [SimpleNamespace(source="front-agent", link=SimpleNamespace(event=e)) for e in events]
    async with site.site.engine.begin() as connection:
        await Bound(site.orders.clock).project(connection, rows)
    site.site.hub.committed(site.site.hub.position + 1)


async def test_a_window_is_opened_at_the_door_and_recorded_with_its_command(site, api):
    answer, command = await opened(site, api, BIND | {"seconds": 30})
    assert answer.status_code == 202, answer.text
    assert answer.json() == {"command": command.id, "until": "2026-11-24T08:16:00.123456Z"}
    assert (command.action, command.person, command.direction) == ("binding-window", "mei", "in")
    assert command.until == MOMENT + timedelta(seconds=30)
    stands = (await api.get(f"/api/v1/windows/{command.id}")).json()
    assert stands == {
        "command": command.id,
        "until": "2026-11-24T08:16:00.123456Z",
        "state": "open",
        "kind": "bind",
        "door": "front",
        "direction": "in",
        "domain": "front",
        "agent": "front-agent",
        "person": "mei",
        "card": None,
        "came": None,
        "outcome": None,
        "detail": "",
        "opened": "2026-11-24T08:15:30.123456Z",
        "opened_by": "local",
        "news": 0,
    }


async def test_a_window_to_unbind_is_for_one_card(site, api):
    answer, command = await opened(site, api, {"kind": "unbind", "card": CARD})
    assert answer.status_code == 202, answer.text
    assert (command.action, command.card, command.person) == ("unbinding-window", CARD, None)


NONSENSE: list[tuple[dict[str, Any], int]] = [
    ({}, 422),
    ({"kind": "bind"}, 422),
    ({"kind": "bind", "person": "nobody"}, 404),
    ({"kind": "unbind"}, 422),
    ({"kind": "unbind", "card": "ff" * 8}, 404),
    ({"kind": "unbind", "card": CARD, "person": "mei"}, 422),
    ({"kind": "unbind", "card": "mei"}, 422),
    (BIND | {"seconds": 61}, 422),
    (BIND | {"seconds": 4}, 422),
    (BIND | {"direction": "up"}, 422),
    (BIND | {"direction": "out"}, 422),
    (BIND | {"until": "2026-11-24T08:16:00Z"}, 422),
]


async def test_an_order_that_makes_no_sense_opens_nothing(site, api):
    for body, status in NONSENSE:
        answer = await api.post(WINDOWS, json=body)
        assert answer.status_code == status, (body, answer.text)
    assert site.orders.broker.messages == []


async def test_there_is_no_window_at_a_door_that_is_not_there(api):
    answer = await api.post("/api/v1/doors/attic/windows", json=BIND)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/no-such-object")
    answer = await api.get(f"/api/v1/windows/{'ff' * 8}")
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/no-such-object")


async def test_a_door_that_is_away_opens_no_window(site, api):
    del site.orders.sessions["front-agent"]
    answer = await api.post(WINDOWS, json=BIND)
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/not-connected")


async def test_a_door_that_refuses_is_told_of(site, api):
    answer, _ = await opened(site, api, reason="Busy", detail="a card is there")
    assert (answer.status_code, answer.json()["reason"]) == (409, "Busy")


async def test_waiting_ends_with_what_comes_of_the_window(site, api):
    _, command = await opened(site, api)
    path = f"/api/v1/windows/{command.id}"
    waiting = asyncio.create_task(api.get(path, params={"wait": 20}))
    about = {"command": command.id, "domain": "front"}
    outcome = {"outcome": "unknown_key", "detail": "", "person": "mei"}
    await says(site, event("card.not_bound", card=OTHER, **outcome, **about))
    found = (await waiting).json()
    assert (found["state"], found["outcome"], found["news"]) == ("open", "unknown_key", 1)
    waiting = asyncio.create_task(api.get(path, params={"wait": 20, "seen": 1}))
    async with site.site.engine.begin() as connection:
        await note_given(connection, command.id, CARD)
    await says(site, event("card.bound", card=CARD, **about))
    found = (await waiting).json()
    assert (found["state"], found["came"], found["news"]) == ("bound", CARD, 2)
    listed = (await api.get("/api/v1/bindings")).json()
    assert [each["card"] for each in listed["items"]] == [CARD]


async def test_waiting_for_a_window_that_is_over_ends_at_once(site, api):
    _, command = await opened(site, api)
    site.orders.clock.pass_time(75)
    found = await api.get(f"/api/v1/windows/{command.id}", params={"wait": 20})
    assert found.json()["state"] == "ended"


# Bindings.


@pytest.fixture
async def bound(site):
    async with site.site.engine.begin() as connection:
        for number, (card, domain) in enumerate(
            [(CARD, "front"), (CARD, "back"), (OTHER, "front"), ("ff" * 8, "front")]
        ):
            time = MOMENT + timedelta(seconds=number)
            await bind(connection, card, domain, 1, f"{'00' * 8}-{number}", time)


FOUND: list[tuple[dict[str, str], list[tuple[str, str]]]] = [
    ({}, [(CARD, "back"), (CARD, "front"), (OTHER, "front"), ("ff" * 8, "front")]),
    ({"card": CARD}, [(CARD, "back"), (CARD, "front")]),
    ({"person": "bo"}, [(OTHER, "front")]),
    ({"domain": "back"}, [(CARD, "back")]),
    ({"person": "mei", "domain": "front"}, [(CARD, "front")]),
    ({"card": "ee" * 8}, []),
]


async def test_bindings_are_found_by_card_person_and_domain_a_page_at_a_time(api, bound):
    for query, expected in FOUND:
        for limit in (1, 3, 1000):
            found, after = [], None
            while True:
                page = {"limit": limit} if after is None else {"limit": limit, "after": after}
                answer = await api.get("/api/v1/bindings", params=query | page)
                assert answer.status_code == 200, answer.text
                found += [(each["card"], each["domain"]) for each in answer.json()["items"]]
                if (after := answer.json()["next"]) is None:
                    break
            assert found == expected, query


async def test_a_binding_says_since_when_and_by_which_event(api, bound):
    answer = await api.get(f"/api/v1/cards/{CARD}/bindings/back")
    assert answer.json() == {
        "card": CARD,
        "domain": "back",
        "person": "mei",
        "key_version": 1,
        "other_version": None,
        "event": f"{'00' * 8}-1",
        "time": "2026-11-24T08:15:31.123456Z",
    }
    assert answer.headers["etag"] == f'"{"00" * 8}-1"'


async def test_a_binding_is_taken_away_once_and_told_of(site, api, bound):
    path = f"/api/v1/cards/{CARD}/bindings/front"
    answers = await asyncio.gather(*(api.delete(path) for _ in range(4)))
    assert sorted(each.status_code for each in answers) == [204, 404, 404, 404]
    assert (await api.get(path)).status_code == 404
    (news,) = [n for n in await site.orders.announcements() if n.name == "model.changed"]
    assert (news.subject, news.time_us) == (f"cards/{CARD}", microseconds(MOMENT))
    assert news.data == {
        "by": "local",
        "kind": "binding",
        "id": f"{CARD}/front",
        "action": "deleted",
    }
    assert "model_changed" in site.site.changes


async def test_a_binding_that_has_changed_meanwhile_stays(api, bound):
    path = f"/api/v1/cards/{CARD}/bindings/front"
    answer = await api.delete(path, headers={"If-Match": '"other"'})
    assert (answer.status_code, answer.json()["type"]) == (412, "/problems/changed-meanwhile")
    tag = (await api.get(path)).headers["etag"]
    assert (await api.delete(path, headers={"If-Match": tag})).status_code == 204


@pytest.mark.parametrize("path", [f"cards/{OTHER}/bindings/front", f"cards/{OTHER}"])
async def test_what_an_operator_ended_is_not_brought_back_by_late_news(site, api, bound, path):
    said = event(card=OTHER, domain="front", command=None, transport="desk", at=MOMENT)
    site.orders.clock.pass_time(1)
    assert (await api.delete(f"/api/v1/{path}")).status_code == 204
    async with site.site.engine.begin() as connection:  # as if it had not been heard of before
        await connection.execute(delete(bindings).where(bindings.c.card == OTHER))
    await says(site, said)
    assert (await api.get(f"/api/v1/cards/{OTHER}/bindings/front")).status_code == 404


async def test_a_page_begins_after_what_a_page_gave(api):
    answer = await api.get("/api/v1/bindings", params={"after": "x"})
    assert answer.status_code == 422
