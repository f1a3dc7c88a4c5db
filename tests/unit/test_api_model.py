import asyncio
from types import SimpleNamespace

import pytest

from schemas.versions import LogHead
from server.store.announcements import waiting
from tests.sample_site import open_site

CARD, OTHER_CARD = "0102030405060708", "0102030405060709"


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path / "ostiary.db") as opened:
        yield opened


@pytest.fixture
async def api(site):
    async with site.client() as client:
        yield client


async def put(api, path, body, status=201, **headers):
    answer = await api.put(f"/api/v1/{path}", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer


async def get(api, path):
    answer = await api.get(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def building(api):
    await put(api, "areas/house", {"name": "The house"})
    await put(api, "areas/lab", {"parent": "house"})
    await put(api, "calendars/holidays", {"days": {"2026-12-25": "Christmas Day"}})
    await put(
        api,
        "schedules/office",
        {
            "windows": [{"days": ["mon", "tue"], "start": "08:00", "end": "18:00"}],
            "calendars": [{"calendar": "holidays"}],
        },
    )
    await put(api, "door-configurations/front", {"agent": "front-agent", "area": "lab"})
    await put(api, "groups/staff", {"name": "Staff"})
    await put(api, "persons/mei", {"name": "Mei Chen", "groups": ["staff"]})
    await put(api, f"cards/{CARD}", {"person": "mei"})
    await put(
        api, "rules/staff-in-house", {"group": "staff", "schedule": "office", "areas": ["house"]}
    )


async def test_what_is_put_is_what_is_got(api):
    await building(api)
    person = await get(api, "persons/mei")
    assert person["groups"] == [{"group": "staff", "until": None}]
    assert (person["id"], person["name"], person["cleared"]) == ("mei", "Mei Chen", 0)
    schedule = await get(api, "schedules/office")
    assert schedule["windows"] == [{"start": "08:00", "end": "18:00", "days": ["mon", "tue"]}]
    assert schedule["calendars"] == [{"calendar": "holidays", "ranges": []}]
    door = await get(api, "door-configurations/front")
    assert door["readers"] == ["in"]
    assert door["settings"]["grace_s"] == 86_400
    assert door["settings"]["domain"] is None
    assert (await get(api, "rules/staff-in-house"))["areas"] == ["house"]


async def test_times_keep_their_moment_and_are_shown_in_utc(api):
    times = {"valid_from": "2026-03-01T08:30:00+08:00", "valid_until": "2026-12-31T18:00:00Z"}
    await put(api, "persons/mei", times)
    person = await get(api, "persons/mei")
    assert person["valid_from"] == "2026-03-01T00:30:00Z"
    assert person["valid_until"] == "2026-12-31T18:00:00Z"


SENSELESS = [
    ("persons/mei", {"groups": ["nobody"]}, "groups.0.group"),
    ("persons/mei", {"groups": ["staff", "staff"]}, "groups"),
    ("persons/mei", {"valid_from": "2026-03-01T08:30:00"}, "valid_from"),
    ("persons/mei", {"valid_from": 1_772_000_000}, "valid_from"),
    ("persons/mei", {"valid_from": "1772000000"}, "valid_from"),
    (
        "persons/mei",
        {"valid_from": "2026-03-01T08:30:00Z", "valid_until": "2026-03-01T08:30:00Z"},
        "body",
    ),
    ("persons/mei", {"name": "two\nlines"}, "name"),
    ("persons/mei", {"name": "\x1b[2J"}, "name"),
    ("persons/mei", {"name": "a" * 201}, "name"),
    ("persons/mei", {"nmae": "Mei"}, "nmae"),
    ("persons/Mei", {}, "key"),
    ("cards/0102", {"person": "mei"}, "key"),
    (f"cards/{CARD}", {"person": "nobody"}, "person"),
    (f"cards/{CARD}", {"person": "mei", "state": "eaten"}, "state"),
    ("areas/lab", {"parent": "nowhere"}, "parent"),
    ("areas/house", {"parent": "lab"}, "parent"),
    ("areas/house", {"parent": "house"}, "parent"),
    (
        "schedules/s",
        {"windows": [{"days": [], "start": "08:00", "end": "18:00"}]},
        "windows.0.days",
    ),
    (
        "schedules/s",
        {"windows": [{"days": ["mon"], "start": "22:00", "end": "06:00"}]},
        "windows.0",
    ),
    ("schedules/s", {"special_days": {"20261225": []}}, "special_days.20261225.[key]"),
    ("schedules/s", {"special_days": {"2026-02-30": []}}, "special_days.2026-02-30.[key]"),
    ("schedules/s", {"calendars": [{"calendar": "none"}]}, "calendars.0.calendar"),
    ("door-configurations/front", {"agent": "server"}, "agent"),
    ("door-configurations/front", {"area": "nowhere"}, "area"),
    ("door-configurations/front", {"settings": {"grace_s": -1}}, "settings.grace_s"),
    (
        "door-configurations/front",
        {"settings": {"unlock_schedule": "x"}},
        "settings.unlock_schedule",
    ),
    ("door-configurations/front", {"settings": {"held_prealarm_s": 31}}, "settings"),
    ("door-configurations/front", {"readers": ["in", "in"]}, "readers"),
    ("rules/r", {"group": "staff", "schedule": "office"}, "body"),
    ("rules/r", {"group": "staff", "schedule": "office", "doors": ["none"]}, "doors.0"),
    ("rules/r", {"group": "none", "schedule": "office", "doors": ["front"]}, "group"),
]


async def test_what_makes_no_sense_is_refused_and_the_field_is_named(api, site):
    await building(api)
    before = await get(api, "site-document")
    site.changes.clear()
    for path, body, parameter in SENSELESS:
        answer = await api.put(f"/api/v1/{path}", json=body)
        assert answer.status_code == 422, (path, body)
        assert answer.json()["errors"][0]["parameter"] == parameter, answer.text
    assert await get(api, "site-document") == before
    assert site.changes == []


NAMED = [
    ("areas/house", "area house is named by area lab"),
    ("areas/lab", "area lab is named by door front"),
    ("calendars/holidays", "calendar holidays is named by schedule office"),
    ("schedules/office", "schedule office is named by rule staff-in-house"),
    ("groups/staff", "group staff is named by person mei"),
    ("persons/mei", f"person mei is named by card {CARD}"),
]


async def test_what_is_named_is_not_deleted(api):
    await building(api)
    for path, named_by in NAMED:
        answer = await api.delete(f"/api/v1/{path}")
        assert answer.status_code == 409
        assert answer.json()["detail"].startswith(named_by)
        await get(api, path)


async def test_all_can_be_deleted_in_the_right_order(api):
    await building(api)
    for path in (
        "rules/staff-in-house",
        f"cards/{CARD}",
        "persons/mei",
        "groups/staff",
        "door-configurations/front",
        "areas/lab",
        "areas/house",
        "schedules/office",
        "calendars/holidays",
    ):
        assert (await api.delete(f"/api/v1/{path}")).status_code == 204
        gone = await api.get(f"/api/v1/{path}")
        assert (gone.status_code, gone.json()["type"]) == (404, "/problems/no-such-object")
        assert (await api.delete(f"/api/v1/{path}")).status_code == 404


async def test_who_has_seen_an_older_state_changes_nothing(api):
    first = await put(api, "groups/staff", {"name": "Staff"})
    second = await put(
        api, "groups/staff", {"name": "All staff"}, 200, If_Match=first.headers["etag"]
    )
    assert second.headers["etag"] != first.headers["etag"]
    stale = {"If-Match": first.headers["etag"]}
    for refused in (
        await api.put("/api/v1/groups/staff", json={}, headers=stale),
        await api.patch("/api/v1/groups/staff", json={}, headers=stale),
        await api.delete("/api/v1/groups/staff", headers=stale),
        await api.put("/api/v1/groups/staff", json={}, headers={"If-None-Match": "*"}),
        await api.put("/api/v1/groups/new", json={}, headers={"If-Match": "*"}),
    ):
        assert refused.status_code == 412
        assert refused.json()["type"] == "/problems/changed-meanwhile"
    answer = await api.get("/api/v1/groups/staff")
    assert answer.json()["name"] == "All staff"
    assert answer.headers["etag"] == second.headers["etag"]


async def test_of_many_who_saw_the_same_state_one_changes_it(api):
    seen = (await put(api, "groups/staff", {})).headers["etag"]
    answers = await asyncio.gather(
        *(
            api.put("/api/v1/groups/staff", json={"name": str(n)}, headers={"If-Match": seen})
            for n in range(8)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
    (won,) = (answer.json() for answer in answers if answer.status_code == 200)
    assert (await get(api, "groups/staff"))["name"] == won["name"]


async def test_changes_at_once_follow_one_another(api):
    await put(api, "groups/staff", {})
    answers = await asyncio.gather(
        *(api.put(f"/api/v1/persons/p{n}", json={"groups": ["staff"]}) for n in range(8))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["revision"] for answer in answers}) == 8


async def test_a_patch_without_end_is_refused(api):
    await put(api, "groups/staff", {})
    deep = '{"name":' * 400 + "1" + "}" * 400
    answer = await api.patch(
        "/api/v1/groups/staff", content=deep, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert "nested" in answer.json()["detail"]


async def test_putting_what_is_there_is_no_change(site, api):
    first = await put(api, "groups/staff", {"name": "Staff"})
    site.changes.clear()
    again = await put(api, "groups/staff", {"name": "Staff"}, 200)
    assert again.headers["etag"] == first.headers["etag"]
    assert site.changes == []


async def test_a_patch_changes_the_fields_it_names_and_null_gives_back_the_default(api):
    await building(api)
    patch = {"name": "Front", "settings": {"grace_s": 900}, "area": None}
    answer = await api.patch("/api/v1/door-configurations/front", json=patch)
    door = answer.json()
    assert (door["name"], door["agent"], door["area"]) == ("Front", "front-agent", None)
    assert (door["settings"]["grace_s"], door["settings"]["mutual"]) == (900, True)
    await api.patch("/api/v1/door-configurations/front", json={"settings": {"grace_s": None}})
    assert (await get(api, "door-configurations/front"))["settings"]["grace_s"] == 86_400
    refused = await api.patch("/api/v1/door-configurations/front", json={"settings": {"x": 1}})
    assert refused.json()["errors"][0]["parameter"] == "settings.x"
    assert (await api.patch("/api/v1/groups/none", json={})).status_code == 404


async def test_a_list_is_paged_by_id_to_its_end(api):
    ids = [f"g{number:02}" for number in range(10)]
    for each in reversed(ids):
        await put(api, f"groups/{each}", {})
    seen, after = [], ""
    while after is not None:
        page = await get(api, f"groups?limit=3&after={after}" if after else "groups?limit=3")
        seen += [item["id"] for item in page["items"]]
        after = page["next"]
    assert seen == ids


FILTERED = [
    ("persons?group=staff", ["mei"]),
    ("persons?q=CHEN", ["mei"]),
    ("persons?q=%25", []),
    ("cards?person=mei", [CARD]),
    ("cards?q=chen", [CARD]),
    ("cards?state=lost", []),
    ("areas?parent=house", ["lab"]),
    ("door-configurations?agent=front-agent&area=lab&domain=front", ["front"]),
    ("door-configurations?agent=back-agent", []),
    ("rules?area=house", ["staff-in-house"]),
    ("rules?door=front", []),
    ("rules?group=staff&schedule=office", ["staff-in-house"]),
    ("schedules?calendar=holidays", ["office"]),
]


async def test_lists_are_filtered(api):
    await building(api)
    await put(api, "persons/li", {"name": "Li"})
    for query, found in FILTERED:
        assert [item["id"] for item in (await get(api, query))["items"]] == found, query


async def test_a_filter_that_is_not_known_is_refused(api):
    for query in ("persons?grup=staff", "persons?limit=0", "persons?limit=1001", "groups?group=x"):
        assert (await api.get(f"/api/v1/{query}")).status_code == 422


async def test_a_membership_is_part_of_the_person(api):
    await building(api)
    before = (await api.get("/api/v1/persons/mei")).headers["etag"]
    until = {"until": "2026-12-31T18:00:00Z"}
    assert (await api.put("/api/v1/memberships/staff/mei", json=until)).status_code == 204
    person = await api.get("/api/v1/persons/mei")
    assert person.headers["etag"] != before
    assert person.json()["groups"] == [{"group": "staff", "until": "2026-12-31T18:00:00Z"}]
    page = await get(api, "memberships?group=staff")
    assert [(item["group"], item["person"]) for item in page["items"]] == [("staff", "mei")]
    assert (await api.delete("/api/v1/memberships/staff/mei")).status_code == 204
    assert (await get(api, "memberships?person=mei"))["items"] == []
    assert (await api.delete("/api/v1/memberships/staff/mei")).status_code == 404
    assert (await api.put("/api/v1/memberships/staff/nobody", json={})).status_code == 404
    unknown = await api.put("/api/v1/memberships/nogroup/mei", json={})
    assert unknown.status_code == 422


async def test_pairs_are_paged_by_both_ids(api):
    for group in ("a", "b"):
        await put(api, f"groups/{group}", {})
    for person in ("p1", "p2", "p3"):
        await put(api, f"persons/{person}", {"groups": ["a", "b"]})
    seen, after = [], ""
    while after is not None:
        page = await get(api, f"memberships?limit=2{'&after=' + after if after else ''}")
        seen += [(item["group"], item["person"]) for item in page["items"]]
        after = page["next"]
    assert seen == [(group, person) for group in "ab" for person in ("p1", "p2", "p3")]
    assert (await api.get("/api/v1/memberships?after=x")).status_code == 422


async def test_each_change_is_announced_with_who_made_it(site, api):
    token = await api.post("/api/v1/tokens", json={"name": "robot", "scopes": ["manage"]})
    async with site.client(token=token.json()["token"]) as robot:
        await put(robot, "groups/staff", {})
        await put(robot, "groups/staff", {"name": "Staff"}, 200)
        await robot.delete("/api/v1/groups/staff")
    told = [a for a in await waiting(site.engine, 10) if a.name == "model.changed"]
    assert [(a.subject, a.data["action"]) for a in told] == [
        ("groups/staff", "created"),
        ("groups/staff", "updated"),
        ("groups/staff", "deleted"),
    ]
    assert {a.data["by"] for a in told} == {"robot"}
    assert site.changes == ["announced", *["model_changed", "announced"] * 3]


async def test_who_is_reinstated_is_answered_up_to_the_head_of_the_log(site, api):
    await building(api)
    site.state.revocations = SimpleNamespace(head=LogHead(sequence=7, hash="a" * 64))
    await api.patch(f"/api/v1/cards/{CARD}", json={"state": "lost"})
    card = (await api.post(f"/api/v1/cards/{CARD}/reinstate")).json()
    assert (card["cleared"], card["state"]) == (7, "active")
    site.state.revocations = SimpleNamespace(head=LogHead(sequence=9, hash="b" * 64))
    assert (await api.post("/api/v1/persons/mei/reinstate")).json()["cleared"] == 9
    assert (await get(api, f"cards/{CARD}"))["cleared"] == 7
    assert (await api.post(f"/api/v1/cards/{OTHER_CARD}/reinstate")).status_code == 404
    # what is put later does not take it back
    await put(api, f"cards/{CARD}", {"person": "mei", "note": "found"}, 200)
    assert (await get(api, f"cards/{CARD}"))["cleared"] == 7


async def test_the_locks_of_one_domain_have_one_suite(api):
    await put(api, "door-configurations/a", {"settings": {"domain": "zone"}})
    other = {"settings": {"domain": "zone", "suite": "gm"}}
    answer = await api.put("/api/v1/door-configurations/b", json=other)
    assert answer.json()["errors"][0]["parameter"] == "settings.domain"
