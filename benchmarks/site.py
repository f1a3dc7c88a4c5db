"""A broker and a server of this installation, real and separate, for one measurement."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from benchmarks.load import SITE, Load

BIN = Path(sys.executable).parent
MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 100
user root
log_type none
"""


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a process that this run started."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    await process.wait()


@contextlib.asynccontextmanager
async def mosquitto(folder: Path) -> AsyncIterator[int]:
    """A mosquitto on a free port."""
    program = shutil.which(
        "mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/opt/homebrew/sbin"
    )
    if program is None:
        raise SystemExit("mosquitto is not installed: install it to run this benchmark")
    port = free_port()
    configuration = folder / "mosquitto.conf"
    configuration.write_text(MOSQUITTO.format(port=port))
    process = await asyncio.create_subprocess_exec(program, "-c", str(configuration))
    try:
        await _listening(port)
        yield port
    finally:
        await stop(process)


async def _listening(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise SystemExit(f"nothing listens on port {port}")


async def ostiary(*arguments: str) -> None:
    """Run one `ostiary` command to its end."""
    process = await asyncio.create_subprocess_exec(
        str(BIN / "ostiary"), *arguments, stdout=asyncio.subprocess.DEVNULL
    )
    if await process.wait():
        raise SystemExit(f"ostiary {' '.join(arguments[:2])} failed")


@contextlib.asynccontextmanager
async def server(folder: Path, load: Load, broker_port: int) -> AsyncIterator[Path]:
    """A new site with the load's agents, served; yields the path of its store."""
    site = folder / "site"
    name = load.identities[0]["suite"]
    await ostiary("init", "--site", SITE, "--suite", name, "--dir", str(site))
    for identity in load.identities:
        path = folder / f"{identity['agent']}.json"
        path.write_text(json.dumps(identity))
        await ostiary("agents", "add", str(path), "--yes", "--site-dir", str(site))
    port = free_port()
    broker = f"mqtt://127.0.0.1:{broker_port}"
    log = (folder / "server.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        str(BIN / "ostiary"),
        *("serve", "--site-dir", str(site), "--port", str(port), "--broker", broker),
        stdout=log,
        stderr=log,
    )
    try:
        await _listening(port)
        await asyncio.sleep(1)  # the subscription follows the API's start
        yield site / "ostiary.db"
    finally:
        await stop(process)
        log.close()


@contextlib.contextmanager
def reading(store: Path) -> Iterator[sqlite3.Connection]:
    """The store, read beside the running server."""
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


async def committed(store: Path, events: int, limit_s: float) -> None:
    """Return when the store holds `events` events of agents."""
    deadline = time.monotonic() + limit_s
    while True:
        with reading(store) as database:
            (count,) = database.execute(
                "select count(*) from events where source != 'server'"
            ).fetchone()
        if count >= events:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"only {count} of {events} events were committed in {limit_s} s")
        await asyncio.sleep(0.2)
