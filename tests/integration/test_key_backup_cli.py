"""`ostiary keys backup` and `restore`: what they refuse, and shares on a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import secrets
import subprocess
import sys
import warnings

import pytest
from typer.testing import CliRunner

from server.cli import key_backup
from server.cli.root import app
from server.site import create_site
from server.store.database import open_database

END = b"\x04"
"""Ctrl-D: a Ctrl-C that comes just before a program begins to read is seen after the next line."""


@pytest.fixture
def site(tmp_path):
    made = create_site(tmp_path / "site", "demo", "intl", secrets.token_bytes, {})

    async def make():
        await (await open_database(made.database)).dispose()

    asyncio.run(make())
    return made.path


@pytest.fixture
def keys(site):
    def run(*words, code=0, **options):
        result = CliRunner().invoke(app, ["keys", *map(str, words), "-d", str(site)], **options)
        assert result.exit_code == code, result.output
        return result

    run("create", "zone-a")
    return run


@pytest.fixture
def at_a_terminal(keys, site):
    """Run a command there, answering each question with the next key press."""

    def run(*words, presses):
        begin = "from server.cli.root import main; main()"
        command = [sys.executable, "-c", begin, "keys", *map(str, words)]
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*command, "-d", str(site)], stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = b""
        with process:
            try:
                while chunk := os.read(ours, 4096):
                    shown += chunk
                    if shown.endswith((b"the screen: ", b"the screen []: ")):
                        os.write(ours, presses.pop(0))
            except OSError:
                pass  # how Linux says that nobody writes to the terminal any more
        os.close(ours)
        return process.returncode, shown.decode()

    return run


def shares_in(shown):
    return re.findall(r"^[a-z ]{100,}$", shown.replace("\r", ""), re.MULTILINE)


def test_shares_are_shown_one_after_the_other_and_cleared_and_open_the_backup(
    at_a_terminal, keys, site, tmp_path
):
    code, shown = at_a_terminal(
        "backup", tmp_path / "backup", "--people", 2, presses=[b"\n", b"\n", b"\n", b"\n"]
    )
    assert code == 0, shown
    shares = shares_in(shown)
    assert len(set(shares)) == 2
    for _, after in zip(shares, shown.split("Written down?")[1:], strict=True):
        assert "\x1b[3J" in after
    assert "Any 2 of the 2 shares open it. With fewer it is worth nothing" in shown
    (site / "kek").write_text(secrets.token_hex(32))
    typed = "\n".join(shares) + "\n"
    assert "1 key versions" in keys("restore", tmp_path / "backup", input=typed).stdout


@pytest.mark.parametrize("presses", [[END], [b"\n", b"\n", b"\n", END]])
def test_breaking_off_while_shares_are_shown_leaves_no_backup(at_a_terminal, tmp_path, presses):
    code, shown = at_a_terminal("backup", tmp_path / "backup", "--people", 3, presses=presses)
    assert code != 0
    assert "no backup was made, and shares of it that somebody wrote down are worth noth" in shown
    assert not (tmp_path / "backup").exists()


def test_a_backup_that_can_not_be_written_leaves_no_share(keys, tmp_path, monkeypatch):
    def full(place, data):
        if place.name == "backup":
            raise OSError(28, "No space left on device", str(place))
        place.write_bytes(data)

    monkeypatch.setattr(key_backup, "write_durably", full)
    files = ("--share-file", tmp_path / "a", "--share-file", tmp_path / "b")
    said = keys("backup", tmp_path / "backup", "--people", 2, *files, code=1).stderr
    assert "no backup was made" in said
    assert not (tmp_path / "a").exists()


def test_a_backup_overwrites_nothing_and_shows_no_share_to_a_pipe(keys, tmp_path):
    file = tmp_path / "backup"
    keys("backup", file)
    first = file.read_bytes()
    assert f"{file} is there already" in keys("backup", file, code=1).stderr
    assert file.read_bytes() == first
    other, share = tmp_path / "other", tmp_path / "share"
    assert "on a terminal" in keys("backup", other, "--people", 3, code=1).stderr
    too_many = keys("backup", other, "--people", 2, "--needed", 3, code=1).stderr
    assert "3 of 2 shares can't be" in too_many
    one_file = ("--people", 3, "--share-file", share)
    assert "name one each" in keys("backup", other, *one_file, code=1).stderr
    twice = ("--people", 2, "--share-file", share, "--share-file", share)
    assert f"{share} is named twice" in keys("backup", other, *twice, code=1).stderr
    assert "--needed goes with --people" in keys("backup", other, "--needed", 2, code=1).stderr
    assert "there is no folder" in keys("backup", tmp_path / "no" / "b", code=1).stderr
    assert not other.exists()
    assert not share.exists()
    assert "ostiary keys backup" in keys("restore", "/etc/hostname", code=1).stderr


def test_a_restore_counts_what_was_missing_and_takes_no_shares_that_open_nothing(keys, tmp_path):
    file, share = tmp_path / "backup", tmp_path / "share"
    keys("backup", file)
    assert "Nothing was missing" in keys("restore", file).stdout
    share.write_text("a share")
    said = keys("restore", file, "--share-file", share, code=1).stderr
    assert "was made without shares" in said
    said = keys("restore", tmp_path / "nowhere", code=1).stderr
    assert said == f"error: {tmp_path / 'nowhere'}: No such file or directory\n"


def test_shares_come_from_standard_input_where_there_is_no_terminal(keys, tmp_path):
    shares = [tmp_path / "a", tmp_path / "b"]
    files = [word for share in shares for word in ("--share-file", share)]
    keys("backup", tmp_path / "backup", "--people", 2, *files)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keys("restore", tmp_path / "backup", input="".join(s.read_text() for s in shares))
        said = keys("restore", tmp_path / "backup", input=shares[0].read_text(), code=1).stderr
    assert "Share 2 of 2 is not there" in said
