import io
import logging
import re
from contextlib import redirect_stderr
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from sqlalchemy import text

from schemas.events import EVENT_DATA
from server.api.permission import SCOPES
from server.log import configure_log
from server.store.announcements import waiting
from tests.sample_site import LOCAL_TOKEN, OPEN, open_site


class Clock:
    """Stands where it is put."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 24, 12, tzinfo=UTC)

    def now(self):
        return self.moment

    def monotonic(self):
        return 0.0


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path / "ostiary.db") as opened:
        opened.state.clock = Clock()
        yield opened


@pytest.fixture
async def api(site):
    async with site.client() as client:
        yield client


async def made(api, *scopes, name="robot", **more):
    answer = await api.post("/api/v1/tokens", json={"name": name, "scopes": list(scopes), **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def operations(api):
    document = (await api.get("/api/v1/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


async def test_every_route_says_what_scope_it_needs_or_is_listed_as_open(api):
    async for method, path, operation in operations(api):
        if path in OPEN:
            assert "security" not in operation
            assert method == "get"
        else:
            (needed,) = operation["security"]
            assert set(needed) <= set(SCOPES), path


async def test_no_route_that_is_not_open_answers_without_a_token(site):
    async with site.client(token=None) as nobody:
        async for method, path, operation in operations(nobody):
            if path in OPEN:
                continue
            url = re.sub(r"\{key\}", "0123456789abcdef", path)
            url = re.sub(r"\{[a-z]+\}", "some", url)
            answer = await nobody.request(method, url, json=example_body(operation))
            assert answer.status_code == 401, f"{method} {path}: {answer.status_code}"


def example_body(operation):
    return {} if "requestBody" in operation else None


async def test_no_route_lets_in_a_token_of_every_other_scope(site, api):
    tokens = {
        scope: (await made(api, *(set(SCOPES) - {scope, "admin"}), name=f"not-{scope}"))["token"]
        for scope in SCOPES
    }
    async with site.client(token=None) as client:
        async for method, path, operation in operations(client):
            if path in OPEN:
                continue
            (scope,) = operation["security"][0]
            url = re.sub(r"\{key\}", "0123456789abcdef", path)
            url = re.sub(r"\{[a-z]+\}", "some", url)
            headers = {"Authorization": f"Bearer {tokens[scope]}"}
            answer = await client.request(
                method, url, json=example_body(operation), headers=headers
            )
            assert answer.status_code == 403, f"{method} {path}: {answer.status_code}"


async def test_a_token_may_do_what_its_scopes_say_and_nothing_else(site, api):
    token = (await made(api, "read"))["token"]
    async with site.client(token=token) as reader:
        assert (await reader.get("/api/v1/persons")).status_code == 200
        refused = await reader.put("/api/v1/groups/staff", json={})
        assert refused.status_code == 403
        assert refused.json()["type"] == "/problems/forbidden"
        assert (await reader.get("/api/v1/tokens")).status_code == 403


NO_TOKENS = [
    "",
    "Bearer",
    "Bearer ",
    "Basic " + LOCAL_TOKEN,
    LOCAL_TOKEN,
    "Bearer " + LOCAL_TOKEN[:-1],
    "Bearer " + LOCAL_TOKEN + "a",
    "Bearer ost_0123456789abcdef_" + "0" * 64,
    "Bearer " + "x" * 5000,
]


async def test_what_is_no_token_opens_nothing(site):
    async with site.client(token=None) as client:
        for header in NO_TOKENS:
            answer = await client.get("/api/v1/persons", headers={"Authorization": header})
            assert answer.status_code == 401, header
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["type"] == "/problems/unauthorised"


async def test_without_a_run_file_no_local_token_is_good(site):
    site.state.local_token = ""
    async with site.client(token="") as client:
        assert (await client.get("/api/v1/persons")).status_code == 401


async def test_a_token_ends_when_it_expires(site, api):
    expires = site.state.clock.moment + timedelta(hours=1)
    token = (await made(api, "read", expires=expires.isoformat()))["token"]
    async with site.client(token=token) as client:
        site.state.clock.moment = expires - timedelta(microseconds=1)
        assert (await client.get("/api/v1/persons")).status_code == 200
        site.state.clock.moment = expires
        assert (await client.get("/api/v1/persons")).status_code == 401


async def test_a_revoked_token_is_refused_at_once(site, api):
    token = await made(api, "read")
    async with site.client(token=token["token"]) as client:
        assert (await client.get("/api/v1/persons")).status_code == 200
        assert (await api.delete(f"/api/v1/tokens/{token['id']}")).status_code == 204
        assert (await client.get("/api/v1/persons")).status_code == 401
    assert (await api.delete(f"/api/v1/tokens/{token['id']}")).status_code == 404


async def test_the_secret_is_kept_nowhere(site, api):
    token = (await made(api, "read"))["token"]
    secret = token.rpartition("_")[2]
    assert len(secret) == 64
    async with site.engine.connect() as connection:
        for table in ("tokens", "announcements"):
            rows = (await connection.execute(text(f"SELECT * FROM {table}"))).all()
            assert rows
            assert secret not in str(rows)
    assert secret not in (await api.get("/api/v1/tokens")).text


@pytest.fixture
def untouched_log():
    """What others have set up comes back after the test."""
    config, handlers = structlog.get_config(), logging.root.handlers[:]
    yield
    structlog.configure(**config)
    logging.root.handlers[:] = handlers


@pytest.mark.usefixtures("untouched_log")
async def test_the_log_of_a_failure_holds_neither_the_token_nor_whom_it_was_about(site, api):
    token = (await made(api, "read"))["token"]
    async with site.engine.begin() as connection:
        await connection.execute(text("DROP TABLE memberships"))
    with redirect_stderr(io.StringIO()) as log:
        configure_log()
        async with site.client(token=token) as client:
            assert (await client.get("/api/v1/memberships?person=mei")).status_code == 500
    assert "no such table: memberships" in log.getvalue()
    assert token.rpartition("_")[2] not in log.getvalue()
    assert "mei" not in log.getvalue()


async def test_the_last_use_is_noted_to_the_minute(site, api):
    token = (await made(api, "read"))["token"]
    start = site.state.clock.moment

    async def last_used():
        return (await api.get("/api/v1/tokens")).json()["items"][0]["last_used"]

    assert await last_used() is None
    async with site.client(token=token) as client:
        await client.get("/api/v1/persons")
        assert await last_used() == "2026-11-24T12:00:00.000000Z"
        site.state.clock.moment = start + timedelta(seconds=30)
        await client.get("/api/v1/persons")
        assert await last_used() == "2026-11-24T12:00:00.000000Z"
        site.state.clock.moment = start + timedelta(seconds=60)
        await client.get("/api/v1/persons")
        assert await last_used() == "2026-11-24T12:01:00.000000Z"


SENSELESS = [
    ({"name": "x", "scopes": []}, "scopes"),
    ({"name": "x", "scopes": ["everything"]}, "scopes.0"),
    ({"name": "Not a name", "scopes": ["read"]}, "name"),
    ({"name": "local", "scopes": ["read"]}, "name"),
    ({"name": "server", "scopes": ["read"]}, "name"),
    ({"name": "x", "scopes": ["read"], "expires": "2020-01-01T00:00:00Z"}, "expires"),
    ({"name": "x", "scopes": ["read"], "expires": "2027-01-01T00:00:00"}, "expires"),
    ({"name": "x", "scopes": ["read"], "more": 1}, "more"),
]


async def test_a_token_that_makes_no_sense_is_refused(api):
    for body, parameter in SENSELESS:
        answer = await api.post("/api/v1/tokens", json=body)
        assert answer.status_code == 422, body
        assert answer.json()["errors"][0]["parameter"] == parameter


async def test_two_tokens_have_no_name_in_common(api):
    await made(api, "read")
    answer = await api.post("/api/v1/tokens", json={"name": "robot", "scopes": ["read"]})
    assert answer.status_code == 422


async def test_making_and_revoking_a_token_is_announced(site, api):
    token = await made(api, "read")
    await api.delete(f"/api/v1/tokens/{token['id']}")
    told = await waiting(site.engine, 10)
    assert [(a.name, a.data["action"], a.data["by"]) for a in told] == [
        ("token.changed", "created", "local"),
        ("token.changed", "revoked", "local"),
    ]
    assert site.changes == ["announced", "announced"]
    EVENT_DATA["token.changed"].model_validate(told[0].data)
