"""mosquitto, alone in a process, for a demo or a measurement."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge_agent.demo.processes import ProcessFailed

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


def mosquitto_command(folder: Path, port: int) -> list[str]:
    """What starts it on a loopback port, configured in `folder`. Raises ProcessFailed."""
    program = shutil.which("mosquitto", path=_PLACES)
    if program is None:
        raise ProcessFailed("mosquitto is not installed; on Debian: apt-get install mosquitto")
    configuration = folder / "mosquitto.conf"
    configuration.write_text(_CONFIGURATION.format(port=port))
    return [program, "-c", str(configuration)]
