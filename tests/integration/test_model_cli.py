"""A site as a file, and tokens, from the command line against a server that runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import yaml
from typer.testing import CliRunner, Result

from schemas.versions import LogHead
from server.api.permission import SCOPES
from server.api.problems import KINDS
from server.cli.remote import Refused, Remote
from server.cli.root import app
from server.run_file import run_file
from server.state import ServerState
from tests.sample_site import LOCAL_TOKEN, open_site, serving

EXAMPLE = Path(__file__).parents[2] / "docs" / "site.yaml"


class Desk:
    """Somebody at a terminal of the server's machine."""

    def __init__(self, site_dir: Path, url: str, state: ServerState | None = None) -> None:
        self.site_dir, self.url, self.state = site_dir, url, state

    async def run(self, *words: str, answer: str | None = None, **environ: str) -> Result:
        arguments = [*words, "--site-dir", str(self.site_dir)]
        return await asyncio.to_thread(
            CliRunner().invoke, app, arguments, input=answer, env=environ
        )

    async def good(self, *words: str, **more: str) -> str:
        result = await self.run(*words, **more)
        assert result.exit_code == 0, result.output
        return result.stdout

    async def bad(self, *words: str, **more: str) -> str:
        result = await self.run(*words, **more)
        assert result.exit_code == 1, result.output
        assert "Traceback" not in result.output
        return result.stderr


@pytest.fixture
async def desk(tmp_path):
    async with open_site(tmp_path / "ostiary.db") as site, serving(site) as url:
        with run_file(tmp_path, url, LOCAL_TOKEN):
            yield Desk(tmp_path, url, site.state)


def write(tmp_path: Path, text: str) -> str:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    return str(file)


async def test_the_example_of_the_documentation_applies_and_comes_back(desk, tmp_path):
    shown = await desk.good("apply", str(EXAMPLE), "--yes")
    assert "+ laboratory" in shown
    assert "20 to create, 1 to change, 0 to delete." in shown
    again = await desk.good("apply", str(EXAMPLE), "--prune")
    assert again.strip() == "The site is what the file says: nothing to change."
    exported = tmp_path / "exported.yaml"
    await desk.good("export", "--out", str(exported))
    assert "nothing to change" in await desk.good("apply", str(exported), "--prune")
    assert exported.read_text() == await desk.good("export")
    # and any YAML reader takes it for the same
    document = yaml.safe_load(exported.read_text())
    assert document["cards"]["0102030405060708"] == {"person": "mei"}
    assert document["schedules"]["office-hours"]["windows"][0]["start"] == "07:00"


async def test_what_would_change_is_shown_before_it_is_asked_for(desk, tmp_path):
    await desk.good("apply", str(EXAMPLE), "--yes")
    file = write(
        tmp_path,
        "groups: {staff: {name: Staff}, cleaners: {}}\n"
        "doors: {laboratory: {agent: laboratory-agent, area: laboratory}}\n",
    )
    refused = await desk.run("apply", file, answer="n\n")
    assert refused.exit_code == 1
    assert "+ cleaners" in refused.stdout
    assert "~ staff" in refused.stdout
    assert 'name: "" -> "Staff"' in refused.stdout
    assert "settings.grace_s: 900 -> 86400" in refused.stdout
    assert "3 not in the file stay as they are" in refused.stderr
    assert "cleaners" not in await desk.good("export")
    await desk.good("apply", file, answer="y\n")
    assert "cleaners" in await desk.good("export")


async def test_a_dry_run_changes_nothing(desk):
    empty = await desk.good("export")
    shown = await desk.good("apply", str(EXAMPLE), "--dry-run", "--json")
    plan = json.loads(shown)
    assert not plan["applied"]
    assert {step["action"] for step in plan["steps"]} == {"created", "updated"}
    assert await desk.good("export") == empty


async def test_only_prune_deletes_and_never_a_section_that_is_not_in_the_file(desk, tmp_path):
    await desk.good("apply", str(EXAMPLE), "--yes")
    file = write(tmp_path, "rules: {}\ncalendars: {}\n")
    await desk.good("apply", file, "--yes")
    refused = await desk.bad("apply", file, "--prune", "--yes")
    assert "calendar holidays is named by schedule office-hours" in refused
    file = write(tmp_path, "rules: {}\n")
    shown = await desk.good("apply", file, "--prune", "--yes")
    assert "- staff" in shown
    assert "3 to delete" in shown
    document = yaml.safe_load(await desk.good("export"))
    assert "rules" not in document or not document["rules"]
    assert "mei" in document["persons"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("groups:\n  staff: {}\n  staff: {}\n", "line 3: 'staff' is there twice"),
        ("a: &a [x]\nb: *a\n", "line 2: aliases (*a) are not taken"),
        ("groups: !!python/object/apply:os.system [id]\n", "line 1: tags"),
        ("groups: {staff: {nmae: x}}\n", "groups.staff.nmae: there is no such field here"),
        (
            "persons: {mei: {groups: [none]}}\n",
            "persons.mei.groups.0.group: there is no group 'none'",
        ),
        ("cards: {12: {person: mei}}\n", "cards.12"),
        ("dors: {}\n", "dors: there is no such field here"),
        ("- a\n", "holds no mapping"),
        ("a: b: c\n", "line 1"),
        ("x: y\na: \x1b[2J\n", "line 2: control characters"),
        ("[" * 1000, "nested more than"),
    ],
)
async def test_a_file_that_makes_no_sense_is_refused_by_its_place(desk, tmp_path, text, said):
    result = await desk.bad("apply", write(tmp_path, text), "--yes")
    assert said in result
    assert "\x1b" not in result


async def test_a_token_is_made_used_listed_and_revoked(desk):
    token = (await desk.good("tokens", "create", "robot", "--scope", "read")).strip()
    listed = json.loads(await desk.good("tokens", "list", "--json"))
    assert [(item["name"], item["scopes"]) for item in listed] == [("robot", ["read"])]
    assert token not in str(listed)
    elsewhere = {"OSTIARY_TOKEN": token, "OSTIARY_URL": desk.url}
    await desk.good("export", **elsewhere)
    refused = await desk.bad("apply", str(EXAMPLE), "--yes", **elsewhere)
    assert "has no scope 'manage'" in refused
    await desk.good("tokens", "revoke", "robot")
    assert "was revoked" in await desk.bad("export", **elsewhere)
    assert "there is no token robot" in await desk.bad("tokens", "revoke", "robot")


async def test_who_was_revoked_is_let_in_again(desk):
    await desk.good("apply", str(EXAMPLE), "--yes")
    desk.state.revocations = SimpleNamespace(head=LogHead(sequence=7, hash="a" * 64))
    said = await desk.good("reinstate", "card", "0102030405060708")
    assert said == "Card 0102030405060708: revocations up to 7 are answered.\n"
    assert "up to 7" in await desk.good("reinstate", "person", "mei")
    assert "there is no person nobody" in await desk.bad("reinstate", "person", "nobody")


async def test_a_scope_that_is_none_is_refused_and_all_are_shown(desk):
    said = await desk.bad("tokens", "create", "robot", "--scope", "read", "--scope", "foo")
    assert said.startswith("error: --scope foo: there are read, ")
    shown = CliRunner().invoke(app, ["tokens", "create", "--help"], env={"COLUMNS": "200"}).output
    for scope in SCOPES:
        assert scope in shown


async def test_what_a_name_or_an_id_has_to_be_is_said_once_and_in_words(desk):
    name = "a name has up to 63 lower-case letters, digits and hyphens"
    for words, parameter, form in (
        (("cards", "bind", "Mei X", "--door", "front"), "person", name),
        (("cards", "bind", "mei", "--door", "front", "--card", "12"), "card", "it is 16 hex"),
        (("cards", "unbind", "0102", "--lost"), "card", "it is 16 hex digits"),
        (("rotation", "pause", "front"), "id", "it is 8 hex digits"),
    ):
        said = await desk.bad(*words)
        assert said.count(f"{parameter}: {form}") == 1
        assert "String" not in said
        assert "`errors`" not in said
    with pytest.raises(Refused) as several, httpx.Client(transport=answering(MISTAKES)) as client:
        Remote(client).post("http://x/")
    assert str(several.value) == "Not valid: see below\n  a: one\n  b: two"


MISTAKES = {"type": "/problems/invalid-request", "title": "Not valid", "detail": "a: one"}
MISTAKES |= {"errors": [{"parameter": "a", "detail": "one"}, {"parameter": "b", "detail": "two"}]}


def answering(problem):
    return httpx.MockTransport(lambda _: httpx.Response(422, json=problem))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_advice_is_for_a_command_line_and_not_for_who_calls_the_api(kind):
    expires = "2026-11-24T08:15:30Z"
    problem = {"type": kind.type, "title": kind.title, "detail": "d", "advice": kind.advice}
    if kind.name == "unconfirmed":
        problem["expires"] = expires
    with pytest.raises(Refused) as refused, httpx.Client(transport=answering(problem)) as client:
        Remote(client).post("http://x/")
    said = str(refused.value)
    for word in (
        "GET /",
        "`errors`",
        "`detail`",
        "`expires`",
        "`checks`",
        "ETag",
        "Bearer",
        "Allow",
    ):
        assert word not in said or kind.name.startswith(("cursor", "no-such-event"))
    assert (expires in said) == (kind.name == "unconfirmed")


async def test_without_a_server_the_command_says_so(tmp_path):
    desk = Desk(tmp_path, "")
    assert "no server runs on" in await desk.bad("export")
    with run_file(tmp_path, "http://127.0.0.1:1", LOCAL_TOKEN):
        assert "no server answers at http://127.0.0.1:1" in await desk.bad("export")


async def test_a_token_is_not_sent_where_others_can_read_it(tmp_path):
    desk = Desk(tmp_path, "")
    environ = {"OSTIARY_TOKEN": "secret", "OSTIARY_URL": "http://door.example:8080"}
    said = await desk.bad("export", **environ)
    assert "use https" in said
    assert "secret" not in said
    del environ["OSTIARY_TOKEN"]
    assert "set OSTIARY_TOKEN" in await desk.bad("export", **environ)


async def test_the_run_file_is_for_its_owner_and_goes_with_the_server(tmp_path):
    with run_file(tmp_path, "http://127.0.0.1:1", LOCAL_TOKEN):
        assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "run.json").exists()
