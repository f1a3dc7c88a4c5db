"""The key authority over HTTP: what there is, what may be made, and never a key."""

from __future__ import annotations

import secrets

import pytest

from server.keys.esams import NewEsam
from server.store.keys import add_domain
from tests.key_rig import DOMAIN, key_desk, traces
from tests.sample_site import open_site

SERIAL, CONTROL_KEY = "45534d0000000001", secrets.token_bytes(16)


@pytest.fixture
async def desk(tmp_path):
    async with key_desk(tmp_path / "site", "intl") as opened:
        yield opened


@pytest.fixture
async def api(tmp_path, desk):
    async with open_site(tmp_path / "ostiary.db") as site:
        site.state.keys, site.state.esams = desk.authority, desk.esams
        site.state.model_changed = lambda: None
        async with site.client() as client:
            yield client


async def test_a_domain_and_its_versions_are_made_and_shown(api, desk):
    made = await api.post("/api/v1/keys/domains", json={"domain": DOMAIN, "suite": "gm"})
    assert made.status_code == 201
    assert made.json()["suite"] == "gm"
    again = await api.post("/api/v1/keys/domains", json={"domain": DOMAIN})
    assert (again.status_code, again.json()["type"]) == (409, "/problems/not-now")
    made = await api.post(f"/api/v1/keys/domains/{DOMAIN}/versions", json={})
    assert [each["version"] for each in made.json()["versions"]] == [1, 2]
    await desk.authority.raise_floor(DOMAIN, 2, "test")
    await desk.authority.destroy(DOMAIN, 1, "test")
    (shown,) = (await api.get("/api/v1/keys/domains")).json()["items"]
    assert shown == (await api.get(f"/api/v1/keys/domains/{DOMAIN}")).json()
    assert [each["state"] for each in shown["versions"]] == ["destroyed", "ready"]
    (domain,) = await desk.authority.domains()
    assert shown["versions"][1]["check_values"] == domain.versions[1].check_values.model_dump()
    assert domain.versions[1].stored.hex() not in str(shown)


async def test_a_doors_suite_is_that_of_its_domains_keys(tmp_path):
    async with open_site(tmp_path / "other.db") as site, site.client() as api:
        site.state.model_changed = lambda: None
        async with site.state.engine.begin() as connection:
            await add_domain(connection, DOMAIN, "gm", 0)
        path = "/api/v1/door-configurations/front"
        for suite, status in (("intl", 422), ("gm", 201)):
            door = {"settings": {"domain": DOMAIN, "suite": suite}}
            answer = await api.put(path, json=door)
            assert answer.status_code == status, answer.text
            if status == 422:
                assert "keys of the other suite" in answer.text


async def test_what_is_not_there_is_said(api):
    for method, path in (
        ("GET", "domains/zone-b"),
        ("POST", "domains/zone-b/versions"),
        ("POST", f"esams/{SERIAL}/withdraw"),
    ):
        body = {"json": {}} if method == "POST" else {}
        answer = await api.request(method, f"/api/v1/keys/{path}", **body)
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/no-such-object")


async def test_esams_are_shown_without_their_control_keys_and_withdrawn(api, desk):
    await desk.authority.create_domain(DOMAIN, "intl", "test")
    new = NewEsam(
        serial=SERIAL, suite="intl", control_key=CONTROL_KEY, agent="front", domains=(DOMAIN,)
    )
    await desk.esams.take([new], "test")
    answer = await api.get("/api/v1/keys/esams")
    (shown,) = answer.json()["items"]
    assert (shown["serial"], shown["agent"], shown["state"]) == (SERIAL, "front", "in-service")
    assert shown["domains"] == {DOMAIN: None}
    assert not traces(answer.content, [CONTROL_KEY])
    withdrawn = await api.post(f"/api/v1/keys/esams/{SERIAL}/withdraw", json={})
    assert withdrawn.json()["state"] == "withdrawn"
