"""What `ostiary-agent` commands say to whoever types them."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_agent.app import opened
from edge_agent.cli import app
from edge_agent.config import load_config
from server.site import create_site

CONFIG = """\
site = "hq"
agent = "front-agent"
state_dir = "state"
root = "root.json"

[[doors]]
door = "front"
io = { kind = "virtual" }
readers = [{ direction = "in", kind = "virtual" }]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    site = create_site(tmp_path / "site", "hq", "intl", os.urandom, {})
    door = tmp_path / "door"
    door.mkdir()
    (door / "root.json").write_bytes((site.path / "root.json").read_bytes())
    (door / "agent.toml").write_text(CONFIG)
    return door / "agent.toml"


def agent(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said(result: Result) -> str:
    """The refusal; a traceback would be an exception other than the exit."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    return result.stderr


def test_the_identity_is_made_once_and_is_what_the_server_asks_for(config):
    first = agent("identity", "--config", config)
    assert first.exit_code == 0
    assert json.loads(first.stdout).keys() == {"agent", "suite", "public_key", "keyid"}
    assert agent("identity", "--config", config).stdout == first.stdout


def test_a_root_document_that_is_none_is_refused_in_one_line(config):
    config.with_name("root.json").write_text("{}")
    refusal = said(agent("check-config", "--config", config))
    assert "is not a root document" in refusal
    assert "copy root.json" in refusal
    assert refusal.count("\n") == 1


def test_a_changed_identity_names_the_file_and_what_to_do(config):
    assert agent("identity", "--config", config).exit_code == 0
    config.with_name("state").joinpath("identity.sealed").write_bytes(b"changed")
    refusal = said(agent("identity", "--config", config))
    assert "identity.sealed" in refusal
    assert "another agent name" in refusal


def test_a_state_directory_that_is_a_file_is_named(config):
    config.with_name("state").write_text("")
    refusal = said(agent("run", "--config", config))
    assert "state: File exists; something else has this name" in refusal


def test_status_before_the_first_run_says_that_there_was_none(config):
    assert "has never run" in said(agent("status", "--config", config))


def test_status_says_what_the_doors_go_by(config):
    asyncio.run(_let_it_hear(config))
    status = json.loads(agent("status", "--json", "--config", config).stdout)
    assert status["root_version"] == 1
    assert status["policy_version"] is None
    assert status["revocation"] == status["lockdown"] == status["command"] == 0
    assert status["heartbeat_age_s"] is None
    assert status["session"] is None, "it does not run"
    assert status["certificate_until"] is None
    shown = agent("status", "--config", config).stdout
    assert "heartbeat age" in shown


async def _let_it_hear(config):
    async with opened(load_config(config, {})):
        pass


def test_a_door_without_a_certificate_is_told_to_enrol(config):
    assert "ostiary-agent enrol" in said(agent("run", "--config", config))


def test_the_version_is_that_of_the_package():
    result = agent("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("ostiary-agent 0.")
