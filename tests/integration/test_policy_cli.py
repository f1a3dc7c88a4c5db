"""`ostiary policy` against a server that answers over a socket."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from schemas.envelope import open_envelope
from server.cli.root import app
from server.distribution.compiling import POLICY_TYPE
from server.distribution.drafts import WHOLE
from server.ingest.receipts import Applied
from tests.model_rig import HandClock, ModelRig
from tests.sample_site import LOCAL_TOKEN, open_site, serving
from tests.site_keys import SiteKeys

AGENT = "front-agent"


@pytest.fixture
async def ostiary(tmp_path):
    """Runs `ostiary policy` where one agent has a policy, and confirmed the one before it."""
    async with open_site(tmp_path / "ostiary.db") as site:
        with ThreadPoolExecutor(1) as executor:
            rig = ModelRig(site.engine, SiteKeys(), HandClock(), executor)
            policies = rig.policies()
            await rig.apply({"doors": {"front": {"agent": AGENT}}})
            compiler = rig.compiler()
            await compiler.make(AGENT, WHOLE, applied=None, above=107)
            receipts = {AGENT: Applied(AGENT, policy=107)}
            site.state.policies = policies
            site.state.convergence = SimpleNamespace(applied=lambda: receipts)
            async with serving(site) as url:
                environ = {"OSTIARY_URL": url, "OSTIARY_TOKEN": LOCAL_TOKEN, "COLUMNS": "200"}

                async def run(*words):
                    return await asyncio.to_thread(
                        CliRunner().invoke, app, ["policy", *words], env=environ
                    )

                run.rig, run.policies, run.site = rig, policies, site
                yield run


async def test_newest_and_applied_versions_stand_side_by_side(ostiary):
    shown = await ostiary("status")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.splitlines()[1].split()[:4] == [AGENT, "108", "107", "0"]
    (item,) = json.loads((await ostiary("status", "--json")).stdout)
    assert item["hash"] == (await ostiary.rig.stored(AGENT)).hash


async def test_a_policy_that_could_not_be_made_is_told_with_its_reason(ostiary):
    ostiary.policies.failures["back-agent"] = "too many cards"
    shown = await ostiary("status", "--json")
    assert shown.exit_code == 3
    back, front = json.loads(shown.stdout)
    assert (back["agent"], back["version"], back["failure"]) == (
        "back-agent",
        None,
        "too many cards",
    )
    assert front["failure"] is None


async def test_a_policy_is_shown_plainly_or_as_it_was_signed(ostiary):
    plain = json.loads((await ostiary("show", AGENT)).stdout)
    assert (plain["audience"], plain["counter"], list(plain["doors"])) == (AGENT, 108, ["front"])
    signed = (await ostiary("show", AGENT, "--envelope")).stdout.encode()
    opened = open_envelope(signed, ostiary.rig.root.key_ring(), POLICY_TYPE)
    assert json.loads(opened.payload) == plain


async def test_an_agent_without_a_policy_is_an_error(ostiary):
    shown = await ostiary("show", "attic-agent")
    assert shown.exit_code == 1
    assert "attic-agent" in shown.stderr


async def test_policies_are_read_with_a_token_alone(ostiary):
    async with ostiary.site.client(token=None) as client:
        for path in ("/api/v1/policies", f"/api/v1/policies/{AGENT}"):
            assert (await client.get(path)).status_code == 401
