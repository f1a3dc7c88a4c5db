"""`ostiary broker` sets up, judges and tries brokers, and refuses what is unsafe with a reason."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from edge_agent.demo.processes import free_port
from server.broker.bare import PATIENCE_S
from server.cli.root import app
from tests.broker import until_said
from tests.system import require_program

SITE = "demo"


def ostiary(*arguments: str):
    return CliRunner().invoke(app, [*arguments], catch_exceptions=False)


@pytest.fixture
def site_dir(tmp_path: Path) -> str:
    path = tmp_path / "site"
    assert ostiary("init", "--site", SITE, "--suite", "intl", "--dir", str(path)).exit_code == 0
    return str(path)


def plugin(tmp_path: Path) -> str:
    file = tmp_path / "mosquitto_dynamic_security.so"
    file.touch()
    return str(file)


def test_a_mosquitto_is_set_up_with_keys_for_its_owner_alone(site_dir, tmp_path):
    out = tmp_path / "mosquitto"
    result = ostiary(
        *("broker", "config", "mosquitto", "-d", site_dir, "--out", str(out)),
        *("--listen", "0.0.0.0", "--host", "broker.example", "--plugin", plugin(tmp_path)),
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(out / "mosquitto.conf")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in out.iterdir()}
    assert modes == {
        "mosquitto.conf": 0o644,
        "authorities.pem": 0o644,
        "broker.pem": 0o644,
        "broker.key": 0o600,
        "rights.json": 0o600,
    }
    names = x509.load_pem_x509_certificate((out / "broker.pem").read_bytes()).extensions
    reached = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "broker.example" in reached.get_values_for_type(x509.DNSName)
    assert ostiary("broker", "config", "audit", str(out / "mosquitto.conf")).exit_code == 0


def test_a_configuration_that_was_loosened_is_refused_with_a_reason(site_dir, tmp_path):
    out = tmp_path / "mosquitto"
    ostiary(
        *("broker", "config", "mosquitto", "-d", site_dir, "--out", str(out)),
        *("--plugin", plugin(tmp_path)),
    )
    file = out / "mosquitto.conf"
    file.write_text(file.read_text().replace("require_certificate true", ""))
    (out / "broker.key").chmod(0o644)
    result = ostiary("broker", "config", "audit", str(file))
    assert result.exit_code == 1
    assert "anyone may connect" in result.stderr
    assert "chmod 600" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--listen", "0.0.0.0", "--insecure-loopback"), "only loopback is served"),
        (("--listen", "broker.example"), "a name goes with --host"),
        (("--crl",), "crl.pem"),
    ],
)
def test_what_would_be_unsafe_is_not_written(site_dir, tmp_path, arguments, why):
    out = tmp_path / "mosquitto"
    result = ostiary(
        *("broker", "config", "mosquitto", "-d", site_dir, "--out", str(out), *arguments),
        *("--plugin", plugin(tmp_path)),
    )
    assert result.exit_code == 1
    assert why in result.stderr
    assert not out.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")
def test_a_place_that_mosquitto_could_not_get_into_is_refused(site_dir, tmp_path):
    (tmp_path / "private").mkdir(mode=0o700)
    out = tmp_path / "private" / "mosquitto"
    result = ostiary(
        *("broker", "config", "mosquitto", "-d", site_dir, "--out", str(out)),
        *("--plugin", plugin(tmp_path), "--user", "nobody"),
    )
    assert result.exit_code == 1
    assert "name another place" in result.stderr
    assert not out.exists()


def test_the_builtin_broker_is_not_run_without_tls_beyond_loopback():
    result = ostiary("broker", "run", "--listen", "0.0.0.0", "--insecure-loopback")
    assert result.exit_code == 1
    assert "may do everything" in result.stderr


def test_a_plain_broker_is_not_checked_but_called_what_it_is(site_dir):
    result = ostiary("broker", "check", "-d", site_dir, "--broker", "mqtt://127.0.0.1:1883")
    assert result.exit_code == 1
    assert "may do everything" in result.stderr


def test_a_check_of_a_broker_that_is_not_there_names_it(site_dir):
    port = free_port()
    result = ostiary("broker", "check", "-d", site_dir, "--broker", f"mqtts://127.0.0.1:{port}")
    assert result.exit_code == 1
    assert f"127.0.0.1:{port}" in result.stderr


@contextmanager
def process(*command: str, log: Path, ready: str) -> Iterator[None]:
    """A process while the block runs, which begins once it has said that."""
    with log.open("wb") as file:
        running = subprocess.Popen(command, stderr=file)
    try:
        until_said(ready, running, log)
        yield
    finally:
        running.terminate()
        running.wait()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not asked how fast a broker is."""
    monkeypatch.setattr("server.broker.attempts.CUT_OFF_S", PATIENCE_S)


def checked(site_dir: str, url: str, *more: str) -> list[dict[str, object]]:
    result = ostiary("broker", "check", "-d", site_dir, "--broker", url, "--json", *more)
    assert result.exit_code == 0, result.stderr
    findings: list[dict[str, object]] = json.loads(result.stdout)
    return findings


@pytest.mark.system
@pytest.mark.usefixtures("patient")
def test_a_mosquitto_as_it_was_set_up_passes_the_check(site_dir, tmp_path):
    port = free_port()
    result = ostiary(
        *("broker", "config", "mosquitto", "-d", site_dir, "--port", str(port), "--user", "root")
    )
    program = require_program("mosquitto", "mosquitto")
    command = (program, "-c", result.stdout.strip())
    with process(*command, log=tmp_path / "log", ready=" running"):
        findings = checked(site_dir, f"mqtts://127.0.0.1:{port}")
    assert all(finding["ok"] for finding in findings)
    assert {"attempt", "expected", "seen", "ok"} == findings[0].keys()


@pytest.mark.usefixtures("patient")
def test_the_builtin_broker_alone_passes_the_check(site_dir, tmp_path, monkeypatch):
    port = free_port()
    monkeypatch.setenv("OSTIARY_BROKER_RIGHTS", "file")
    command = (sys.executable, "-c", "from server.cli import main; main()", "broker", "run")
    command += ("-d", site_dir, "--port", str(port))
    with process(*command, log=tmp_path / "log", ready="Broker: mqtts://"):
        findings = checked(site_dir, f"mqtts://127.0.0.1:{port}")
    assert all(finding["ok"] for finding in findings)
