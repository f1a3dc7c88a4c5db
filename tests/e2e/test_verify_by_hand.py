"""docs/verify-an-event.md is run, command by command, as a third party would.

It accepts what an agent signed, in both suites, from a store through `ostiary events proof`; and it
refuses the same with one bit changed in any of the files.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest
from typer.testing import CliRunner

from schemas.envelope import open_envelope
from schemas.suites import SuiteName, spki
from server.cli.root import app
from server.clock import microseconds
from server.site import open_site
from tests.agent_pen import EVENTS_TYPE, MOMENT, SITE, Pen
from tests.server_rig import register
from tests.system import require_program

PAGE = Path(__file__).parents[2] / "docs" / "verify-an-event.md"
FILES = ("line", "payload.bin", "pae.bin", "signature.der", "public_key.pem", "envelope.json")
MESSAGES = ((1, 1), (2, 4), (5, 5))
"""Sequences under one signature each: live, a backlog, live."""
EACH_SUITE = pytest.mark.parametrize("name", ["gm", "intl"])

pytestmark = pytest.mark.system


def blocks(text: str, suite_name: str) -> list[str]:
    """The page's shell blocks for one suite, in order."""
    found = re.findall(r"^```sh *(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert {label for label, _ in found} == {"", "gm", "intl"}
    return [code for label, code in found if label in ("", suite_name)]


def run_page(folder: Path, suite_name: str) -> subprocess.CompletedProcess[str]:
    for program, package in (("openssl", "openssl"), ("bash", "bash"), ("cmp", "diffutils")):
        require_program(program, package)
    commands = blocks(PAGE.read_text(), suite_name)
    script = "\n".join(["set -euo pipefail", *commands, "echo ALL HELD"])
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )


def ostiary(*arguments: str) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output


def store(site: Path, pen: Pen) -> None:
    """Put the pen's messages into the site's store, as ingest does."""
    with sqlite3.connect(site / "ostiary.db") as database:
        database.execute(
            "INSERT INTO chains (source, chain, first_seen_us, sequence, hash)"
            " VALUES (?, ?, ?, ?, ?)",
            (pen.agent, pen.head.chain, microseconds(MOMENT), pen.head.sequence, pen.head.hash),
        )
        for first, last in MESSAGES:
            opened = open_envelope(pen.message(first, last), pen.ring, EVENTS_TYPE)
            for sequence in range(first, last + 1):
                event = json.loads(pen.lines[sequence - 1])
                signed = sequence == last
                row = {
                    "source": pen.agent,
                    "chain": pen.head.chain,
                    "sequence": sequence,
                    "line": pen.lines[sequence - 1],
                    "type": event["type"],
                    "subject": event["subject"],
                    "time_us": microseconds(MOMENT),
                    "recorded_us": microseconds(MOMENT),
                    "signed_from": first if signed else None,
                    "keyid": opened.keyid if signed else None,
                    "signature": opened.signature if signed else None,
                }
                names = ", ".join(row)
                database.execute(
                    f"INSERT INTO events ({names}) VALUES ({', '.join('?' * len(row))})",
                    tuple(row.values()),
                )
    database.close()


def proofs(folder: Path, name: SuiteName, sequence: int) -> Path:
    """A folder with `proof` of the event and `previous` of the one before, made by the command."""
    site, pen = folder / "site", Pen(suite_name=name)
    pen.write_many(3)
    # members of the data that look like what the page's commands search for
    pen.write(data={"prevhash": "f" * 64, "detail": '"prevhash":"' + "e" * 64 + '" 门\\'})
    pen.write()
    ostiary("init", "--site", SITE, "--suite", name, "--dir", str(site))
    asyncio.run(register(open_site(site), pen))
    store(site, pen)
    for number, out in ((sequence, "proof"), (sequence - 1, "previous")):
        event_id = f"{pen.head.chain}-{number}"
        ostiary("events", "proof", event_id, "--out", str(folder / out), "-d", str(site))
    return folder


@EACH_SUITE
@pytest.mark.parametrize("sequence", [2, 3, 4, 5])
def test_the_pages_commands_accept_what_a_door_signed(tmp_path, name, sequence):
    verdict = run_page(proofs(tmp_path, name, sequence), name)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert "ALL HELD" in verdict.stdout
    assert ("Verified OK" in verdict.stdout) or ("Verified Successfully" in verdict.stdout)
    assert Pen(suite_name=name).signer.keyid in verdict.stdout


def places(file: Path) -> list[int]:
    """Bytes to flip a bit of: all over a binary file, inside the values of a text."""
    data = file.read_bytes()
    if file.name == "public_key.pem":
        return [data.index(b"\n") + 40, data.index(b"\n") + 70]
    if file.name == "envelope.json":
        return [
            data.index(f'"{member}":"'.encode()) + len(member) + 4 + 6
            for member in ("payloadType", "payload", "keyid", "sig")
        ]
    return [0, len(data) // 3, len(data) // 2, len(data) - 1]


@EACH_SUITE
@pytest.mark.parametrize("file", FILES)
def test_one_changed_bit_anywhere_makes_the_pages_commands_fail(tmp_path, name, file):
    target = proofs(tmp_path, name, 3) / "proof" / file
    good = target.read_bytes()
    for place in places(target):
        changed = bytearray(good)
        changed[place] ^= 1
        target.write_bytes(bytes(changed))
        verdict = run_page(tmp_path, name)
        assert verdict.returncode != 0, f"{file} with bit 0 of byte {place} changed was accepted"
        assert "ALL HELD" not in verdict.stdout
    target.write_bytes(good)
    assert run_page(tmp_path, name).returncode == 0


@EACH_SUITE
def test_another_event_before_it_makes_the_pages_commands_fail(tmp_path, name):
    folder = proofs(tmp_path, name, 3)
    (folder / "previous" / "line").write_bytes(Pen(suite_name=name).write(data={"another": "past"}))
    assert run_page(folder, name).returncode != 0


@EACH_SUITE
def test_another_line_than_the_messages_makes_the_pages_commands_fail(tmp_path, name):
    folder = proofs(tmp_path, name, 3)
    line = folder / "proof" / "line"
    line.write_bytes(line.read_bytes()[:-1])
    assert run_page(folder, name).returncode != 0


@EACH_SUITE
def test_the_key_of_another_door_makes_the_pages_commands_fail(tmp_path, name):
    folder = proofs(tmp_path, name, 3)
    other = Pen("back", suite_name=name)
    body = b64encode(spki(other.signer.key.public)).decode()
    pem = f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"
    (folder / "proof" / "public_key.pem").write_text(pem)
    assert run_page(folder, name).returncode != 0
