"""Child processes of the demo: started together, and none left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

READY_S = 30.0
POLL_S = 0.1
STOP_S = 8.0
PORTS = range(20000, 32768)
BIN = Path(sys.executable).parent


class ProcessFailed(Exception):
    """A child ended badly; the message holds the end of what it printed."""


def command(name: str, *arguments: str | Path) -> list[str]:
    """One of this installation's own commands, wherever PATH points."""
    return [str(BIN / name), *map(str, arguments)]


async def run(arguments: Sequence[str]) -> str:
    """Run to the end and return its standard output. Raises ProcessFailed."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        await _stop(process)
        raise
    if process.returncode:
        name = " ".join(Path(a).name for a in arguments[:3])
        tail = (err or out).decode(errors="replace")[-2000:]
        raise ProcessFailed(f"{name} ended with {process.returncode}:\n{tail}")
    return out.decode()


@dataclass
class Child:
    """A process that stays up, its output going to `log`."""

    name: str
    arguments: list[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start in a session of its own, so that Ctrl-C reaches the demo alone."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
            )

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough."""
        if self.process is not None:
            await _stop(self.process)

    async def kill(self) -> None:
        """SIGKILL, as a power cut would: for fault tests."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def ended_well(self, within_s: float) -> None:
        """Wait for the process to end by itself. Raises ProcessFailed unless it does so with 0."""
        assert self.process is not None
        try:
            await asyncio.wait_for(self.process.wait(), within_s)
        except TimeoutError:
            raise self.failed(f"did not end within {within_s:.0f} s") from None
        if self.process.returncode:
            raise self.failed(f"ended with {self.process.returncode}")

    def check(self) -> None:
        """Raise ProcessFailed if the process is no longer running."""
        if self.process is not None and self.process.returncode is not None:
            raise self.failed(f"ended with {self.process.returncode}")

    def failed(self, how: str) -> ProcessFailed:
        """What to raise: how it failed, and the end of what it printed."""
        tail = self.log.read_text(errors="replace")[-2000:]
        return ProcessFailed(f"{self.name} {how}:\n{tail}")


def whole_lines(log: Path) -> list[str]:
    """The lines of a log that may be written to meanwhile: a reader can see half of a write."""
    return log.read_text(errors="replace").split("\n")[:-1]


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def until(child: Child, ready: Callable[[], Awaitable[bool]]) -> None:
    """Return when `ready()` says so. Raises ProcessFailed if the child ends first, or never is."""
    try:
        async with asyncio.timeout(READY_S):
            while not await ready():
                child.check()
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise child.failed(f"was not ready within {READY_S:.0f} s") from None


def free_port() -> int:
    """A loopback port that nothing listens on now, and that no connection is given meanwhile.

    Systems give connections a port above `PORTS`: one of theirs may be taken before it is used, or
    while what listens there is started again.
    """
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


async def listens(port: int) -> bool:
    """Whether something takes connections on this loopback port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def stop_all(children: Sequence[Child]) -> None:
    """Stop in reverse order of starting: doors before the server, the server before the broker."""
    for child in reversed(children):
        await child.stop()
