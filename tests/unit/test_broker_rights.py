"""What the server writes down of who is admitted, for the built-in broker to read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from server.broker.rights import AdmittedFile, admitted_file, read_admitted
from server.site import SiteError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return admitted_file(tmp_path)


async def test_names_are_added_and_removed_one_by_one(file):
    rights = AdmittedFile("demo", file)
    await rights.admit("front")
    await rights.admit("back")
    await rights.expel("front")
    assert read_admitted(file) == {"back"}


async def test_two_changes_at_once_are_both_made(file):
    rights = AdmittedFile("demo", file)
    await asyncio.gather(*(rights.admit(f"agent-{number}") for number in range(20)))
    assert len(read_admitted(file)) == 20


async def test_a_file_that_says_the_same_is_left_alone(file):
    rights = AdmittedFile("demo", file)
    await rights.reconcile(["front"])
    before = file.stat()
    await rights.reconcile(["front"])
    assert file.stat().st_ino == before.st_ino


async def test_reconciling_replaces_a_file_that_can_not_be_read(file):
    file.parent.mkdir()
    file.write_text("{")
    rights = AdmittedFile("demo", file)
    with pytest.raises(ConnectionError, match="not a list of agents"):
        await rights.admit("front")
    await rights.reconcile(["front"])
    assert json.loads(file.read_text()) == ["front"]


async def test_a_file_that_can_not_be_written_is_a_broker_that_was_not_told(file):
    file.parent.write_text("in the way")
    with pytest.raises(ConnectionError):
        await AdmittedFile("demo", file).reconcile(["front"])


@pytest.mark.parametrize("content", ["", "{}", '["Front"]', '["a/b"]', "[1]", '"front"'])
def test_what_is_no_list_of_agents_lets_nobody_in(file, content):
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(SiteError, match="not a list of agents"):
        read_admitted(file)


def test_no_file_lets_nobody_in(file):
    assert read_admitted(file) == frozenset()
