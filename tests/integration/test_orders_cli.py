"""`ostiary revoke`, `lockdown` and `doors` against a server that answers over a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from schemas.command import Action
from server.cli.root import app
from server.distribution.commands import CommandResult, Session
from tests.sample_site import LOCAL_TOKEN, serving
from tests.served_orders import Served, served

CARD = "01" * 8


class Terminal:
    """Runs `ostiary` as an operator elsewhere does: by URL and token."""

    def __init__(self, site: Served, url: str) -> None:
        self.site, self.url = site, url

    async def __call__(self, *words: str, answer: str | None = None) -> Result:
        environ = {"OSTIARY_URL": self.url, "OSTIARY_TOKEN": LOCAL_TOKEN, "COLUMNS": "200"}
        return await asyncio.to_thread(
            CliRunner().invoke, app, list(words), input=answer, env=environ
        )


@asynccontextmanager
async def terminal(path: Path) -> AsyncIterator[Terminal]:
    async with served(path) as site, serving(site.site) as url:
        yield Terminal(site, url)


@pytest.fixture
async def ostiary(tmp_path):
    async with terminal(tmp_path) as made:
        yield made


async def test_a_revocation_is_durable_when_the_command_ends(ostiary):
    done = await ostiary("revoke", CARD.upper(), "--person", "mei", "--reason", "lost")
    assert done.exit_code == 0, done.stderr
    assert "entry 1" in done.stderr
    assert f"The model knows no card {CARD}" in done.stderr
    assert ostiary.site.orders.revocations.head.sequence == 2
    again = await ostiary("revoke", CARD, "--reason", "lost")
    assert "was revoked before, by entry 1" in again.stderr
    listed = await ostiary("revocations", "list", "--json")
    assert [e["subject"] for e in json.loads(listed.stdout)] == [CARD, "mei"]
    only = await ostiary("revocations", "list", "--person", "mei")
    assert "mei" in only.stdout
    assert CARD not in only.stdout


async def confirmed_once_broadcast(site: Served, *agents: str) -> None:
    """The agents get the broadcast, and their receipts come back."""
    await site.orders.broker.until(1)
    for agent in agents:
        await site.confirm(agent, site.orders.revocations.head.sequence)


async def test_a_card_that_was_revoked_and_is_not_in_the_model_is_added_first(
    ostiary,
):
    never = await ostiary("reinstate", "card", CARD)
    assert f"there is no card {CARD}" in never.stderr
    await ostiary("revoke", CARD)
    revoked = await ostiary("reinstate", "card", CARD)
    assert revoked.exit_code == 1
    assert "is not in the model" in revoked.stderr
    assert "`ostiary apply`" in revoked.stderr


async def test_waiting_ends_when_every_door_has_confirmed(ostiary):
    asking = asyncio.create_task(ostiary("revoke", CARD, "--wait", "--json"))
    await confirmed_once_broadcast(ostiary.site, "front-agent", "back-agent")
    done = await asking
    assert done.exit_code == 0, done.stderr
    assert "2 of 2 agents have confirmed" in done.stderr
    assert json.loads(done.stdout)["confirmed"] == 2


async def test_waiting_does_not_wait_for_doors_that_are_away_and_says_which(ostiary):
    ostiary.site.heard.states["back-agent"] = "offline"
    asking = asyncio.create_task(ostiary("revoke", CARD, "--wait"))
    await confirmed_once_broadcast(ostiary.site, "front-agent")
    done = await asking
    assert done.exit_code == 3
    assert "back-agent" in done.stderr
    assert "front-agent" not in done.stderr.partition("Not online")[2]


async def test_a_door_that_is_there_and_does_not_confirm_in_time_is_named(ostiary):
    await ostiary.site.confirm("back-agent", 1)
    done = await ostiary("revoke", CARD, "--wait", "--timeout", "0")
    assert done.exit_code == 4
    assert "not confirmed" in done.stderr
    assert "front-agent" in done.stderr


@pytest.mark.parametrize("words", [[], ["mei"], ["--person", "Mei!"], ["--key-version", "front"]])
async def test_what_names_nobody_is_refused_before_the_server_is_asked(ostiary, words):
    done = await ostiary("revoke", *words)
    assert done.exit_code == 1
    assert "error:" in done.stderr
    assert ostiary.site.orders.revocations.head.sequence == 0


async def test_a_lockdown_is_ended_only_by_one_who_means_it(ostiary):
    began = await ostiary("lockdown", "start", "area", "lab", "--exempt", "guards")
    assert began.exit_code == 0, began.stderr
    name = began.stdout.strip()
    assert name in (await ostiary("lockdown", "list")).stdout
    kept = await ostiary("lockdown", "end", name, answer="n\n")
    assert kept.exit_code == 1
    assert len(ostiary.site.orders.lockdowns.active) == 1
    ended = await ostiary("lockdown", "end", name, answer="y\n")
    assert ended.exit_code == 0, ended.stderr
    assert ostiary.site.orders.lockdowns.active == ()
    assert "No lockdown" in (await ostiary("lockdown", "list")).stderr
    gone = await ostiary("lockdown", "end", name, "--yes")
    assert gone.exit_code == 1
    history = json.loads((await ostiary("lockdown", "list", "--ended", "--json")).stdout)
    assert [each["ended_by"] for each in history] == ["local"]


async def test_all_lockdowns_can_be_ended_at_once_and_one_must_be_named_otherwise(ostiary):
    await ostiary("lockdown", "start", "site")
    await ostiary("lockdown", "start", "door", "front")
    assert (await ostiary("lockdown", "end", "--yes")).exit_code == 1
    assert (await ostiary("lockdown", "end", "--all", "--yes")).exit_code == 0
    assert ostiary.site.orders.lockdowns.active == ()


async def test_a_lockdown_of_a_door_that_is_not_there_is_an_error(ostiary):
    done = await ostiary("lockdown", "start", "door", "attic")
    assert done.exit_code == 1
    assert "there is no door attic" in done.stderr


class Sent:
    """Stands for the commands: what was asked, and the answer to give."""

    def __init__(self, answer: CommandResult) -> None:
        self.answer = answer
        self.asked: list[tuple[object, ...]] = []

    async def send(self, door, action, by, *, until):
        self.asked.append((door, action, until is not None))
        return self.answer

    async def reboot(self, agent, by):
        self.asked.append((agent, Action.REBOOT, False))
        return self.answer


DONE = CommandResult("executed", "done", "00" * 8, "front-agent", operator_to_strike_ms=42.4)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["doors", "pulse", "front"], ("front", Action.PULSE, False)),
        (["doors", "unlock", "front", "--for", "10m"], ("front", Action.UNLOCK, True)),
        (
            ["doors", "unlock", "front", "--until", "2026-11-24T18:00:00+08:00"],
            ("front", Action.UNLOCK, True),
        ),
        (["doors", "lock", "front"], ("front", Action.LOCK, False)),
        (["doors", "block", "front", "--for", "2h"], ("front", Action.BLOCK, True)),
        (["doors", "normal", "front"], ("front", Action.NORMAL, False)),
        (["doors", "identify", "front"], ("front", Action.IDENTIFY, False)),
        (["agents", "reboot", "front-agent"], ("front-agent", Action.REBOOT, False)),
    ],
)
async def test_each_command_reaches_its_door(ostiary, words, asked):
    sent = ostiary.site.site.state.commands = Sent(DONE)
    done = await ostiary(*words)
    assert done.exit_code == 0, done.stderr
    assert "42 ms after you asked" in done.stdout
    assert sent.asked == [asked]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (CommandResult("refused", "too late", reason="Expired"), 1),
        (CommandResult("not_sent", "front-agent is away"), 3),
        (CommandResult("unconfirmed", "no answer"), 4),
    ],
)
async def test_what_came_of_a_command_is_its_exit_code(ostiary, answer, code):
    ostiary.site.site.state.commands = Sent(answer)
    done = await ostiary("doors", "pulse", "front")
    assert done.exit_code == code
    assert answer.detail in done.stderr
    assert done.stderr.startswith("not confirmed:" if code == 4 else "not done:")


@pytest.mark.parametrize(
    "words",
    [
        ["unlock", "front"],
        ["unlock", "front", "--for", "ten minutes"],
        ["unlock", "front", "--until", "2026-11-24T18:00:00"],
        ["unlock", "front", "--until", "tonight"],
        ["lock", "front", "--for", "1h", "--until", "2026-11-24T18:00:00Z"],
    ],
)
async def test_a_time_that_is_not_clear_is_refused_before_anything_is_sent(ostiary, words):
    ostiary.site.orders.sessions["front-agent"] = Session("5e" * 8, 0)
    done = await ostiary("doors", *words)
    assert done.exit_code == 1
    assert ostiary.site.orders.broker.messages == []
