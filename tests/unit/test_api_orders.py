"""Revoking, locking down and commanding over HTTP."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from schemas.versions import LogHead
from server.distribution.commands import Session
from server.distribution.heartbeats import Facts
from server.model.bindings import bind
from server.store.keys import add_domain
from server.store.rotations import Versions, put_versions
from tests.orders_rig import MOMENT
from tests.served_orders import api, site_fixture

__all__ = ["api", "site_fixture"]

CARD = "01" * 8


def order(subject=CARD, kind="card", reason="lost"):
    return {"kind": kind, "subject": subject, "reason": reason}


async def revoke(api, *orders):
    answer = await api.post("/api/v1/revocations", json={"revocations": list(orders)})
    assert answer.status_code == 201, answer.text
    return answer.json()["items"]


async def test_a_revocation_answers_with_its_entry_and_whether_the_model_knows_whom(site, api):
    (entry,) = await revoke(api, order())
    assert entry == {
        "sequence": 1,
        "kind": "card",
        "subject": CARD,
        "reason": "lost",
        "time": "2026-11-24T08:15:30.123456Z",
        "new": True,
        "known": False,
    }
    (again,) = await revoke(api, order())
    assert (again["sequence"], again["new"]) == (1, False)
    (news,) = await site.orders.announcements()
    assert news.data["by"] == "local"


async def test_many_are_revoked_together(api):
    entries = await revoke(api, order(), order("mei", "person"), order("front/2", "key-version"))
    assert [entry["sequence"] for entry in entries] == [1, 2, 3]
    assert [entry["known"] for entry in entries] == [False, False, False]


async def test_a_key_version_is_known_if_doors_ask_for_it_or_it_was_made(site, api):
    async with site.orders.engine.begin() as connection:
        await put_versions(connection, "back", Versions(preferred=3, accepted=(2,)))
        await add_domain(connection, "zone-a", "intl", 0)
    named = ["front/1", "front/2", "back/3", "back/4", "zone-a/1", "nowhere/1"]
    entries = await revoke(api, *(order(each, "key-version") for each in named))
    assert [e["subject"] for e in entries if e["known"]] == ["front/1", "back/3"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"revocations": []},
        {"revocations": [order("mei")]},
        {"revocations": [order(reason="tired")]},
        {"revocations": [order() | {"more": 1}]},
        {"revocations": [order()] * 1001},
    ],
)
async def test_an_order_that_makes_no_sense_revokes_nothing(site, api, body):
    answer = await api.post("/api/v1/revocations", json=body)
    assert answer.status_code == 422
    assert site.orders.revocations.head == LogHead()


async def test_the_log_is_read_a_page_at_a_time(site, api):
    await revoke(api, *(order(f"{n:016x}") for n in range(5)), order("mei", "person"))
    first = (await api.get("/api/v1/revocations", params={"limit": 4})).json()
    assert [entry["sequence"] for entry in first["items"]] == [1, 2, 3, 4]
    rest = (await api.get("/api/v1/revocations", params={"after": first["next"]})).json()
    assert [entry["sequence"] for entry in rest["items"]] == [5, 6]
    assert rest["next"] is None
    assert rest["head"] == site.orders.revocations.head.model_dump()
    found = await api.get("/api/v1/revocations", params={"kind": "person", "subject": "mei"})
    assert [entry["subject"] for entry in found.json()["items"]] == ["mei"]


async def progress(api, sequence=1, **query):
    answer = await api.get(f"/api/v1/revocations/{sequence}/progress", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_progress_counts_receipts_alone(site, api):
    await revoke(api, order())
    before = await progress(api)
    assert (before["confirmed"], before["waiting"], before["unreachable"]) == (0, 2, 0)
    await site.confirm("front-agent", 1)
    after = await progress(api)
    assert (after["confirmed"], after["waiting"]) == (1, 1)
    front = next(a for a in after["agents"] if a["agent"] == "front-agent")
    assert front == {
        "agent": "front-agent",
        "doors": ["front"],
        "state": "online",
        "confirmed": True,
        "applied": 1,
        "receipt": "2026-11-24T08:15:30.123456Z",
        "admits_until": None,
    }


async def test_a_receipt_for_an_earlier_entry_confirms_no_later_one(site, api):
    await revoke(api, order(), order("02" * 8))
    await site.confirm("front-agent", 1)
    assert (await progress(api, 1))["confirmed"] == 1
    assert (await progress(api, 2))["confirmed"] == 0


async def test_an_agent_that_is_away_is_a_risk_until_its_doors_grace_is_over(site, api):
    site.orders.facts["back-agent"] = Facts(1, None, LogHead(), 0)
    site.orders.heartbeats.beat("back-agent")
    await site.orders.broker.until(1)
    site.heard.states["back-agent"] = "offline"
    await revoke(api, order())
    found = await progress(api)
    assert (found["waiting"], found["unreachable"]) == (1, 1)
    back = next(a for a in found["agents"] if a["agent"] == "back-agent")
    assert back["admits_until"] == "2026-11-24T08:30:30.123456Z"  # 15 minutes


async def risk(api):
    answer = await api.get("/api/v1/revocations/risk")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_risk_that_remains_names_doors_cards_and_the_end(site, api):
    site.site.state.clock = site.orders.clock
    document = {
        "schedules": {"always": {"windows": []}},
        "groups": {"staff": {}},
        "persons": {"mei": {"groups": ["staff"]}, "ben": {}},
        "cards": {CARD: {"person": "mei"}, "02" * 8: {"person": "ben"}},
        "rules": {"staff": {"group": "staff", "doors": ["back", "front"], "schedule": "always"}},
    }
    assert (await api.post("/api/v1/site-document", json=document)).status_code == 200
    async with site.orders.engine.begin() as connection:
        for card in (CARD, "02" * 8):
            for domain in ("back", "front"):
                await bind(connection, card, domain, 1, "0" * 16 + "-1", MOMENT)
    for agent in ("front-agent", "back-agent"):
        site.orders.facts[agent] = Facts(1, None, LogHead(), 0)
        site.orders.heartbeats.beat(agent)
    await site.orders.broker.until(2)
    site.heard.states["back-agent"] = "offline"
    assert (await risk(api))["items"] == []
    await revoke(api, order(), order("ben", "person"), order("ff" * 8))
    await site.confirm("front-agent", 2)
    found = await risk(api)
    # ben has no rule, and nobody has the third card: revoking them took nothing away
    assert found == {
        "items": [
            {
                "agent": "back-agent",
                "door": "back",
                "card": CARD,
                "sequence": 1,
                "until": "2026-11-24T08:30:30.123456Z",
            }
        ],
        "doors": 1,
        "cards": 1,
        "until": "2026-11-24T08:30:30.123456Z",
    }
    await site.confirm("back-agent", 3)
    assert (await risk(api))["items"] == []


async def test_an_agent_that_is_there_and_does_not_confirm_is_a_risk_with_an_end_too(site, api):
    site.site.state.clock = site.orders.clock
    document = {
        "schedules": {"always": {"windows": []}},
        "groups": {"staff": {}},
        "persons": {"mei": {"groups": ["staff"]}},
        "cards": {CARD: {"person": "mei"}},
        "rules": {"staff": {"group": "staff", "doors": ["back"], "schedule": "always"}},
    }
    assert (await api.post("/api/v1/site-document", json=document)).status_code == 200
    async with site.orders.engine.begin() as connection:
        await bind(connection, CARD, "back", 1, "0" * 16 + "-1", MOMENT)
    site.orders.facts["back-agent"] = Facts(1, None, LogHead(), 0)
    site.orders.heartbeats.beat("back-agent")
    await site.orders.broker.until(1)
    await revoke(api, order("mei", "person"))
    site.orders.clock.pass_time(60)
    named = site.orders.revocations.head
    site.orders.facts["back-agent"] = Facts(1, None, named, 0)
    site.orders.heartbeats.beat("back-agent")  # it names what the door lacks: no fresher by that
    await site.orders.broker.until(3)  # the entry, and two heartbeats
    found = await risk(api)
    end = "2026-11-24T08:30:30.123456Z"
    assert [(each["door"], each["until"]) for each in found["items"]] == [("back", end)]
    assert found["until"] == end
    back = next(a for a in (await progress(api))["agents"] if a["agent"] == "back-agent")
    assert (back["state"], back["admits_until"]) == ("online", end)


async def test_waiting_for_progress_ends_with_the_next_receipt(site, api):
    await revoke(api, order())
    waiting = asyncio.create_task(progress(api, wait=20, confirmed=0))
    async with asyncio.timeout(20):
        while not site.site.hub._news._waiters:  # noqa: ASYNC110 the request comes to its wait
            await asyncio.sleep(0)
    await site.confirm("back-agent", 1)
    assert (await waiting)["confirmed"] == 1
    await site.confirm("front-agent", 1)
    assert (await progress(api, wait=20, confirmed=2))["waiting"] == 0


async def test_there_is_no_progress_of_what_is_not_there(api):
    answer = await api.get("/api/v1/revocations/1/progress")
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/no-such-object")


async def test_a_lockdown_is_started_listed_and_ended(site, api):
    body = {"scope": "area", "name": "lab", "exempt": ["guards"]}
    began = await api.post("/api/v1/lockdowns", json=body)
    assert began.status_code == 201, began.text
    began = began.json()
    assert (began["scope"], began["name"], began["exempt"]) == ("area", "lab", ["guards"])
    assert (began["started_by"], began["ended"]) == ("local", None)
    assert (await api.get("/api/v1/lockdowns")).json()["items"] == [began]
    ended = (await api.delete(f"/api/v1/lockdowns/{began['id']}")).json()
    assert ended["ended_by"] == "local"
    assert (await api.get("/api/v1/lockdowns")).json()["items"] == []
    assert (await api.get("/api/v1/lockdowns", params={"ended": True})).json()["items"] == [ended]
    assert (await api.delete(f"/api/v1/lockdowns/{began['id']}")).status_code == 404
    assert site.orders.lockdowns.counter == 2


async def test_a_site_wide_lockdown_needs_no_name_and_all_can_be_ended_at_once(site, api):
    assert (await api.post("/api/v1/lockdowns", json={"scope": "site"})).json()["name"] == "demo"
    await api.post("/api/v1/lockdowns", json={"scope": "door", "name": "front"})
    ended = (await api.delete("/api/v1/lockdowns")).json()
    assert {each["scope"] for each in ended["items"]} == {"site", "door"}
    assert site.orders.lockdowns.active == ()


@pytest.mark.parametrize(
    "body",
    [
        {"scope": "area"},
        {"scope": "area", "name": "attic"},
        {"scope": "door", "name": "attic"},
        {"scope": "site", "name": "other"},
        {"scope": "site", "exempt": ["nobody"]},
        {"scope": "town"},
    ],
)
async def test_a_lockdown_of_what_is_not_there_is_refused(site, api, body):
    assert (await api.post("/api/v1/lockdowns", json=body)).status_code == 422
    assert site.orders.lockdowns.active == ()


async def test_a_lockdown_id_is_used_once(api):
    body = {"scope": "site", "id": "fire"}
    assert (await api.post("/api/v1/lockdowns", json=body)).status_code == 201
    again = await api.post("/api/v1/lockdowns", json=body)
    assert (again.status_code, again.json()["type"]) == (409, "/problems/refused")


async def answered(site, name, **data):
    """The door answers the next command."""
    topic, _, _ = (await site.orders.broker.until(1))[-1]
    (command,) = site.orders.commands._waiting
    said = {"command": command, "action": "pulse", "door": "front", "clock": {"status": "synced"}}
    site.orders.commands.result(name, said | data, topic.split("/")[3])


async def test_a_command_answers_when_the_door_has_done_it(site, api):
    site.orders.sessions["front-agent"] = Session("5e" * 8, 0)
    asking = asyncio.create_task(api.post("/api/v1/doors/front/commands", json={"action": "pulse"}))
    await answered(site, "command.executed", latency_ms=31.5)
    answer = await asking
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "state": "executed",
        "command": answer.json()["command"],
        "agent": "front-agent",
        "detail": "agent front-agent has done it",
        "operator_to_strike_ms": 31.5,
    }


async def test_what_a_door_refuses_is_told_with_its_reason(site, api):
    site.orders.sessions["front-agent"] = Session("5e" * 8, 0)
    asking = asyncio.create_task(api.post("/api/v1/doors/front/commands", json={"action": "pulse"}))
    await answered(site, "command.refused", reason="Expired", detail="it came too late")
    body = (await asking).json()
    assert (body["status"], body["type"]) == (409, "/problems/refused")
    assert (body["reason"], body["detail"]) == ("Expired", "it came too late")


async def test_a_door_that_is_away_or_silent_is_told_apart(site, api, monkeypatch):
    monkeypatch.setattr("server.distribution.commands.ANSWER_S", 0.01)
    away = await api.post("/api/v1/doors/front/commands", json={"action": "pulse"})
    assert (away.status_code, away.json()["type"]) == (503, "/problems/not-connected")
    site.orders.sessions["front-agent"] = Session("5e" * 8, 0)
    silent = (await api.post("/api/v1/doors/front/commands", json={"action": "pulse"})).json()
    assert (silent["status"], silent["type"]) == (504, "/problems/unconfirmed")
    assert silent["expires"] == "2026-11-24T08:15:35.123456Z"
    unknown = await api.post("/api/v1/doors/attic/commands", json={"action": "pulse"})
    assert unknown.status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"action": "unlock"},
        {"action": "unlock", "until": (MOMENT + timedelta(hours=25)).isoformat()},
        {"action": "unlock", "until": "2026-11-24T09:00:00"},
        {"action": "reboot"},
        {"action": "explode"},
        {},
    ],
)
async def test_a_command_that_makes_no_sense_is_not_sent(site, api, body):
    site.orders.sessions["front-agent"] = Session("5e" * 8, 0)
    answer = await api.post("/api/v1/doors/front/commands", json=body)
    assert answer.status_code == 422, answer.text
    assert site.orders.broker.messages == []


async def test_an_agent_is_rebooted(site, api):
    site.orders.sessions["front-agent"] = Session("5e" * 8, 0)
    asking = asyncio.create_task(
        api.post("/api/v1/agents/front-agent/commands", json={"action": "reboot"})
    )
    await answered(site, "command.executed", door=None, latency_ms=None)
    assert (await asking).json()["state"] == "executed"
