"""`ostiary rotation` against a server that answers over a socket: plan, watch, steer, refuse."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner, Result

from server.cli import rotation as rotation_cli
from server.cli.remote import Refused, Remote
from server.cli.root import app
from tests.campaign_lock import ZONE
from tests.campaign_rig import Campaigns, campaigns
from tests.sample_site import LOCAL_TOKEN, Site, open_site, serving

CARD = "00112233445566aa"


class Terminal:
    """Runs `ostiary rotation` as an operator elsewhere does, beside a server that runs."""

    def __init__(self, rig: Campaigns, site: Site, url: str) -> None:
        self.rig, self.site, self._url = rig, site, url
        self.token = LOCAL_TOKEN

    async def __call__(self, *words: str, answer: str | None = None) -> Result:
        environ = {"OSTIARY_URL": self._url, "OSTIARY_TOKEN": self.token, "COLUMNS": "120"}
        return await asyncio.to_thread(
            CliRunner().invoke, app, ["rotation", *words], input=answer, env=environ
        )

    async def planned(self) -> str:
        """The id of a new plan."""
        made = await self("plan", ZONE, "--json")
        assert made.exit_code == 0, made.stderr
        return str(json.loads(made.stdout)["id"])

    async def overlapping(self) -> str:
        rotation = await self.planned()
        assert (await self("start", rotation)).exit_code == 0
        await self.rig.until(rotation, "overlap")
        await self.rig.prefer(2)
        return rotation

    async def without_one(self) -> str:
        """A rotation that waits for one lock, which can't be reached."""
        self.rig.locks["agent-2"].online = False
        rotation = await self.planned()
        assert (await self("start", rotation)).exit_code == 0
        await self.rig.hold(2, "agent-0", "agent-1")
        await self.rig.looked()
        return rotation

    async def state(self, rotation: str) -> str:
        return (await self.rig.campaign(rotation)).state


@asynccontextmanager
async def terminal(folder) -> AsyncIterator[Terminal]:
    async with campaigns(folder / "site") as rig, open_site(folder / "ostiary.db") as site:
        site.state.engine, site.state.rotations = rig.engine, rig.rotations
        site.state.clock, site.state.keys = rig.clock, rig.authority
        async with serving(site) as url:
            yield Terminal(rig, site, url)


@pytest.fixture
async def ostiary(tmp_path):
    async with terminal(tmp_path) as made:
        yield made


async def test_a_plan_says_what_it_is_and_what_comes_next(ostiary):
    made = await ostiary("plan", ZONE)
    assert made.exit_code == 0, made.stderr
    assert f"{ZONE} from version 1 to 2, planned" in made.stdout
    assert "ostiary keys backup" in made.stderr
    assert "ostiary rotation start" in made.stderr
    listed = await ostiary("list")
    assert ZONE in listed.stdout
    assert "planned" in listed.stdout
    assert re.search(r"20..-..-..T..:..Z", listed.stdout)


async def test_of_keys_that_a_lock_draws_itself_no_backup_is_asked_for_and_none_called_absent(
    ostiary, monkeypatch
):
    gone = Refused(404, {"type": "/problems/no-such-object"})
    made = {"id": "0123abcd", "domain": "front", "from_version": 1, "to_version": 2}
    made |= {"state": "planned", "paused_in": None, "reason": "", "wave": 0, "lockouts": 0}
    made["locks"] = {"new": {"absent": 1}, "old": {"absent": 1}, "waves": []}
    made |= {"waiting": [], "cards": {"versions": {}, "behind": 0, "some_behind": []}}
    monkeypatch.setattr(Remote, "post", lambda *_: made)
    monkeypatch.setattr(Remote, "get", Mock(side_effect=gone))
    planned = await ostiary("plan", "front")
    assert "keys backup" not in planned.stderr
    assert "Old version at the locks: 1 not heard of yet" in planned.stdout


async def test_nothing_was_rotated_yet_is_said_and_no_table_is_shown(ostiary):
    listed = await ostiary("list")
    assert listed.stdout == ""
    assert "No keys were rotated yet" in listed.stderr
    assert json.loads((await ostiary("list", "--json")).stdout) == []


async def test_the_status_shows_waves_locks_cards_and_who_holds_it_up(ostiary):
    await ostiary.rig.add_card(CARD)
    rotation = await ostiary.without_one()
    shown = (await ostiary("status", rotation)).stdout
    assert "staging" in shown
    assert "2 staged" in shown
    assert "1 absent" in shown
    assert "it can't be reached" in shown
    assert "1 version 1; 1 behind" in shown
    assert "Lock-outs: 0" in shown
    found = json.loads((await ostiary("status", rotation, "--json")).stdout)
    assert found["locks"]["total"] == 3
    assert found["locks"]["unreachable"] == 1
    assert found["cards"]["some_behind"] == [CARD]
    assert [each["agent"] for each in found["waiting"]] == ["agent-2"]
    assert sum(wave["locks"] for wave in found["locks"]["waves"]) == 3


async def test_what_cannot_be_reached_goes_into_quarantine_after_a_question(ostiary):
    rotation = await ostiary.without_one()
    assert (await ostiary("quarantine", rotation, answer="n\n")).exit_code == 1
    done = await ostiary("quarantine", rotation, answer="y\n")
    assert done.exit_code == 0, done.stderr
    assert "in quarantine" in done.stdout
    await ostiary.rig.until(rotation, "overlap")
    unnamed = await ostiary("quarantine", rotation, "--release")
    assert unnamed.exit_code == 1
    assert "name the agents" in unnamed.stderr
    assert (await ostiary("quarantine", rotation, "agent-2", "--release")).exit_code == 0


async def test_retiring_names_the_cards_that_would_stay_outside_and_asks(ostiary):
    await ostiary.rig.add_card(CARD)
    rotation = await ostiary.overlapping()
    for words in (["--yes"], []):
        refused = await ostiary("retire", rotation, *words)
        assert refused.exit_code == 1
        assert "1 live cards" in refused.stderr
        assert "or retire with --leave-behind" in refused.stderr
        assert "for ever?" not in refused.stderr
    asked = await ostiary("retire", rotation, "--leave-behind", answer="n\n")
    assert CARD in asked.stderr
    assert await ostiary.state(rotation) == "overlap"
    done = await ostiary("retire", rotation, "--leave-behind", "--destroy", "--yes")
    assert done.exit_code == 0, done.stderr
    await ostiary.rig.until(rotation, "completed")
    shown = (await ostiary("status", rotation)).stdout
    assert "completed" in shown
    assert "3 destroyed" in shown


async def test_nothing_is_asked_that_the_state_forbids(ostiary):
    rotation = await ostiary.planned()
    early = await ostiary("retire", rotation)
    assert (early.exit_code, "for ever?" in early.stderr) == (1, False)
    assert "a rotation that is planned can't be retired" in early.stderr
    for words in ([], ["--yes"]):
        nobody = await ostiary("quarantine", rotation, *words)
        assert nobody.exit_code == 0
        assert "Nothing was done: every lock can be reached" in nobody.stderr
    await ostiary("rollback", rotation, "--yes")
    over = await ostiary("quarantine", rotation, "agent-0")
    assert "is rolled_back: it waits for no lock" in over.stderr


async def test_who_may_rotate_but_not_read_is_asked_without_a_look(ostiary):
    rotation = await ostiary.overlapping()
    async with ostiary.site.client() as admin:
        body = {"name": "only-keys", "scopes": ["keys"]}
        token = (await admin.post("/api/v1/tokens", json=body)).json()["token"]
    ostiary.token = token
    asked = await ostiary("retire", rotation, answer="n\n")
    assert "Retire the version it moves from for ever?" in asked.stderr
    done = await ostiary("quarantine", rotation, "agent-0", "--yes")
    assert done.exit_code == 0, done.stderr


async def test_the_status_finds_a_rotation_by_its_domain_or_by_being_under_way(ostiary):
    assert "there is no rotation yet" in (await ostiary("status")).stderr
    first = await ostiary.planned()
    assert first in (await ostiary("status")).stdout
    await ostiary("rollback", first, "--yes")
    assert first in (await ostiary("status")).stdout
    second = await ostiary.planned()
    for words in ([], [ZONE], [second]):
        assert f"Rotation {second}" in (await ostiary("status", *words)).stdout
    assert f"Rotation {first}" in (await ostiary("status", first)).stdout
    unknown = await ostiary("status", "front")
    assert "there is no rotation front, nor one of a domain front" in unknown.stderr


async def test_following_into_a_pipe_says_a_line_at_each_change(ostiary, monkeypatch):
    monkeypatch.setattr(rotation_cli, "FOLLOW_S", 0.05)
    rotation = await ostiary.planned()
    following = asyncio.create_task(ostiary("start", rotation, "--hold", "--follow"))
    await ostiary.rig.until(rotation, "staged")
    await ostiary("pause", rotation)
    shown = (await following).stdout.splitlines()
    lines = [line for line in shown if re.match(r"20..-..-..T..:..:..Z  ", line)]
    assert "paused in staged, 3 of 3 locks with version 2" in lines[-1]
    told = [line.partition("Z  ")[2] for line in lines]
    assert len(told) == len(set(told))


async def test_it_can_be_held_paused_resumed_activated_and_rolled_back(ostiary):
    rotation = await ostiary.planned()
    await ostiary("start", rotation, "--hold")
    await ostiary.rig.until(rotation, "staged")
    await ostiary.rig.looked()
    assert await ostiary.state(rotation) == "staged"
    paused = await ostiary("pause", rotation)
    assert "paused in staged" in paused.stdout
    early = await ostiary("activate", rotation)
    assert early.exit_code == 1
    assert "paused in staged" in early.stderr
    assert (await ostiary("resume", rotation)).exit_code == 0
    assert "overlap" in (await ostiary("activate", rotation)).stdout
    back = await ostiary("rollback", rotation, answer="y\n")
    assert "from version 2 to 1, overlap" in back.stdout


async def test_following_ends_when_the_rotation_does(ostiary):
    rotation = await ostiary.planned()
    await ostiary("start", rotation, "--hold")
    await ostiary("pause", rotation)
    followed = await asyncio.wait_for(ostiary("status", rotation, "--follow"), 20)
    assert followed.exit_code == 0
    assert "paused" in followed.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["start", "00000000"], "no rotation 00000000"),
        (["plan", "nowhere"], "no door is in the key domain nowhere"),
        (["plan", ZONE, "--to", "9"], "no version 9"),
    ],
)
async def test_what_is_not_there_is_said_in_words(ostiary, words, says):
    done = await ostiary(*words)
    assert done.exit_code == 1
    assert says in done.stderr


async def test_only_who_may_rotate_keys_can(ostiary):
    async with ostiary.site.client() as admin:
        made = {}
        for scope in ("read", "operate", "keys"):
            body = {"name": f"only-{scope}", "scopes": [scope]}
            made[scope] = (await admin.post("/api/v1/tokens", json=body)).json()["token"]
    for scope, status in (("read", 403), ("operate", 403), ("keys", 201)):
        async with ostiary.site.client(token=made[scope]) as client:
            answer = await client.post("/api/v1/rotations", json={"domain": ZONE})
            assert answer.status_code == status, answer.text
    async with ostiary.site.client(token=None) as nobody:
        assert (await nobody.get("/api/v1/rotations")).status_code == 401
    async with ostiary.site.client(token=made["read"]) as reader:
        (shown,) = (await reader.get("/api/v1/rotations")).json()["items"]
        assert (await reader.get(f"/api/v1/rotations/{shown['id']}")).status_code == 200


@pytest.mark.parametrize("body", [{}, {"domain": "Zone A"}, {"domain": ZONE, "overlap_days": 0}])
async def test_a_plan_of_another_form_is_refused(ostiary, body):
    async with ostiary.site.client() as client:
        answer = await client.post("/api/v1/rotations", json=body)
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
