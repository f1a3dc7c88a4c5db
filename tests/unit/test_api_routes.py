import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from server.api import problems
from server.api.headers import SECURITY_HEADERS
from server.api.problems import KINDS
from tests.sample_site import MOMENT, OPEN, open_site


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path / "ostiary.db") as opened:
        yield opened


@pytest.fixture
async def api(site):
    async with site.client() as client:
        yield client


def is_problem(answer, status):
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["type"].removeprefix("/problems/") in KINDS
    assert body["title"]
    assert body["detail"]
    assert body["advice"]
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    return body


async def test_every_open_route_answers_and_refuses_with_a_problem(site, api):
    event = await site.add()
    for path in OPEN:
        url = path.format(id=event, name="not-found")
        if not path.endswith("/stream"):
            assert (await api.get(url)).status_code == 200
        is_problem(await api.get(url, params={"no-such-parameter": 1}), 422)


def test_every_kind_of_problem_is_known_by_its_name():
    assert {k.name: k for k in vars(problems).values() if isinstance(k, problems.Kind)} == KINDS


async def test_every_route_is_described_and_its_errors_are_problems(api):
    document = (await api.get("/api/v1/openapi.json")).json()
    assert document["openapi"].startswith("3.1.")
    assert set(document["paths"]) > OPEN
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert operation["description"], path
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"], path


async def test_a_method_that_is_not_there_is_refused_and_the_others_are_named(api):
    document = (await api.get("/api/v1/openapi.json")).json()
    for path, methods in document["paths"].items():
        url = re.sub(r"\{[a-z]+\}", "0123456789abcdef", path)
        there = {method.upper() for method in methods}
        there |= {"HEAD"} if "GET" in there else set()
        for method in {"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"} - there:
            refused = await api.request(method, url)
            assert refused.status_code == 405, f"{method} {path}"
            assert set(refused.headers["allow"].split(", ")) == there


async def test_a_body_beyond_a_size_is_refused(api):
    for url, most in (("/api/v1/groups/staff", 2**20), ("/api/v1/site-document", 2**26)):
        method = "POST" if url.endswith("document") else "PUT"
        body = b'{"name": "' + b"a" * most + b'"}'
        is_problem(await api.request(method, url, content=body), 413)


async def test_the_openapi_document_refers_only_to_schemas_it_holds(api):
    answer = await api.get("/api/v1/openapi.json")
    known = set(answer.json()["components"]["schemas"])
    assert "Problem" in known
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text)) <= known


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/api/v1",
        "/api/v1/people",
        "/docs",
        "/console/",
        "/console/__init__.py",
        "/console/../build.py",
        "/console/%2e%2e/api/build.py",
        "/console/none.js",
        "/problems/x",
    ],
)
async def test_what_does_not_exist_is_a_problem(api, path):
    is_problem(await api.get(path), 404)


async def test_every_problem_type_explains_itself(api):
    for name, kind in KINDS.items():
        assert (await api.get(f"/problems/{name}")).json()["title"] == kind.title


def test_the_documentation_lists_every_problem_type():
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    listed = re.findall(r"^\| `/problems/([a-z-]+)` \| ([0-9]+) \|", text, re.MULTILINE)
    assert {name: int(status) for name, status in listed} == {
        name: kind.status for name, kind in KINDS.items()
    }


async def test_a_failure_tells_the_client_nothing_of_our_insides(site, api):
    async with site.engine.begin() as connection:
        await connection.execute(text("DROP TABLE events"))
    with capture_logs() as logs:  # and not on the terminal, where such a traceback takes seconds
        answer = await api.get("/api/v1/events")
    is_problem(answer, 500)
    assert [entry["event"] for entry in logs] == ["request_failed"]
    assert "no such table" in str(logs[0]["exc_info"])
    assert "sqlite" not in answer.text.lower()
    assert "Traceback" not in answer.text
    assert "no such table" not in answer.text


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8080",
        "",
        "127.0.0.2",
        "localhost:8080@evil.example",
        "127.0.0.1:port",
        "127.0.0.1\n",
        "xlocalhost",
    ],
)
async def test_another_host_name_is_refused(api, host):
    # httpx strips nothing: what stands here is what a rebinding page's browser would send.
    answer = await api.get("/api/v1/events", headers={"Host": host})
    is_problem(answer, 421)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080"])
async def test_loopback_names_are_answered(api, host):
    assert (await api.get("/livez", headers={"Host": host})).status_code == 200


async def test_no_other_origin_is_let_in(api):
    answer = await api.get("/api/v1/events", headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_responses_carry_the_security_headers(api):
    for path in ("/", "/console/live.js", "/api/v1/events", "/metrics"):
        answer = await api.get(path)
        assert answer.status_code == 200
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name] == value
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/doors", "/api/v1/events/stream", "/console/live.js"]
)
async def test_head_is_get_without_the_body(api, path):
    answer = await api.head(path)
    assert answer.status_code == 200
    assert answer.content == b""


async def test_a_door_is_shown_as_it_last_reported_itself(site, api):
    recorded = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
    await site.add(recorded=recorded)
    await site.add("door.opened", recorded=recorded + timedelta(seconds=2))
    await site.set_door("front", contact="open", alarm="held")
    await site.set_door("back", agent="back-agent", contact="unknown")
    body = (await api.get("/api/v1/doors")).json()
    assert body["site"] == "demo"
    back, front = body["doors"]
    assert front["door"] == "front"
    assert (front["contact"], front["mode"], front["alarm"]) == ("open", "locked", "held")
    assert front["last_heard"] == "2026-11-24T09:00:02.000000Z"
    assert front["current"] is True
    assert back["contact"] == "unknown"
    assert back["last_heard"] is None


async def test_without_the_broker_no_door_is_shown_as_current(site, api):
    await site.set_door("front")
    site.state.link.connected = False
    body = (await api.get("/api/v1/doors")).json()
    assert body["link"]["connected"] is False
    assert body["doors"][0]["current"] is False


async def test_a_stream_from_the_doors_cursor_misses_no_change(site, api):
    await site.add()
    start = (await api.get("/api/v1/doors")).json()["cursor"]
    after = await site.add()
    page = (await api.get("/api/v1/events", params={"after": start})).json()
    assert [event["id"] for event in page["events"]] == [after]


async def test_a_ready_server_says_so(site, api):
    assert (await api.get("/healthz")).json()["last_commit"] is None
    await site.add(recorded=MOMENT)
    body = (await api.get("/healthz")).json()
    assert body["status"] == "ready"
    assert body["checks"]["database"]["ok"] is True
    assert body["checks"]["broker"]["ok"] is True
    assert body["last_commit"] == "2026-11-24T08:15:30.123456Z"


async def test_a_server_without_its_broker_is_alive_but_not_ready(site, api):
    site.state.link.connected = False
    problem = is_problem(await api.get("/healthz"), 503)
    assert problem["checks"]["broker"]["ok"] is False
    assert problem["checks"]["database"]["ok"] is True
    assert (await api.get("/livez")).json() == {"status": "alive"}


async def test_a_server_without_its_database_is_alive_but_not_ready(site, api):
    async with site.engine.begin() as connection:
        await connection.execute(text("DROP TABLE events"))
    with capture_logs() as logs:
        problem = is_problem(await api.get("/healthz"), 503)
    assert [entry["event"] for entry in logs] == ["database_unreadable"]
    assert problem["checks"]["database"]["ok"] is False
    assert "no such table" not in str(problem)
    assert (await api.get("/livez")).status_code == 200


async def test_metrics_are_in_the_prometheus_format(site, api):
    answer = await api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
