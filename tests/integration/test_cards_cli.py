"""`ostiary cards` against a server that answers over a socket, and against a site on disk."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from types import SimpleNamespace
from unittest.mock import AsyncMock, patch

import httpx
import pytest
from sqlalchemy import insert
from typer.testing import CliRunner

from schemas.command import Command
from schemas.envelope import unverified_payload
from schemas.statement import parse_statement, payload_type
from server.cli import cards
from server.cli.remote import Remote
from server.cli.root import app
from server.distribution.commands import CommandResult, Session
from server.model.bindings import bind
from server.model.bound import Bound
from server.site import create_site
from server.store.database import open_database
from server.store.model_tables import persons
from server.store.windows import note_given
from tests.integration.test_orders_cli import terminal
from tests.orders_rig import MOMENT
from tests.transport_rig import event

CARD = "0102030405060708"
KEY = "f0" * 16
ROUND_S = 0.2


@pytest.fixture
async def ostiary(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "POLL_S", ROUND_S)
    async with terminal(tmp_path) as made:
        async with made.site.site.engine.begin() as connection:
            values = {"id": "mei", "name": "Mei", "note": "", "cleared": 0, "revision": 1}
            await connection.execute(insert(persons).values(values))
        made.site.orders.sessions["front-agent"] = Session("5e" * 8, 0)
        made.site.site.state.clock = made.site.orders.clock
        yield made


async def command(ostiary):
    """The door takes the next command, and opens the window."""
    site = ostiary.site
    _, payload, _ = (await site.orders.broker.until(1))[-1]
    taken = parse_statement(
        unverified_payload(payload, payload_type("command"), max_bytes=10_000), Command
    )
    said = {"command": taken.id, "action": taken.action, "door": taken.door, "latency_ms": 1.0}
    said["clock"] = {"status": "synced"}
    site.orders.commands.result("command.executed", said, "front-agent")
    return taken


async def says(ostiary, name, taken, *, gave=False, **data):
    """The door's event is committed; before it, the server gave the card's key."""
    said = event(name, command=taken.id, domain="front", **data)
    rows = [SimpleNamespace(source="front-agent", link=SimpleNamespace(event=said))]
    async with ostiary.site.site.engine.begin() as connection:
        if gave:
            await note_given(connection, taken.id, data["card"])
        await Bound(ostiary.site.orders.clock).project(connection, rows)
    ostiary.site.site.hub.committed(ostiary.site.site.hub.position + 1)


async def test_binding_waits_for_the_card_and_tells_of_the_wrong_one(ostiary, monkeypatch):
    shown, why = threading.Event(), cards._why

    def said(window):
        shown.set()
        return why(window)

    monkeypatch.setattr(cards, "_why", said)
    asking = asyncio.create_task(ostiary("cards", "bind", "mei", "--door", "front"))
    taken = await command(ostiary)
    outcome = {"outcome": "other_person", "detail": "by the server", "person": "mei"}
    await says(ostiary, "card.not_bound", taken, card="ff" * 8, **outcome)
    assert await asyncio.to_thread(shown.wait, 20)
    await says(ostiary, "card.bound", taken, card=CARD, gave=True)
    done = await asking
    assert done.exit_code == 0, done.stderr
    assert f"card {'ff' * 8}: it is another person's (by the server)" in done.stderr
    assert f"Card {CARD} is mei's, bound in front." in done.stdout
    listed = await ostiary("cards", "list", "--person", "mei")
    assert CARD in listed.stdout
    as_json = json.loads((await ostiary("cards", "list", "--json")).stdout)
    assert [(each["card"], each["person"]) for each in as_json] == [(CARD, "mei")]


async def test_a_window_that_nobody_came_to_has_an_exit_code_of_its_own(ostiary):
    asking = asyncio.create_task(ostiary("cards", "bind", "mei", "--door", "front", "--json"))
    taken = await command(ostiary)
    outcome = {"outcome": "nobody_came", "detail": "", "person": "mei"}
    await says(ostiary, "card.not_bound", taken, card=None, **outcome)
    done = await asking
    assert done.exit_code == 5
    assert "no card was bound: no new card was held to the reader; cards bound" in done.stderr
    assert json.loads(done.stdout)["state"] == "not_bound"


async def test_a_door_that_is_away_is_told_of(ostiary):
    ostiary.site.orders.sessions.clear()
    done = await ostiary("cards", "bind", "mei", "--door", "front")
    assert done.exit_code == 3
    assert "not opened" in done.stderr
    done = await ostiary("cards", "bind", "nobody", "--door", "front")
    assert done.exit_code == 1
    assert "there is no person nobody" in done.stderr


async def test_ctrl_c_says_when_the_window_closes_by_itself(ostiary, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cards, "_follow", interrupted)
    asking = asyncio.create_task(ostiary("cards", "bind", "mei", "--door", "front"))
    taken = await command(ostiary)
    done = await asking
    assert done.exit_code == 130
    assert "closes by itself at 2026-11-24T08:16:30" in done.stderr
    assert "ostiary cards list --person mei" in done.stderr
    assert taken.id not in done.stderr


async def test_a_server_that_is_lost_while_a_window_is_open_leaves_open_what_came_of_it(
    ostiary, monkeypatch
):
    def lost(*_, **__):
        raise httpx.RemoteProtocolError("Server disconnected without sending a response.")

    monkeypatch.setattr(cards, "_follow", lost)
    asking = asyncio.create_task(ostiary("cards", "bind", "mei", "--door", "front"))
    await command(ostiary)
    done = await asking
    assert done.exit_code == 4
    assert "closes by itself at 2026-11-24T08:16:30" in done.stderr
    monkeypatch.setattr(Remote, "post", lost)
    done = await ostiary("cards", "bind", "mei", "--door", "front", "--for", "30")
    assert done.exit_code == 4
    assert "may be open, and closes by itself after 30 s" in done.stderr


async def test_a_door_that_does_not_answer_may_have_opened_the_window(ostiary):
    unsure = CommandResult("unconfirmed", "no answer", expires=MOMENT)
    with patch.object(ostiary.site.site.state.commands, "send", AsyncMock(return_value=unsure)):
        done = await ostiary("cards", "bind", "mei", "--door", "front")
    assert done.exit_code == 4
    assert done.stderr.startswith("not confirmed: The door has not said")
    assert "may be until 2026-11-24T08:15:30" in done.stderr


def test_what_a_door_says_in_the_same_words_is_said_once():
    window = {"kind": "bind", "came": None, "outcome": "other_card"}
    window["detail"] = "the window is for another card"
    assert cards._why(window) == "the window is for another card"
    nobody = window | {"kind": "unbind", "outcome": "nobody_came", "detail": ""}
    assert cards._why(nobody) == "the card was not held to the reader"


async def test_a_card_is_unbound_at_the_door(ostiary):
    async with ostiary.site.site.engine.begin() as connection:
        await bind(connection, CARD, "front", 1, f"{'00' * 8}-1", MOMENT)
    words = ("cards", "unbind", CARD.upper(), "--door", "front")
    asking = asyncio.create_task(ostiary(*words))
    taken = await command(ostiary)
    await says(ostiary, "card.unbound", taken, card=CARD, at=MOMENT)
    done = await asking
    assert done.exit_code == 0, done.stderr
    assert f"Card {CARD} is unbound in front." in done.stdout
    empty = await ostiary("cards", "list")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "ostiary cards bind" in empty.stderr


async def test_a_card_that_is_lost_is_unbound_after_a_question(ostiary):
    async with ostiary.site.site.engine.begin() as connection:
        for domain in ("front", "back"):
            await bind(connection, CARD, domain, 1, f"{'00' * 8}-1", MOMENT)
    no = await ostiary("cards", "unbind", CARD, "--lost", answer="n\n")
    assert no.exit_code != 0
    assert len(json.loads((await ostiary("cards", "list", "--json")).stdout)) == 2
    one = await ostiary("cards", "unbind", CARD, "--lost", "--domain", "back", "--yes")
    assert (one.exit_code, one.stdout) == (0, f"Card {CARD} is unbound in back.\n")
    assert f"ostiary revoke {CARD} --reason lost" in one.stderr
    yes = await ostiary("cards", "unbind", CARD, "--lost", answer="y\n")
    assert yes.exit_code == 0, yes.stderr
    again = await ostiary("cards", "unbind", CARD, "--lost")
    assert (again.exit_code, again.stderr) == (1, f"error: card {CARD} is not bound\n")


async def test_unbinding_is_at_a_door_or_without_the_card(ostiary):
    for words in ((), ("--door", "front", "--lost"), ("--door", "front", "--domain", "x")):
        done = await ostiary("cards", "unbind", CARD, *words)
        assert done.exit_code == 1
        assert "--lost" in done.stderr


# Transport keys, on the site itself.


@pytest.fixture
async def site(tmp_path):
    path = tmp_path / "site"
    made = create_site(path, "demo", "gm", secrets.token_bytes, {})
    await (await open_database(made.database)).dispose()
    return path


@pytest.fixture
def on_site(site):
    def run(*words, answer=None):
        runner = CliRunner(env={"OSTIARY_SITE_DIR": str(site), "COLUMNS": "200"})
        return runner.invoke(app, ["cards", "transport", *words], input=answer)

    return run


def private(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    return str(path)


def test_a_list_is_imported_and_what_is_there_is_shown(on_site, tmp_path):
    empty = on_site("list")
    assert empty.exit_code == 0
    assert "No transport key is known" in empty.stderr
    file = private(tmp_path / "list.csv", f"card,transport_key\n{CARD},{KEY}\n".encode())
    done = on_site("import", file)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "1 cards are new, 0 replaced, 0 were known.\n"
    assert "0 were known" not in on_site("import", file).stdout
    assert json.loads(on_site("list", "--json").stdout) == {
        "listed": 1,
        "kept": 0,
        "master": None,
        "default": False,
    }
    other = private(tmp_path / "other.csv", f"{CARD},{'ab' * 16}\n".encode())
    refused = on_site("import", other)
    assert refused.exit_code == 1
    assert f"another transport key is known of {CARD}." in refused.stderr
    assert "1 replaced" in on_site("import", other, "--replace").stdout


def test_a_file_that_is_no_list_or_open_to_others_is_refused_without_showing_it(on_site, tmp_path):
    file = tmp_path / "list.csv"
    private(file, f"{CARD},{KEY}\n{CARD},{KEY[1:]}\n".encode())
    done = on_site("import", str(file))
    assert done.exit_code == 1
    assert f"{file}: line 2 is not a card" in done.stderr
    assert KEY[:8] not in done.output
    file.chmod(0o644)
    assert "others may read it" in on_site("import", str(file)).stderr
    assert "No such file" in on_site("import", str(tmp_path / "none.csv")).stderr


def test_a_master_key_is_read_from_a_file_or_typed_and_forgotten_again(on_site, tmp_path):
    done = on_site("master", private(tmp_path / "key", bytes.fromhex(KEY)), "--suite", "intl")
    assert done.exit_code == 0, done.stderr
    assert json.loads(on_site("list", "--json").stdout)["master"] == "intl"
    assert "--replace" in on_site("master", answer=f"{KEY}\n").stderr
    assert on_site("master", "--replace", answer=f"{KEY}\n").exit_code == 0
    assert json.loads(on_site("list", "--json").stdout)["master"] == "gm"
    short = on_site("master", answer="f0f0\n")
    assert (short.exit_code, "32 hex digits" in short.stderr) == (1, True)
    gone = on_site("forget", "master", "--yes")
    assert gone.exit_code == 0, gone.stderr
    assert on_site("forget", "master", "--yes").exit_code == 1


def test_a_default_is_asked_about_first(on_site, tmp_path):
    file = private(tmp_path / "key", KEY.encode())
    assert on_site("default", file, answer="n\n").exit_code != 0
    assert "default     none" in on_site("list").stdout
    assert on_site("default", file, "--yes").exit_code == 0
    assert "trust on first use" in on_site("list").stdout


def test_the_commands_say_what_they_do():
    for words in (["cards"], ["cards", "bind"], ["cards", "unbind"], ["cards", "transport"]):
        done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "120"})
        assert (done.exit_code, "Usage" in done.output) == (0, True)
