"""mosquitto, alone in a process."""

from __future__ import annotations

import getpass
import shutil
from pathlib import Path

from edge_agent.demo.processes import ProcessFailed, command, run

_PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin:/opt/homebrew/sbin"


async def guarded_mosquitto(site: Path, port: int) -> list[str]:
    """What starts it as `ostiary broker config mosquitto` sets it up: certificates and rights.

    Raises ProcessFailed.
    """
    program = mosquitto_program()
    await run(
        command(
            *("ostiary", "broker", "config", "mosquitto", "--site-dir", site),
            *("--port", str(port), "--user", getpass.getuser()),
        )
    )
    return [program, "-c", str(site / "mosquitto" / "mosquitto.conf")]


def mosquitto_program() -> str:
    """Where it is. Raises ProcessFailed."""
    program = shutil.which("mosquitto", path=_PLACES)
    if program is None:
        raise ProcessFailed("mosquitto is not installed; on Debian: apt-get install mosquitto")
    return program
