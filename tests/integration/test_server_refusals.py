"""What the `ostiary` commands say when they can't do what is asked: one line, and a next step."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from server.broker.builtin import BrokerUnavailable, insecure_broker
from server.cli.root import app
from server.site import SiteError, only_server, open_site
from tests.agent_pen import SITE


def ostiary(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def said(result: Result) -> str:
    """The refusal; a traceback would be an exception other than the exit."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    return result.stderr


@pytest.fixture(autouse=True)
def _log_no_further() -> Iterator[None]:
    """`serve` sends the log to the runner's standard error, which is closed afterwards."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def site_dir(tmp_path: Path) -> str:
    path = tmp_path / "site"
    assert ostiary("init", "--site", SITE, "--suite", "intl", "--dir", str(path)).exit_code == 0
    return str(path)


def test_a_broker_port_in_use_is_named(site_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = ostiary("serve", "-d", site_dir, "--port", "0", "--broker-port", port)
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in said(result)
    assert "choose another port" in result.stderr


async def test_a_broker_of_its_own_says_so_too():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(BrokerUnavailable, match="in use"),
    ):
        async with insecure_broker(taken.getsockname()[1]):
            pass


@pytest.mark.parametrize("command", [("events", "verify"), ("serve", "--port", "0")])
def test_a_database_that_is_none_is_named(site_dir, command):
    Path(site_dir, "ostiary.db").write_bytes(b"not a database, but long enough to be one" * 9)
    result = ostiary(*command, "-d", site_dir)
    assert "ostiary.db can't be opened: file is not a database" in said(result)
    assert "restore it from a backup" in result.stderr


def test_serve_makes_no_empty_database_in_the_place_of_a_lost_one(site_dir):
    Path(site_dir, "ostiary.db").unlink()
    assert "ostiary.db is missing" in said(ostiary("serve", "-d", site_dir, "--port", "0"))
    assert not Path(site_dir, "ostiary.db").exists()


def test_a_password_in_the_database_url_is_not_shown(site_dir):
    Path(site_dir, "server.toml").write_text(
        'database = "sqlite+aiosqlite://user:hunter2@host/none.db"'
    )
    assert "hunter2" not in said(ostiary("events", "verify", "-d", site_dir))


def test_a_lock_that_can_not_be_made_is_a_refusal(site_dir):
    Path(site_dir, "serve.lock").mkdir()
    with (
        pytest.raises(SiteError, match=r"serve\.lock: Is a directory"),
        only_server(Path(site_dir)),
    ):
        pass


def test_a_root_document_that_can_not_be_read_is_a_refusal(site_dir):
    root = Path(site_dir, "root.json")
    root.unlink()
    root.mkdir()
    with pytest.raises(SiteError, match=r"root\.json: Is a directory"):
        open_site(Path(site_dir))


def test_an_unknown_event_type_is_refused_and_the_known_ones_named(site_dir):
    refusal = said(ostiary("events", "tail", "--no-follow", "--type", "access.foo", "-d", site_dir))
    assert "access.denied" in refusal


def test_a_broker_address_that_is_none_is_explained(site_dir):
    assert "nor mqtts://host:port" in said(
        ostiary("serve", "-d", site_dir, "--broker", "localhost")
    )
