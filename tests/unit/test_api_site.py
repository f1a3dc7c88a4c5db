"""The site itself, and all of it as one document."""

from __future__ import annotations

import pytest

from tests.sample_site import open_site


@pytest.fixture
async def api(tmp_path):
    async with open_site(tmp_path / "ostiary.db") as site, site.client() as client:
        yield client


async def test_a_stale_plan_is_not_applied(api):
    plan = await api.post("/api/v1/site-document?dry_run=true", json={"groups": {"staff": {}}})
    tag = f'"{plan.json()["revision"]}"'
    await api.put("/api/v1/groups/guests", json={})
    stale = await api.post(
        "/api/v1/site-document", json={"groups": {"staff": {}}}, headers={"If-Match": tag}
    )
    assert stale.status_code == 412
    current = (await api.get("/api/v1/site-document")).headers["etag"]
    fresh = await api.post(
        "/api/v1/site-document", json={"groups": {"staff": {}}}, headers={"If-Match": current}
    )
    assert fresh.json()["applied"]


async def test_a_document_with_a_member_twice_is_refused(api):
    for body in ('{"groups": {"a": {}, "a": {}}}', '{"groups": {}', "[]", "\xff", ""):
        answer = await api.post("/api/v1/site-document", content=body)
        assert answer.status_code == 422, body


async def test_an_agent_serves_no_more_doors_than_a_policy_takes(api):
    doors = {f"d{number}": {"agent": "front-agent"} for number in range(65)}
    answer = await api.post("/api/v1/site-document", json={"doors": doors})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"].endswith(".agent")
    del doors["d64"]
    assert (await api.post("/api/v1/site-document", json={"doors": doors})).status_code == 200


async def test_the_site_has_a_name_and_a_time_zone(api):
    before = (await api.get("/api/v1/site")).json()
    assert (before["id"], before["timezone"], before["suite"]) == ("demo", "UTC", "intl")
    wanted = {"name": "The Old Mill", "timezone": "Asia/Shanghai"}
    assert (await api.put("/api/v1/site", json=wanted)).status_code == 200
    assert (await api.get("/api/v1/site")).json()["timezone"] == "Asia/Shanghai"
    refused = await api.put("/api/v1/site", json={"timezone": "Asia/Atlantis"})
    assert refused.json()["errors"][0]["parameter"] == "timezone"
