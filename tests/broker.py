"""A real mosquitto on a free loopback port, that a test can kill and start again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.demo.processes import free_port
from server.broker.mosquitto import MosquittoSettings, find_plugin, write_configuration
from server.pki import Authority
from tests.system import require_program

PATIENCE_S = 30.0
CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 100000
connection_messages false
log_dest stderr
log_type error
log_type warning
log_type notice
log_type information
user root
"""


def until_said(what: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the process has written that to its log."""
    ends_s = time.monotonic() + PATIENCE_S
    while what not in (said := log.read_text(errors="replace")):
        assert process.poll() is None, f"it ended: {said}"
        assert time.monotonic() < ends_s, f"it did not say {what!r}: {said}"
        time.sleep(0.01)  # another process writes a file: nothing tells us


class Mosquitto:
    """One broker process at a time, always on the same port: anyone may connect and do all."""

    def __init__(self, directory: Path) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self._directory = directory
        self._configuration = directory / "mosquitto.conf"
        self._process: subprocess.Popen[str] | None = None

    def configure(self) -> None:
        self._configuration.write_text(CONFIGURATION.format(port=self.port))

    def start(self) -> None:
        """Return once it listens."""
        program = require_program("mosquitto", "mosquitto")
        if not self._configuration.exists():
            self.configure()
        log = self._directory / "log"
        with log.open("wb") as file:
            self._process = subprocess.Popen([program, "-c", str(self._configuration)], stderr=file)
        until_said(" running", self._process, log)

    def kill(self) -> None:
        """As a power cut would: no goodbye to anyone, nothing kept."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class TlsMosquitto(Mosquitto):
    """mosquitto as `ostiary broker config mosquitto` sets it up; rights outlive a restart."""

    def __init__(self, directory: Path, site: str, authority: Authority) -> None:
        super().__init__(directory)
        self.site = site
        self._issuer = authority

    def file(self, name: str) -> Path:
        """One of those that it was set up with."""
        return self._directory / name

    def configure(self) -> None:
        settings = MosquittoSettings(
            site=self.site,
            directory=self._directory,
            plugin=find_plugin(),
            port=self.port,
            user="root",
        )
        write_configuration(settings, self._issuer, [], datetime.now(UTC))


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running broker, killed when the test ends. Tests that use it are `system` tests."""
    directory = tmp_path / "mosquitto"
    directory.mkdir()
    broker = Mosquitto(directory)
    broker.start()
    yield broker
    broker.kill()
