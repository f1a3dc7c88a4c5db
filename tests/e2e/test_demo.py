"""The demo as a newcomer runs it, judged by the JSON it prints last."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.demo.cast import CAST, LEAVERS, NEWCOMER, REGULARS
from edge_agent.demo.processes import command, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("suite", ["gm", "intl"])
async def test_the_demo_loses_nothing_and_denies_the_copied_card_every_time(suite: str) -> None:
    printed = await run(
        command(
            *("ostiary-demo", "--suite", suite, "--doors", "2", "--taps", "30"),
            *("--pause", "0.1", "--port", "0", "--exit", "--json"),
        )
    )
    figures = json.loads(printed.splitlines()[-1])
    assert figures["suite"] == suite
    # Who did not come by since the new keys were in force is asked to tap once more.
    assert 30 <= figures["taps"] <= 30 + len(REGULARS)
    assert figures["granted"] + sum(figures["denied"].values()) == figures["taps"]
    assert figures["lost"] == figures["duplicated"] == 0
    assert figures["events_verified"] == figures["events_committed"] > 30
    assert figures["copied_card"]["taps"] == figures["copied_card"]["denied"] > 0
    for reason in ("unknown_card", "card_auth_failed", "card_revoked", "outside_schedule"):
        assert figures["denied"][reason] > 0
    assert figures["tap_to_strike_ms"]["p99"] > 0
    assert figures["event_to_commit_ms"]["p99"] > 0
    assert figures["revocations"] == len(LEAVERS)
    assert figures["revocation_ms"]["p99"] > 0
    holders = [person for person in CAST if person.bound and person.copies is None]
    assert figures["bound"] == len(holders) + len([NEWCOMER])
    assert figures["rekeyed"] >= len(REGULARS)
    assert figures["rotation_state"] == "completed"
    assert figures["lockouts_during_rotation"] == 0


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """pytest's own folders are too deep for the path of a Unix socket (107 bytes)."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        yield Path(folder)


async def test_ctrl_c_ends_the_demo_and_leaves_nothing_behind(short_folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command("ostiary-demo", "--doors", "1", "--port", "0", "--pause", "0.1"),
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(short_folder)},
        start_new_session=True,
        # a shell's background jobs ignore Ctrl-C, and so would all that is started from one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    printed = b""
    while b"Live page" not in printed:
        line = await process.stderr.readline()
        assert line, f"the demo ended early: {printed.decode()}"
        printed += line
    process.send_signal(signal.SIGINT)
    rest = await process.stderr.read()
    assert await process.wait() == 0
    assert b"Nothing is left running" in rest
    assert not os.listdir(short_folder)
    assert not _processes_naming(str(short_folder))


def _processes_naming(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(text in word for word in words):
            found.append(" ".join(words))
    return found
