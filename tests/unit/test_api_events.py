import asyncio
import json
from base64 import b64decode
from datetime import timedelta

import pytest

from schemas.chain import EVENTS_TYPE
from schemas.envelope import TrustedKey, open_envelope
from schemas.events import EVENT_DATA
from server.feed import cursor
from server.store.events import store_id
from tests.sample_site import MOMENT, SIGNER, open_site


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path / "ostiary.db") as opened:
        yield opened


@pytest.fixture
async def api(site):
    async with site.client() as client:
        yield client


async def ids(api, **query):
    page = (await api.get("/api/v1/events", params=query)).json()
    return [event["id"] for event in page["events"]], page


async def test_an_empty_store_gives_an_empty_page_and_a_cursor_to_go_on_from(site, api):
    found, page = await ids(api)
    assert found == []
    assert page["more"] is False
    first = await site.add()
    assert (await ids(api, after=page["next"]))[0] == [first]


async def test_pages_give_each_event_once_in_order_of_arrival(site, api):
    added = [await site.add() for _ in range(7)]
    seen: list[str] = []
    query = {"limit": 3}
    more = True
    sizes = []
    while more:
        found, page = await ids(api, **query)
        seen += found
        sizes.append(len(found))
        query["after"], more = page["next"], page["more"]
    assert seen == added
    assert sizes == [3, 3, 1]


async def test_an_event_carries_the_cursor_just_after_it(site, api):
    added = [await site.add() for _ in range(4)]
    page = (await api.get("/api/v1/events")).json()
    for index, event in enumerate(page["events"]):
        assert (await ids(api, after=event["cursor"]))[0] == added[index + 1 :]


async def test_events_arrive_late_with_their_own_time(site, api):
    await site.add(recorded=MOMENT + timedelta(hours=3))
    (event,) = (await api.get("/api/v1/events")).json()["events"]
    assert event["time"] == "2026-11-24T08:15:30.123456Z"
    assert event["recordedtime"] == "2026-11-24T11:15:30.123456Z"
    assert event["occurrence"] == "late"


async def test_types_and_door_narrow_what_is_read(site, api):
    opened = await site.add("door.opened")
    closed = await site.add("door.closed")
    elsewhere = await site.add("door.opened", door="back")
    assert (await ids(api, type="door.opened"))[0] == [opened, elsewhere]
    assert (await ids(api, type=["door.opened", "door.closed"]))[0] == [opened, closed, elsewhere]
    assert (await ids(api, door="front"))[0] == [opened, closed]
    assert (await ids(api, door="front", type="door.closed"))[0] == [closed]


async def test_a_filter_that_matches_nothing_still_moves_the_cursor_on(site, api):
    for _ in range(3):
        await site.add("door.opened")
    _, page = await ids(api, type="access.denied")
    assert page["next"] == cursor.encode(await _store_id(site), 3)


async def test_last_begins_that_many_events_before_the_newest(site, api):
    added = [await site.add() for _ in range(5)]
    assert (await ids(api, last=2))[0] == added[3:]
    assert (await ids(api, last=1000))[0] == added
    none, page = await ids(api, last=0)
    assert none == []
    after = await site.add()
    assert (await ids(api, after=page["next"]))[0] == [after]


async def test_a_long_poll_wakes_when_an_event_is_committed(site, api, monkeypatch):
    waits = asyncio.Event()
    wait_beyond = site.hub.wait_beyond

    async def told(position):
        waits.set()
        return await wait_beyond(position)

    monkeypatch.setattr(site.hub, "wait_beyond", told)
    polling = asyncio.ensure_future(api.get("/api/v1/events", params={"wait": 30}))
    await waits.wait()
    added = await site.add()
    page = (await polling).json()
    assert [event["id"] for event in page["events"]] == [added]


async def test_a_long_poll_sleeps_through_events_it_did_not_ask_for(site, api):
    polling = asyncio.ensure_future(
        api.get("/api/v1/events", params={"wait": 30, "type": "access.denied"})
    )
    await site.add("door.opened")
    await site.add("door.closed")
    wanted = await site.add("access.denied")
    page = (await polling).json()
    assert [event["id"] for event in page["events"]] == [wanted]


async def test_a_long_poll_ends_empty_when_its_time_is_over(site, api):
    found, page = await ids(api, wait=0.01)
    assert found == []
    assert page["next"]


async def test_a_long_poll_ends_empty_at_shutdown(site, api):
    polling = asyncio.ensure_future(api.get("/api/v1/events", params={"wait": 30}))
    site.hub.close()
    assert (await polling).json()["events"] == []


async def test_a_long_poll_does_not_wait_for_what_is_there_already(site, api):
    added = await site.add()
    assert (await ids(api, wait=30))[0] == [added]


async def test_a_cursor_of_another_store_is_gone(site, api):
    answer = await api.get("/api/v1/events", params={"after": cursor.encode("another", 1)})
    assert answer.status_code == 410
    assert answer.json()["type"] == "/problems/cursor-gone"


async def test_a_cursor_beyond_the_newest_event_is_gone(site, api):
    # A store that was put back to yesterday's backup knows less than the client has seen.
    await site.add()
    ahead = cursor.encode(await _store_id(site), 2)
    answer = await api.get("/api/v1/events", params={"after": ahead})
    assert answer.status_code == 410
    answer = await api.get("/api/v1/events/stream", headers={"Last-Event-ID": ahead})
    assert answer.status_code == 410


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"wait": 31}, "wait"),
        ({"wait": "nan"}, "wait"),
        ({"last": -1}, "last"),
        ({"type": "access.maybe"}, "type"),
        ({"door": "Front Door"}, "door"),
        ({"dor": "front"}, "dor"),
        ({"after": ""}, "after"),
        ({"after": "yesterday"}, "after"),
        ({"after": "1" + "A" * 22, "last": 3}, "last"),
    ],
)
async def test_a_query_that_cannot_be_meant_is_refused_by_name(api, query, parameter):
    answer = await api.get("/api/v1/events", params=query)
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["errors"][0]["parameter"] == parameter
    assert problem["errors"][0]["in"] == "query"


async def test_an_unknown_event_type_is_answered_with_those_that_are_known(api):
    answer = await api.get("/api/v1/events/stream", params={"type": "access.maybe"})
    assert answer.status_code == 422
    for name in EVENT_DATA:
        assert name in answer.json()["detail"]


async def test_a_malformed_last_event_id_is_named_as_such(api):
    answer = await api.get("/api/v1/events/stream", headers={"Last-Event-ID": "nonsense"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0] == {
        "parameter": "Last-Event-ID",
        "in": "header",
        "detail": "not a cursor: use one exactly as the server gave it",
    }


async def test_a_proof_verifies_with_the_agents_key_alone(site, api):
    await site.add()
    event = await site.add("access.denied", data={"reason": "no_rule"})
    proof = (await api.get(f"/api/v1/events/{event}/proof")).json()
    trusted = {SIGNER.keyid: TrustedKey(SIGNER.key.public, "front-agent", frozenset({EVENTS_TYPE}))}
    opened = open_envelope(json.dumps(proof["envelope"]).encode(), trusted, EVENTS_TYPE)
    lines = opened.payload.split(b"\n")
    assert proof["lines"] == len(lines)
    assert lines[proof["index"]] == proof["line"].encode()
    assert json.loads(proof["line"])["id"] == event
    assert b64decode(proof["envelope"]["payload"]) == opened.payload


async def test_a_proof_of_what_never_happened_is_not_found(api):
    answer = await api.get(f"/api/v1/events/{'0' * 16}-1/proof")
    assert answer.status_code == 404
    assert answer.json()["type"] == "/problems/no-such-event"
    answer = await api.get(f"/api/v1/events/{'0' * 16}-99999999999999999999/proof")
    assert answer.status_code == 404
    assert (await api.get("/api/v1/events/first/proof")).status_code == 422


async def test_hostile_text_reaches_the_client_as_text(site, api):
    hostile = "<script>alert(1)</script>\u202egnp.exe\u0000\r\n\u2028"
    await site.add("access.denied", data={"detail": hostile})
    (event,) = (await api.get("/api/v1/events")).json()["events"]
    assert event["data"]["detail"] == hostile


async def _store_id(site):
    return await store_id(site.engine)
