"""A real mosquitto on a free loopback port, that a test can kill and start again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.demo.processes import free_port
from tests.system import require_program

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


class Mosquitto:
    """One broker process at a time, always on the same port."""

    def __init__(self, directory: Path) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self._configuration = directory / "mosquitto.conf"
        self._configuration.write_text(CONFIGURATION.format(port=self.port))
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Return once it listens."""
        program = require_program("mosquitto", "mosquitto")
        self._process = subprocess.Popen(
            [program, "-c", str(self._configuration)], stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        seen = []
        for line in self._process.stderr:
            seen.append(line)
            if " running" in line:
                return
        raise AssertionError("mosquitto did not start: " + "".join(seen))

    def kill(self) -> None:
        """As a power cut would: no goodbye to anyone, nothing kept."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running broker, killed when the test ends. Tests that use it are `system` tests."""
    directory = tmp_path / "mosquitto"
    directory.mkdir()
    broker = Mosquitto(directory)
    broker.start()
    yield broker
    broker.kill()
