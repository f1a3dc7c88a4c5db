"""`ostiary cards`: which cards are bound where, and binding and unbinding them at a door."""

from __future__ import annotations

import json
import time
from enum import IntEnum
from typing import Annotated, Any, Literal, NoReturn

import httpx
import typer
from rich.table import Table
from rich.text import Text

from server.cli import transport
from server.cli.console import DEFAULT_SITE_DIR, SiteDir, confirm, err, fail, out
from server.cli.remote import Refused, Remote, Url, remote
from server.ingest.alarms import printable

app = typer.Typer(help="Binding cards to doors.", no_args_is_help=True)
app.add_typer(transport.app, name="transport")
BINDINGS = "/api/v1/bindings"
POLL_S = 1.0


class Outcome(IntEnum):
    """The exit code of `bind` and `unbind`."""

    DONE = 0
    REFUSED = 1
    NOT_SENT = 3
    UNCONFIRMED = 4
    NOT_BOUND = 5


_REFUSALS = {"not-connected": Outcome.NOT_SENT, "unconfirmed": Outcome.UNCONFIRMED}
_WORDS = {
    "nobody_came": "no new card was held to the reader; cards bound there are let in as usual",
    "replaced": "another window was opened at this reader",
    "unknown_key": "its transport key is not known: `ostiary cards transport import`",
    "other_person": "it is another person's",
    "other_card": "the window is for another card",
    "key_version_retired": "the door asks for keys that are revoked or retired: rotate them first",
    "card_not_active": "it is revoked, lost, stolen, damaged or suspended",
    "window_closed": "the window was over",
    "element_unavailable": "the lock's ESAM can't be used at the moment",
    "timed_out": "it took too long: hold it there again",
    "blocked": "its transport key has no tries left: it can be bound nowhere any more",
    "card_full": "it has no room for another door's keys",
    "not_kept": "the door's disk did not take the event: hold it there again",
    "esam_refused": "the key authority does not know the lock's ESAM for this domain",
    "binding_ended": "its binding was ended while the window was open: open another",
    "failed": "the server failed: see its log",
    "transport_key_refused": "its transport key is another: see the maker's list",
    "not_our_card": "it is no card of this system",
    "card_removed": "it was taken away too soon: hold it there again",
    "no_connection": "the door has no connection to the server",
    "no_answer": "the server did not answer the door in time",
}

Door = Annotated[str, typer.Option("--door", help="At which door.")]
Direction = Annotated[
    Literal["in", "out"], typer.Option(help="At which of its readers: `in` is outside.")
]
For = Annotated[
    int, typer.Option("--for", min=5, max=60, help="For how many seconds the window is open.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Card = Annotated[str, typer.Argument(help="The card: 16 hex digits.")]


@app.command("list")
def list_command(  # noqa: PLR0917 typer passes options by name
    card: Annotated[str | None, typer.Option(help="Only of this card.")] = None,
    person: Annotated[str | None, typer.Option(help="Only of this person's cards.")] = None,
    domain: Annotated[str | None, typer.Option(help="Only of this key domain.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Show which cards are bound in which key domains, and to which key version."""
    query = {"card": card and card.lower(), "person": person, "domain": domain, "limit": 1000}
    with remote(site_dir, url) as client:
        items = list(client.items(BINDINGS, **query))
    if as_json:
        typer.echo(json.dumps(items))
        return
    if not items:
        err.print("No such card is bound. Bind one with: ostiary cards bind PERSON --door DOOR")
        return
    table = Table("card", "person", "domain", "key version", "since", box=None)
    for each in items:
        other = each["other_version"]
        version = str(each["key_version"]) + ("" if other is None else f" (and {other})")
        words = (each["card"], each["person"] or "-", each["domain"], version, each["time"])
        table.add_row(*(Text(printable(word)) for word in words))
    out.print(table)


@app.command()
def bind(  # noqa: PLR0917 typer passes options by name
    person: Annotated[str, typer.Argument(help="Whose card it is to be.")],
    door: Door,
    direction: Direction = "in",
    seconds: For = 60,
    card: Annotated[str | None, typer.Option(help="No other card than this one.")] = None,
    as_json: Json = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Bind the next new card that is held to a reader: it becomes the person's.

    Waits until a card is bound or the window is over. Exit code 0: it is bound; 1: refused; 3: the
    door can't be reached; 4: it did not answer, or the server was lost; 5: no card was bound.
    """
    order: dict[str, Any] = {"kind": "bind", "person": person, "card": card and card.lower()}
    order |= {"direction": direction, "seconds": seconds}
    with remote(site_dir, url) as client:
        ended = _window(client, door, order, f"a new card of {person}")
    _conclude(ended, as_json)


@app.command()
def unbind(  # noqa: PLR0917 typer passes options by name
    card: Card,
    door: Annotated[str | None, typer.Option("--door", help="The card is held to it.")] = None,
    direction: Direction = "in",
    seconds: For = 60,
    lost: Annotated[bool, typer.Option("--lost", help="The card is not at hand.")] = False,
    domain: Annotated[
        str | None, typer.Option(help="With --lost: only of this key domain; none: of all.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --lost: don't ask.")] = False,
    as_json: Json = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Erase a door's keys from a card (--door), or let no door of a domain take it (--lost).

    Exit codes as of `bind`.
    """
    if lost and door is not None:
        fail("use --door or --lost, not both: --lost is for a card that is not at hand")
    if not lost and door is None:
        fail("say --door DOOR if the card can be held to it, or --lost if it is not at hand")
    if domain is not None and not lost:
        fail("--domain goes with --lost: at a door it is the door's own")
    card = card.lower()
    with remote(site_dir, url) as client:
        if door is None:
            _forget(client, card, domain, yes, as_json)
            return
        order = {"kind": "unbind", "card": card, "direction": direction, "seconds": seconds}
        ended = _window(client, door, order, f"the card {card}")
    _conclude(ended, as_json)


def _forget(client: Remote, card: str, domain: str | None, yes: bool, as_json: bool) -> None:
    found = list(client.items(BINDINGS, card=card, domain=domain))
    if not found:
        fail(f"card {card} is not bound" + ("" if domain is None else f" in {domain}"))
    domains = [each["domain"] for each in found]
    if not yes:
        confirm(f"Let no door of {', '.join(domains)} take card {card} any more?")
    for each in domains:
        client.delete(f"/api/v1/cards/{card}/bindings/{each}")
    if as_json:
        typer.echo(json.dumps({"card": card, "domains": domains}))
        return
    out.print(f"Card {card} is unbound in {', '.join(domains)}.", markup=False)
    err.print(
        "Its keys stay on it. If it may be in the wrong hands, deny it as well: "
        f"ostiary revoke {card} --reason lost",
        markup=False,
    )


def _window(client: Remote, door: str, order: dict[str, Any], whom: str) -> dict[str, Any]:
    """Open a window and wait until it is over."""
    named = "card" if order["kind"] == "unbind" else "person"
    after = f"What came of it: ostiary cards list --{named} {order[named]}"
    try:
        opened = client.post(f"/api/v1/doors/{door}/windows", order)
    except Refused as refusal:
        unsure = refusal.kind == "unconfirmed"
        err.print(f"[bold red]not {'confirmed' if unsure else 'opened'}:[/] ", end="")
        err.print(str(refusal), markup=False)
        raise typer.Exit(_REFUSALS.get(refusal.kind, Outcome.REFUSED)) from None
    except httpx.ConnectError:
        raise  # nothing was sent
    except httpx.HTTPError:
        _lost(f"The window may be open, and closes by itself after {order['seconds']} s. {after}")
    closes = f"The window closes by itself at {opened['until']}; until then a card is still taken."
    try:
        return _follow(client, opened["command"], order["seconds"], f"{door}: hold {whom}")
    except KeyboardInterrupt:
        err.print(f"{closes} {after}", markup=False)
        raise typer.Exit(130) from None
    except httpx.HTTPError:
        _lost(f"{closes} {after}")


def _lost(what_now: str) -> NoReturn:
    err.print("[bold red]not known:[/] the server does not answer any more; see its log.")
    err.print(what_now, markup=False)
    raise typer.Exit(Outcome.UNCONFIRMED)


def _follow(client: Remote, command: str, seconds: int, what: str) -> dict[str, Any]:
    end_s = time.monotonic() + seconds
    seen = 0
    with err.status("") as status:
        while True:
            left = max(0, round(end_s - time.monotonic()))
            status.update(Text(f"{what} to the reader that blinks; {left} s left"))
            found: dict[str, Any] = client.get(f"/api/v1/windows/{command}", wait=POLL_S, seen=seen)
            if found["state"] != "open":
                return found
            if found["news"] != seen:
                seen = found["news"]
                err.print(f"not done: {_why(found)}", style="yellow", markup=False)


def _why(window: dict[str, Any]) -> str:
    outcome, detail = str(window["outcome"]), window["detail"]
    card = f"card {window['came']}: " if window["came"] else ""
    words = _WORDS.get(outcome, outcome.replace("_", " "))
    if outcome == "nobody_came" and window["kind"] == "unbind":
        words = "the card was not held to the reader"
    return printable(f"{card}{words}" + (f" ({detail})" if detail not in ("", words) else ""))


def _conclude(window: dict[str, Any], as_json: bool) -> NoReturn:
    state = window["state"]
    if as_json:
        typer.echo(json.dumps(window))
    elif state == "bound":
        text = f"Card {window['came']} is {window['person']}'s, bound in {window['domain']}."
        out.print(text, markup=False)
    elif state == "unbound":
        out.print(f"Card {window['came']} is unbound in {window['domain']}.", markup=False)
    if state in ("bound", "unbound"):
        raise typer.Exit(Outcome.DONE)
    done = "unbound" if window["kind"] == "unbind" else "bound"
    why = _why(window) if window["outcome"] else "the door has not said what came of it"
    err.print(f"[bold red]no card was {done}:[/] ", end="")
    err.print(why, markup=False)
    raise typer.Exit(Outcome.REFUSED if state == "refused" else Outcome.NOT_BOUND)
