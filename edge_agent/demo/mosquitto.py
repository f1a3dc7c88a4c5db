"""mosquitto, alone in a process, for a demo or a measurement."""

from __future__ import annotations

import getpass
import shutil
from pathlib import Path

from edge_agent.demo.processes import ProcessFailed, command, run

_PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin:/opt/homebrew/sbin"
_CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 100
user root
log_type error
"""


async def guarded_mosquitto(site: Path, port: int) -> list[str]:
    """What starts it as `ostiary broker config mosquitto` sets it up: certificates and rights.

    Raises ProcessFailed.
    """
    program = _program()
    await run(
        command(
            *("ostiary", "broker", "config", "mosquitto", "--site-dir", site),
            *("--port", str(port), "--user", getpass.getuser()),
        )
    )
    return [program, "-c", str(site / "mosquitto" / "mosquitto.conf")]


def open_mosquitto(folder: Path, port: int) -> list[str]:
    """What starts it on loopback for whoever is there: to measure without TLS.

    Raises ProcessFailed.
    """
    configuration = folder / "mosquitto.conf"
    configuration.write_text(_CONFIGURATION.format(port=port))
    return [_program(), "-c", str(configuration)]


def _program() -> str:
    program = shutil.which("mosquitto", path=_PLACES)
    if program is None:
        raise ProcessFailed("mosquitto is not installed; on Debian: apt-get install mosquitto")
    return program
